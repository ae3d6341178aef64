"""Lists with something at either side of a line: menus, prices, hours, scores."""

from __future__ import annotations

from draw.hand import Hand
from draw.sheet import Sheet

HEADS = ("Menu", "MENU", "Bar", "Kitchen", "Prices", "Price List", "Opening Hours", "Specials", "")
APART = 0.6  # of a line's size: the least that stands between its sides


def price_list(hand: Hand, width: int, height: int) -> tuple[Sheet, list[str]] | None:
    """The sheet and its lines; None if they do not fit."""
    r = hand.random
    sheet, ground = hand.paper(width, height)
    lines, face = entries(hand), hand.font_path()
    margin, ink = width * r.uniform(0.03, 0.16), hand.ink(ground, 110)
    size = max(sheet.smallest, min(height * 0.85 / len(lines) / 1.5, height * r.uniform(0.03, 0.1)))
    step = r.uniform(1.2, 1.2 + 0.9 * max(0.0, height * 0.9 / (len(lines) * size) - 1.2))
    y, written = height * r.uniform(0.02, 0.08), []
    uneven, ruled, plates = hand.chance(0.3), hand.chance(0.2), hand.chance(0.15)
    middle, inner = hand.chance(0.4), width - 2 * margin
    for left, right in lines:
        large = r.uniform(1, 1.8) if not right else r.uniform(0.8, 1.3) if uneven else 1.0
        words = f"{left} {right}".strip()
        font = hand.fitted(face, words, inner * 0.95, size * large, sheet.smallest)
        lengths = font.getlength(left), font.getlength(right)
        if sum(lengths) + APART * font.size > inner or y + font.size * 1.4 > height:
            return None
        if plates:
            plate = hand.color()
            box = (margin * 0.6, y - font.size * 0.1, width - margin * 0.6, y + font.size * 1.35)
            sheet.pen.rectangle(box, fill=plate)
            ink = hand.ink(plate, 110)
        x = margin + (inner - lengths[0]) / 2 if middle and not right else margin
        sheet.text(x, y, left, font, ink)
        if right:
            sheet.text(width - margin - lengths[1], y, right, font, ink)
        written.append(words)
        if ruled:
            under = y + font.size * 1.3
            sheet.pen.line((margin, under, width - margin, under), fill=ink)
        y += font.size * step
    return sheet, written


def entries(hand: Hand) -> list[tuple[str, str]]:
    """What stands left and right; a heading has nothing at its right."""
    r = hand.random
    head = f"{hand.word().capitalize()} {r.choice(HEADS)}".strip()
    lines = [(head, "")] if hand.chance(0.8) else []
    right, longest = r.choice((_price, _price, _price, _hours, _count)), r.choice((1, 2, 2, 3))
    sign = r.choice(("$", "€", "£", ""))
    for _ in range(r.randint(2, 9)):
        words = [hand.word(9) for _ in range(r.randint(1, longest))]
        lines.append((" ".join(words).capitalize(), right(hand, sign)))
        if hand.chance(0.07):
            lines.append((hand.word().upper(), ""))
    return lines


def _price(hand: Hand, sign: str) -> str:
    r = hand.random
    cents = r.choice((0, 50, 90, 95, 99, 25, r.randint(0, 99)))
    return f"{sign}{r.randint(1, 60)}.{cents:02d}" if hand.chance(0.9) else f"{r.randint(1, 60)}"


def _hours(hand: Hand, sign: str) -> str:
    r = hand.random
    return f"{r.randint(6, 12)}:{r.choice(('00', '30'))} - {r.randint(13, 23)}:00"


def _count(hand: Hand, sign: str) -> str:
    return hand.number()
