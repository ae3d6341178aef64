"""Grounds with a pattern that is no text: nano read dots, checks and ruled lines as letters."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from draw.hand import Hand
from draw.sheet import Color

Pen = ImageDraw.ImageDraw
FAINT = (0.04, 0.3)  # how far the pattern's colour is from the ground's


def pattern(hand: Hand, width: int, height: int, ground: Color) -> Image.Image:
    """Tiles from a few pixels to several letters wide."""
    r = hand.random
    image = Image.new("RGB", (width, height), ground)
    side = round(math.exp(r.uniform(math.log(8), math.log(max(30, min(width, height) / 3)))))
    share = r.uniform(*FAINT)
    other = hand.color()
    ink = tuple(round(a + (b - a) * share) for a, b in zip(ground, other, strict=True))
    draw = r.choice((_dots, _rings, _checks, _ruled, _ruled, _squares, _hatch, _waves, _crosses,
                     _bricks, _triangles, _hexagons))  # fmt: skip
    tile = Image.new("RGB", (side, side), ground)
    draw(hand, ImageDraw.Draw(tile), side, ink)  # type: ignore[arg-type]
    if hand.chance(0.15):
        tile = tile.rotate(90)
    row = Image.new("RGB", (width, side), ground)
    for x in range(0, width, side):
        row.paste(tile, (x, 0))
    slid = side // 2 if hand.chance(0.2) else 0  # every other row
    for i, y in enumerate(range(0, height, side)):
        image.paste(row, (-slid if slid and i % 2 else 0, y))
    if hand.chance(0.12):  # grown coarse or soft, as from a print
        image = image.resize((width // 2, height // 2)).resize((width, height))
    return image


def _thickness(hand: Hand, side: int) -> int:
    return max(1, round(side * hand.random.choice((0.02, 0.05, 0.1, 0.2))))


def _dots(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    k = side * hand.random.uniform(0.1, 0.45)
    pen.ellipse((side / 2 - k, side / 2 - k, side / 2 + k, side / 2 + k), fill=ink)


def _rings(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    k = side * hand.random.uniform(0.25, 0.5)
    box = (side / 2 - k, side / 2 - k, side / 2 + k, side / 2 + k)
    pen.ellipse(box, outline=ink, width=_thickness(hand, side))


def _checks(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    half = side // 2
    pen.rectangle((0, 0, half - 1, half - 1), fill=ink)
    pen.rectangle((half, half, side, side), fill=ink)


def _ruled(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    pen.line((0, side // 2, side, side // 2), fill=ink, width=_thickness(hand, side))


def _squares(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    wide = _thickness(hand, side)
    pen.line((0, 0, side, 0), fill=ink, width=wide)
    pen.line((0, 0, 0, side), fill=ink, width=wide)


def _hatch(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    for x in (-side, 0, side):
        pen.line((x, side, x + side, 0), fill=ink, width=_thickness(hand, side))


def _waves(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    high = side * hand.random.uniform(0.1, 0.4)
    points = [(x, side / 2 + high * math.sin(2 * math.pi * x / side)) for x in range(side + 1)]
    pen.line(points, fill=ink, width=_thickness(hand, side))


def _crosses(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    k, middle, wide = side * hand.random.uniform(0.15, 0.4), side / 2, _thickness(hand, side)
    if hand.chance(0.5):
        pen.line((middle - k, middle, middle + k, middle), fill=ink, width=wide)
        pen.line((middle, middle - k, middle, middle + k), fill=ink, width=wide)
    else:
        pen.line((middle - k, middle - k, middle + k, middle + k), fill=ink, width=wide)
        pen.line((middle - k, middle + k, middle + k, middle - k), fill=ink, width=wide)


def _bricks(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    half, wide = side // 2, _thickness(hand, side)
    for line in ((0, 0, side, 0), (0, half, side, half), (0, 0, 0, half), (half, half, half, side)):
        pen.line(line, fill=ink, width=wide)


def _triangles(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    pen.polygon(((0, side), (side / 2, hand.random.uniform(0, side / 2)), (side, side)), fill=ink)


def _hexagons(hand: Hand, pen: Pen, side: int, ink: Color) -> None:
    k = side * 0.46
    corners = [
        (side / 2 + k * math.cos(a * math.pi / 3), side / 2 + k * math.sin(a * math.pi / 3))
        for a in range(6)
    ]
    pen.polygon(corners, outline=ink, width=_thickness(hand, side))
