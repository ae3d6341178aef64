"""Text set by a third renderer: resvg, whose shaping is HarfBuzz's and whose filling is Skia's.

Pillow lays letters on whole pixels and hints them; here they stand between pixels, kerned and with
ligatures, as browsers and PDF readers draw them.
"""

from __future__ import annotations

import io
import itertools
from html import escape

import resvg_py
from PIL import Image

from draw.sheet import Sheet, Written

LARGEST = 1_200_000  # pixels; drawing takes 80 ns for each


def typeset(sheet: Sheet) -> None:
    """Write what the sheet has put off, a call for each font."""
    written, sheet.late = sheet.late or [], None
    by_font = sorted(written, key=lambda one: str(one.font.path))
    for path, lines in itertools.groupby(by_font, key=lambda one: str(one.font.path)):
        _write(sheet, path, list(lines))


def _write(sheet: Sheet, path: str, lines: list[Written]) -> None:
    boxes = [_box(line) for line in lines]
    x0, y0 = (max(0, min(box[i] for box in boxes)) for i in (0, 1))
    x1 = min(sheet.width, max(box[2] for box in boxes))
    y1 = min(sheet.height, max(box[3] for box in boxes))
    small = x1 - x0 > 0 and y1 - y0 > 0 and (x1 - x0) * (y1 - y0) <= LARGEST
    layer = _layer(path, lines, (x0, y0, x1, y1)) if small else None
    if layer is None:  # too large, or a family by another name than resvg has for it
        for line in lines:
            sheet.put(line)
    else:
        sheet.image.paste(layer, (x0, y0), layer)


def _layer(path: str, lines: list[Written], box: tuple[int, int, int, int]) -> Image.Image | None:
    x0, y0, x1, y1 = box
    family = escape(str(lines[0].font.getname()[0]), quote=True)
    texts = "".join(
        f'<text x="{line.x:.2f}" y="{line.y + line.font.getmetrics()[0]:.2f}"'
        f' font-size="{line.font.size}" textLength="{line.length:.2f}" xml:space="preserve"'
        f' fill="rgb{line.fill}">{escape(line.text)}</text>'
        for line in lines
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x1 - x0}" height="{y1 - y0}"'
        f' viewBox="{x0} {y0} {x1 - x0} {y1 - y0}" font-family="{family}">{texts}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg, font_files=[path], skip_system_fonts=True)
    layer = Image.open(io.BytesIO(data)).convert("RGBA")
    return layer if layer.getbbox() else None


def _box(line: Written) -> tuple[int, int, int, int]:
    """With room for what reaches over: italics, tails."""
    more = line.font.size // 2
    x, y = int(line.x), int(line.y)
    return x - more, y - more, x + int(line.length) + more, y + 2 * line.font.size
