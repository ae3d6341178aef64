"""What covers have on them that is no text and must not be read as any: v0 took a moon for a D."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from draw.hand import Hand
from draw.sheet import Color, Sheet


class Spot(NamedTuple):
    x: float
    y: float
    size: float  # half of a side
    fill: Color
    ground: Color

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x - self.size, self.y - self.size, self.x + self.size, self.y + self.size


def ornament(hand: Hand, sheet: Sheet, ground: Color) -> None:
    r = hand.random
    x, y = r.uniform(0, sheet.width), r.uniform(0.3, 0.8) * sheet.height
    size = r.uniform(0.05, 0.3) * min(sheet.image.size)
    draw = r.choice((_disc, _plate, _crescent, _rings, _mountains, _stripes, _frame, _photo, _icon))
    draw(hand, sheet, Spot(x, y, size, hand.color(), ground))


def among_letters(hand: Hand, sheet: Sheet, y: float, size: float, ink: Color) -> None:
    """One as large as a letter and in the ink of the text it stands near."""
    r = hand.random
    x = r.choice((0.5, r.uniform(0.05, 0.95))) * sheet.width
    draw = r.choice((_disc, _plate, _crescent, _rings))
    under = sheet.image.getpixel((int(x), min(int(y), sheet.height - 1)))
    assert isinstance(under, tuple)
    draw(hand, sheet, Spot(x, y, size, ink, under[:3]))


def _disc(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    sheet.pen.ellipse(spot.box, fill=spot.fill)


def _plate(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    sheet.pen.rectangle(spot.box, fill=spot.fill)


def _crescent(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    sheet.pen.ellipse(spot.box, fill=spot.fill)
    x0, y0, x1, y1 = spot.box
    sheet.pen.ellipse((x0 + 0.6 * spot.size, y0, x1 + 0.6 * spot.size, y1), fill=spot.ground)


def _rings(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    for k in range(4):
        ring = spot._replace(size=spot.size * (1 - k / 5))
        sheet.pen.ellipse(ring.box, outline=spot.fill, width=max(1, sheet.width // 150))


def _mountains(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    step, low = sheet.width / 6, spot.y + spot.size
    peaks = [(i * step, spot.y - hand.random.uniform(0, spot.size)) for i in range(7)]
    sheet.pen.polygon([(0, low), *peaks, (sheet.width, low)], fill=spot.fill)


def _stripes(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    for k in range(5):
        line = (0, spot.y + k * spot.size / 5, sheet.width, spot.y + k * spot.size / 4)
        sheet.pen.line(line, fill=spot.fill, width=max(1, sheet.width // 120))


def _frame(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    w, h = sheet.width, sheet.height
    edge = (w * 0.03, h * 0.02, w * 0.97, h * 0.98)
    sheet.pen.rectangle(edge, outline=spot.fill, width=1 + w // 99)


def _photo(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    side = max(16, round(2 * spot.size))
    sheet.image.paste(hand.photo(side, side), (round(spot.box[0]), round(spot.box[1])))


def _icon(hand: Hand, sheet: Sheet, spot: Spot) -> None:
    side = max(16, round(2 * spot.size))
    with Image.open(hand.random.choice(hand.emoji)) as opened:
        icon = opened.convert("RGBA").resize((side, side))
    sheet.image.paste(icon, (round(spot.box[0]), round(spot.box[1])), icon)
