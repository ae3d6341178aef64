"""Small pictures of every format phisight reads, and ways to damage their files. By number."""

from __future__ import annotations

import functools
import io
import random
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

W, H = 61, 47  # found again in the headers, to be replaced


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def interlaced_png(grey: np.ndarray) -> bytes:
    """Pillow reads Adam7 but does not write it."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    rows = [row for y, x, dy, dx in (*passes, (1, 0, 2, 1)) for row in grey[y::dy, x::dx]]
    head = struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    parts = [struct.pack(">I", len(data)) + name + data + bytes(4) for name, data in chunks]
    return with_checksums(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the right checksums again, as far as its chunks can be followed."""
    fixed, at = bytearray(data), 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))[: len(data) - end]
        at = end + 4
    return bytes(fixed[: len(data)])


@functools.cache
def seeds() -> dict[str, bytes]:
    draw = np.random.default_rng(1)
    image = Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8)).resize((W, H))
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    frames = [image.rotate(90 * i) for i in (1, 2)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a maker", 72.0
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00", 0x829A: 0.01, 0x9286: b"a comment"}
    grey16 = Image.fromarray(draw.integers(0, 65536, (H, W), np.uint16))
    animated = {"save_all": True, "append_images": frames}
    return {
        "jpeg": saved(image, "JPEG"),
        "jpeg progressive": saved(image, "JPEG", progressive=True),
        "jpeg exif": saved(image, "JPEG", exif=exif),
        "jpeg cmyk": saved(image.convert("CMYK"), "JPEG"),
        "png": saved(image, "PNG"),
        "png clear": saved(clear, "PNG"),
        "png palette": saved(clear.quantize(16), "PNG"),
        "png 16 bits": saved(grey16, "PNG"),
        "png interlaced": interlaced_png(np.asarray(image.convert("L"))),
        "png animated": saved(image, "PNG", **animated),
        "webp": saved(image, "WEBP"),
        "webp animated": saved(clear, "WEBP", lossless=True, **animated),
        "gif animated": saved(image, "GIF", **animated),
        "bmp": saved(image, "BMP"),
        "bmp palette": saved(image.quantize(16), "BMP"),
        "tiff lzw pages": saved(image, "TIFF", compression="tiff_lzw", **animated),
        "tiff jpeg": saved(image, "TIFF", compression="jpeg"),
        "tiff fax": saved(image.convert("1"), "TIFF", compression="group4"),
        "tiff plain": saved(clear, "TIFF"),
        "avif": saved(image, "AVIF", speed=10),
    }


def flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        # Half of them near the start, where headers are.
        out[rng.randrange(min(len(out), rng.choice((128, 10**9))))] ^= rng.randrange(1, 256)
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def doubled(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.choices(range(len(data)), k=2))
    return rng.choice((data + data, data[:end] + data[at:end] * rng.choice((1, 50)) + data[end:]))


def spliced(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(list(seeds().values()))
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


SIZES = (0, 1, 2, 60, 100, 5000, 9000, 16383, 30000, 65535, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def threes(*values: int) -> bytes:
    return b"".join(value.to_bytes(3, "little") for value in values)


def resized(data: bytes, rng: random.Random) -> bytes:
    """Another width and height, wherever they stand in any of the formats."""
    w, h = rng.choice(SIZES), rng.choice(SIZES)
    short, three, long = 2**16 - 1, 2**24 - 1, 2**32 - 1
    for old, new in (
        (struct.pack(">HH", H, W), struct.pack(">HH", h & short, w & short)),
        (struct.pack("<HH", W, H), struct.pack("<HH", w & short, h & short)),
        (struct.pack(">II", W, H), struct.pack(">II", w & long, h & long)),
        (struct.pack("<II", W, H), struct.pack("<II", w & long, h & long)),
        (struct.pack("<HIHH", 3, 1, W, 0), struct.pack("<HII", 4, 1, w & long)),
        (struct.pack("<HIHH", 3, 1, H, 0), struct.pack("<HII", 4, 1, h & long)),
        (threes(W - 1, H - 1), threes(w & three, h & three)),  # WebP's, less 1
    ):
        data = data.replace(old, new)
    return with_checksums(data)


PIECES = re.compile(
    rb"(?=\xff[\xc0-\xfe]|....(?:IHDR|PLTE|tRNS|IDAT|IEND|fcTL|fdAT|ispe|mdat|iloc)|VP8|ANI|!\xf9|,)",
    re.DOTALL,
)


def without_pieces(data: bytes, rng: random.Random) -> bytes:
    """Some chunk or segment left out, or two of them swapped."""
    pieces = PIECES.split(data)
    a, b = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    if rng.random() < 0.5:
        pieces[a], pieces[b] = pieces[b], pieces[a]
    else:
        del pieces[a]
    return b"".join(pieces)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    at, byte = rng.randrange(len(data)), rng.choice((b"\0", b"\xff"))
    count = min(rng.choice((2, 8, 100)), len(data) - at)
    return data[:at] + byte * count + data[at + count :]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...]
MUTATIONS = (flipped, cut, doubled, spliced, resized, without_pieces, zeroed)


def mutated(number: int) -> tuple[str, bytes]:
    """The file of a number, and what it is."""
    rng = random.Random(number)
    kind = list(seeds())[number % len(seeds())]
    mutation = MUTATIONS[number // len(seeds()) % len(MUTATIONS)]
    data = mutation(seeds()[kind], rng)
    # Every other one with its checksums in order, so that the damage gets past them.
    return f"{kind}, {mutation.__name__}", with_checksums(data) if rng.random() < 0.5 else data
