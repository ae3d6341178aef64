"""Lines around text that are no text: nano read a dotted or dashed one as letters."""

from __future__ import annotations

from draw.hand import Hand
from draw.sheet import Sheet

Box = tuple[float, float, float, float]


def border(hand: Hand, sheet: Sheet, box: Box, thick: int) -> None:
    """On all sides, two or one, whole or in pieces."""
    r, color, (x0, y0, x1, y1) = hand.random, hand.color(), box
    kind = r.choice(("square", "left", "level", "round", "double", "pieces", "pieces", "pieces"))
    if kind == "square":
        sheet.pen.rectangle(box, outline=color, width=thick)
    elif kind == "left":
        sheet.pen.line((x0, y0, x0, y1), color, thick + 2)
    elif kind == "level":
        sheet.pen.line((x0, y0, x1, y0), color, thick)
        sheet.pen.line((x0, y1, x1, y1), color, thick)
    elif kind == "round":
        sheet.pen.rounded_rectangle(box, r.randint(4, 20), outline=color, width=thick)
    elif kind == "double":
        apart = 2 * thick
        sheet.pen.rectangle(box, outline=color, width=thick)
        inner = (x0 + apart, y0 + apart, x1 - apart, y1 - apart)
        sheet.pen.rectangle(inner, outline=color, width=thick)
    else:
        sides = [(x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1)]
        length, gap = thick * r.choice((1, 1, 2, 3, 5)), thick * r.choice((1, 2, 3))
        round_ends = length == thick and hand.chance(0.5)
        for side in sides[: r.choice((1, 2, 4, 4, 4))]:
            _pieces(sheet, side, (length, gap, thick), color, round_ends)


def _pieces(
    sheet: Sheet,
    side: Box,
    sizes: tuple[int, int, int],
    color: tuple[int, int, int],
    round_ends: bool,
) -> None:
    x0, y0, x1, y1 = side
    length, gap, thick = sizes
    draw = sheet.pen.ellipse if round_ends else sheet.pen.rectangle
    level = y0 == y1
    wide, high = (length, thick) if level else (thick, length)
    for at in range(0, int(x1 - x0 if level else y1 - y0) - length, length + gap):
        x, y = (round(x0) + at, round(y0)) if level else (round(x0), round(y0) + at)
        draw((x, y, x + wide - 1, y + high - 1), fill=color)
