"""Files made to keep a decoder busy, and pictures whose metadata is odd but whose pixels are fine.

A file a thousand times slower than its size is refused by what makes it slow: what is counted here
is that, and no time, which is the machine's.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutations import saved, with_checksums
from PIL import Image, ImageOps
from reference.images import make_image

from phisight.cli.main import main
from phisight.errors import ImageError, PhisightWarning
from phisight.processing import guard
from phisight.processing.image import open_image

SMALL = Image.new("RGB", (8, 6), "red")
JPEG = saved(SMALL, "JPEG")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + bytes(4)


def png_with(chunks: bytes) -> bytes:
    data = saved(SMALL, "PNG")
    return with_checksums(data[:33] + chunks + data[33:])


def jpeg_with(marker: int, data: bytes, times: int = 1) -> bytes:
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    return JPEG[:2] + segment * times + JPEG[2:]


def scans(times: int) -> bytes:
    """A progressive JPEG with empty scans of the first component at its end."""
    data = saved(Image.new("L", (64, 64)), "JPEG", progressive=True)
    return data[:-2] + b"\xff\xda\0\x08\1\1\0\1\x3f\0\0" * times + data[-2:]


def tiff(pages: int, *, tiles: int = 1, order: str = "<", big: bool = False) -> bytes:
    """Pages of 8x8 grey pixels, all of the same strip; the last says it has so many strips."""
    offset, number, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 8, 279: 64}
    step = struct.calcsize("<" + number + entry * len(tags) + offset)
    mark = b"II" if order == "<" else b"MM"
    start = 16 if big else 8
    head = mark + struct.pack(
        order + ("HHHQ" if big else "HI"), *((43, 8, 0) if big else (42,)), start
    )
    for page in range(pages):
        last = page == pages - 1
        rows = [
            (
                tag,
                16 if big else 4,
                tiles if last and tag == 273 else 1,
                value or start + pages * step,
            )
            for tag, value in tags.items()
        ]
        head += struct.pack(order + number, len(rows))
        head += b"".join(struct.pack(order + entry, *row) for row in rows)
        head += struct.pack(order + offset, 0 if last else start + (page + 1) * step)
    return head + bytes(64)


EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
ZEROS = zlib.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (lambda: png_with(chunk(b"zTXt", b"k\0\0" + ZEROS)), "damaged or cut short"),
        (lambda: png_with(chunk(b"iCCP", b"k\0\0" + ZEROS)), "damaged or cut short"),
        (lambda: png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + ZEROS)), "damaged or cut short"),
        (lambda: png_with(chunk(b"tEXt", b"k\0" + b"a" * 10_000_000)), None),
        (lambda: png_with(chunk(b"eXIf", EXIF[6:] + bytes(10_000_000))), None),
        (lambda: jpeg_with(0xE1, EXIF.ljust(65_000, b"\0"), guard.MAX_EXIF), None),
        (lambda: jpeg_with(0xE1, EXIF, guard.MAX_EXIF + 1), "more than 100 EXIF segments"),
        (lambda: JPEG[:2] + b"\xff" * 1_100_000 + JPEG[2:], "more than 1,000,000 pieces"),
        (lambda: scans(80), None),
        (lambda: scans(guard.MAX_SCANS), "more than 100 JPEG scans"),
        (lambda: tiff(1, tiles=guard.MAX_TILES + 1), "more than 100,000 tiles"),
        (lambda: tiff(2, tiles=2**32 - 1, order=">"), "more than 100,000 tiles"),
        (lambda: tiff(1, tiles=2**63, big=True), "more than 100,000 tiles"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_what_would_take_long_does_not(data: object, refusal: str | None) -> None:
    content = data()  # type: ignore[operator]
    if refusal is None:
        assert open_image(content).mode == "RGB"
    else:
        with pytest.raises(ImageError) as caught:
            open_image(content)
        most = "which no camera or editor writes; save the picture anew"
        end = refusal if refusal.startswith("damaged") else f"{refusal}, {most}"
        start = "the picture is " if refusal.startswith("damaged") else ""
        assert str(caught.value) == f"{len(content)} bytes of data: {start}{end}"


@pytest.mark.parametrize(
    "content",
    [
        png_with(chunk(b"prVt", b"") * 1000),
        jpeg_with(0xFE, b"", 1001),
        saved(SMALL.convert("P"), "GIF")[:-1] + b"!\xf9\4" + b"\0" * 5 + b"!\xff" + b"\1a" * 1000,
    ],
    ids=["png", "jpeg", "gif"],
)
def test_pieces_of_all_kinds_count(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_PIECES", 1000)
    with pytest.raises(ImageError, match="more than 1,000 pieces, which no camera or editor wri"):
        open_image(content)


def animation(pages: int) -> bytes:
    frames = [Image.new("L", (30, 20), i % 256) for i in range(pages)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(("made", "pages"), [(animation, 500), (tiff, 10_000)])
def test_many_frames_cost_no_more_than_three(
    made: Callable[[int], bytes], pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = guard.MeteredReader.read
    monkeypatch.setattr(
        guard.MeteredReader, "read", lambda file, size=-1: reads.append(size) or read(file, size)
    )
    counts = []
    for number in (3, pages):
        reads.clear()
        with pytest.warns(PhisightWarning, match="more than one frame or page; only the first is"):
            open_image(made(number))
        counts.append(len(reads))
    assert 0 < counts[1] <= counts[0]


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiffs_of_every_kind_pass_the_guard(order: str, big: bool) -> None:
    assert open_image(tiff(1, order=order, big=big)).size == (8, 8)


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_pillow_turns_them(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    make_image(7, 5, 3).save(path, exif=exif)
    opened = open_image(path)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    assert (opened.size, opened.tobytes()) == (expected.size, expected.tobytes())
    again = ImageOps.exif_transpose(opened)  # turned once, for good
    assert again.tobytes() == opened.tobytes()


def odd_exif() -> bytes:
    """A turned picture whose Software is a fraction: Pillow cannot write that back."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    resolution, software = (struct.pack(">HHI", tag, 5, 1) for tag in (0x011A, 0x0131))
    return saved(SMALL, "JPEG", exif=exif).replace(resolution, software)


def test_odd_exif_does_not_cost_the_picture() -> None:
    content = odd_exif()
    with Image.open(io.BytesIO(content)) as image, pytest.raises(AttributeError):
        ImageOps.exif_transpose(image)
    assert open_image(content).size == (6, 8)


def test_damaged_exif_is_no_word_of_pillows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "phone.jpg"
    path.write_bytes(
        odd_exif().replace(struct.pack(">HHI", 0x0131, 5, 1), b"\x01\x31\0\5" + b"\xff" * 4)
    )
    with pytest.warns(UserWarning, match="Tag data larger than file"):
        open_image(path)
    monkeypatch.setattr(sys, "argv", ["phisight", "crops", str(path)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() sets its own
    with warnings.catch_warnings(), pytest.raises(SystemExit) as caught:
        main()
    assert (caught.value.code, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize("mode", ["RGBA", "P", "I;16"])
def test_bands_join_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures are converted a band of rows at a time."""
    image = make_image(31, 23, 4, mode="RGBA")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 201)
    content = saved(image.quantize(50) if mode == "P" else image, "PNG")
    whole = open_image(content).tobytes()
    monkeypatch.setattr("phisight.processing.image._BAND", 100)
    assert open_image(content).tobytes() == whole


def test_no_memory_is_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("0xdeadbeef")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    with pytest.raises(ImageError) as caught:
        open_image(saved(SMALL, "PNG"))
    assert re.fullmatch(
        r"\d+ bytes of data: no memory to decode it; scale the picture down", str(caught.value)
    )
