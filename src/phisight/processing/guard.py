"""What a picture's file may cost a decoder beyond its pixels: pieces, scans, segments, tiles.

The cap on pixels does not bound time: 1 MB of empty JPEG scans keeps a decoder busy for minutes,
64 MB of small chunks for 20 s. Owns these limits; knows nothing of pixels.
"""

from __future__ import annotations

import io
import re
import struct
from typing import NoReturn

from phisight.errors import ImageError

MAX_PIECES = 1_000_000  # reads, or JPEG segments: 2 s or less. A PNG of 100 MB makes some 40,000.
# As libtiff allows; a progressive JPEG has some 10. At the cap on pixels each takes 6 ms and more.
MAX_SCANS = 100
MAX_EXIF = 100  # segments of up to 64 KiB; Pillow joins them in a time of their number's square
MAX_TILES = 100_000  # or strips, of a TIFF: 1 s. One for each row of a picture is less.

_JPEG = b"\xff\xd8"
# A segment's marker; not one of those that stand in a scan's data or have no length.
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_END, _SCAN, _EXIF = b"\xd9", b"\xda", b"\xe1"
_LONGEST_JPEG = 2**28  # bytes looked through: more than the pixels of the largest picture

# All that Pillow takes for a TIFF. Like Pillow, we look for "+" in the third byte only.
_TIFF = (b"II*\0", b"II\0*", b"MM\0*", b"MM*\0", b"II+\0", b"MM\0+")
# Place of the first directory's offset, and formats: that offset, the number of a directory's
# entries, an entry (tag, type, count of values, their place).
_CLASSIC, _BIG = (4, "I", "H", "HHI4x"), (8, "Q", "Q", "HHQ8x")
_OFFSETS = (273, 324)  # of strips, of tiles


class MeteredReader(io.BufferedReader):
    """A picture's file that may be read from MAX_PIECES times; ImageError at the next.

    Raises ImageError at once for a JPEG or TIFF whose parts would keep a decoder busy.
    """

    def __init__(self, raw: io.RawIOBase | io.BytesIO, name: str) -> None:
        super().__init__(raw)
        self._picture, self._left = name, MAX_PIECES
        head = self.read(16)
        if head.startswith(_JPEG):
            _check_jpeg(head[len(_JPEG) :] + self.read(_LONGEST_JPEG), name)
        elif head.startswith(_TIFF):
            self._check_tiff(head)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            _refuse(self._picture, MAX_PIECES, "pieces")
        return super().read(size)

    def _check_tiff(self, head: bytes) -> None:
        """The directories of the first two pages: more are not looked at."""
        order = "<" if head.startswith(b"II") else ">"
        at, offset, number, entry = _BIG if head[2:3] == b"+" else _CLASSIC
        (place,) = struct.unpack_from(order + offset, head.ljust(16, b"\0"), at)
        for _ in range(2):
            self.seek(place)
            size = struct.calcsize(order + entry)
            entries = self.read(min(self._number(order + number), 2**16) * size)
            whole = len(entries) // size * size  # a cut one is the decoder's to judge
            for tag, _, count in struct.iter_unpack(order + entry, entries[:whole]):
                if tag in _OFFSETS and count > MAX_TILES:
                    _refuse(self._picture, MAX_TILES, "tiles")
            place = self._number(order + offset)
            if place == 0:
                return

    def _number(self, format: str) -> int:
        """The next number of the file; 0 beyond its end."""
        size = struct.calcsize(format)
        return int.from_bytes(
            self.read(size).ljust(size, b"\0"), "little" if format[0] == "<" else "big"
        )


def _check_jpeg(data: bytes, name: str) -> None:
    """Walk the segments of the first picture as libjpeg does, from the first marker on."""
    at, scans, exif = 0, 0, 0
    for _ in range(MAX_PIECES):
        segment = _SEGMENT.search(data, at)
        if segment is None or segment[1] == _END:
            return
        scans += segment[1] == _SCAN
        exif += segment[1] == _EXIF and data.startswith(b"Exif", segment.end() + 2)
        if scans > MAX_SCANS:
            _refuse(name, MAX_SCANS, "JPEG scans")
        if exif > MAX_EXIF:
            _refuse(name, MAX_EXIF, "EXIF segments")
        at = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2])
    _refuse(name, MAX_PIECES, "pieces")


def _refuse(name: str, limit: int, what: str) -> NoReturn:
    """Raise ImageError for a file that has more of something than any real picture."""
    raise ImageError(
        f"{name}: more than {limit:,} {what}, which no camera or editor writes; "
        "save the picture anew"
    )
