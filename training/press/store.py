"""Keeps pictures small on the disk, some of them a little damaged."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from draw.distort import CLEAN, distorted
from draw.hand import Hand
from draw.sheet import Sheet

HEAVY = 60_000  # bytes
COLORS = 128  # of a PNG's palette
DAMAGED = 1 / 3  # share of the pictures


def store(hand: Hand, image: Image.Image, base: Path) -> Path:
    """Writes BASE.jpg or BASE.png, whichever suits."""
    if hand.chance(DAMAGED / (1 - CLEAN)):  # `distorted` leaves that share as it is
        sheet = Sheet(image)
        damaged = distorted(hand, sheet)
        if damaged is not sheet:
            data = _jpeg(damaged.image, 88)
            if len(data) > HEAVY:  # noise takes more room than what is written
                data = _jpeg(damaged.image, 75)
            return _write(base.with_suffix(".jpg"), data)
    jpeg, png = _jpeg(image, 92), _png(image)
    if len(jpeg) < len(png):
        return _write(base.with_suffix(".jpg"), jpeg)
    return _write(base.with_suffix(".png"), png)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True, progressive=True)
    return stream.getvalue()


def _png(image: Image.Image) -> bytes:
    few = image.quantize(COLORS, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    few.save(stream, "PNG", optimize=True)
    return stream.getvalue()
