"""A drawing of how a picture is cut, for people. No model ever sees it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phisight.hd import CROP, HDLayout
from phisight.processing.image import padded_rgb

_GAP, _MARGIN = 10, 24
_PAPER, _INK, _LINE = "#f4f4f2", "#333333", "#d0432c"
_PADDING = np.array([205, 222, 240], np.uint8)  # where the white canvas shows, told from white ink


def draw_crops(image: Image.Image, layout: HDLayout) -> Image.Image:
    """The overview on the left, then the numbered crops of the grid, padding tinted blue.

    Shows where an RGB picture is cut and at what size the model sees it, 1 pixel for 1 pixel.
    """
    padded = Image.fromarray(_tinted(padded_rgb(image, layout), layout))
    left = 2 * _MARGIN + CROP
    width = left + layout.cols * (CROP + _GAP) - _GAP + _MARGIN
    height = layout.rows * (CROP + _GAP) - _GAP + 2 * _MARGIN + 20
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    pen.text((_MARGIN, 12), "the whole", _INK, font)
    blue = "; blue: padding" if layout.pad_before + layout.pad_after else ""
    pen.text((left, 12), f"{layout.cols} x {layout.rows} crops{blue}", _INK, font)
    top = _MARGIN + 20
    _paste(sheet, padded.resize((CROP, CROP), Image.Resampling.BICUBIC), _MARGIN, top)
    for row in range(layout.rows):
        for col in range(layout.cols):
            box = (col * CROP, row * CROP, (col + 1) * CROP, (row + 1) * CROP)
            x, y = left + col * (CROP + _GAP), top + row * (CROP + _GAP)
            _paste(sheet, padded.crop(box), x, y)
            label = str(row * layout.cols + col + 1)
            pen.rectangle((x, y, x + 14 + 11 * len(label), y + 26), _LINE)
            pen.text((x + 7, y + 1), label, "white", font)
    return sheet


def _tinted(pixels: np.ndarray, layout: HDLayout) -> np.ndarray:
    """(H, W, 3) padded pixels with the padding coloured."""
    lying = pixels.transpose(1, 0, 2) if layout.transposed else pixels
    lying = lying.copy()
    lying[: layout.pad_before] = _PADDING
    lying[len(lying) - layout.pad_after :] = _PADDING
    return np.ascontiguousarray(lying.transpose(1, 0, 2) if layout.transposed else lying)


def _paste(sheet: Image.Image, part: Image.Image, x: int, y: int) -> None:
    sheet.paste(part, (x, y))
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + CROP, y + CROP), outline=_LINE)
