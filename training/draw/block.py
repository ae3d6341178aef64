"""Lines of text in blocks that stand on one another, fitted to a picture and written into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from draw.hand import Hand, brightness
from draw.sheet import Color, Font, Sheet, spaced_length

MEASURE = 64  # the font size at which lines are measured
SMALL = 0.8  # small capitals to large ones
SPARE = ("art", "extra", "imprint")
LOGO = 1.5  # room for it, in sizes


@dataclass
class Line:
    text: str
    face: str
    size: float
    least: float  # size
    wide: float  # in sizes, as are the following
    rise: float  # from the top of the box to the top of the ink
    tall: float  # of the ink
    spacing: float = 0.0  # after each character
    capitals: bool = False  # all but the first of each word are smaller


@dataclass
class Block:
    kind: str
    lines: list[Line]
    align: float = 0.5  # 0 is left, 1 right
    leading: float = 0.0
    band: Color | None = None
    logo: bool = False  # before the first line
    depth: float = 0.0  # of a picture

    @property
    def size(self) -> float:
        return max((line.size for line in self.lines), default=0.0)

    @property
    def legible(self) -> bool:
        return all(line.size >= line.least for line in self.lines)

    @property
    def pad(self) -> float:
        return 0.0 if self.band is None else 0.35 * self.size

    @property
    def height(self) -> float:
        inked = sum(line.tall * line.size for line in self.lines)
        leading = self.leading * self.size * max(0, len(self.lines) - 1)
        return self.depth + inked + leading + 2 * self.pad


class Style(NamedTuple):
    """What the blocks of a picture share."""

    faces: tuple[str, ...]
    align: float
    margin: float
    sheet: Sheet

    @property
    def room(self) -> float:
        return self.sheet.width - 2 * self.margin

    def gap(self, blocks: list[Block]) -> float:
        """Between blocks, more than there is between lines of one."""
        return max(self.sheet.smallest, *(1.4 * block.leading * block.size for block in blocks))

    def free(self, blocks: list[Block]) -> float:
        """The height that is left."""
        stacked = sum(block.height for block in blocks) + self.gap(blocks) * (len(blocks) - 1)
        return self.sheet.height - 2 * self.margin - stacked


def block_of(
    hand: Hand, kind: str, texts: list[str], style: Style, size: float, *, least: float = 1.0
) -> Block:
    """Lines of one size, which no line is too long for; `least` is in smallest sizes."""
    r, upper = hand.random, all(text.isupper() for text in texts)
    capitals = upper and kind != "title" and hand.chance(0.25)
    least *= style.sheet.smallest
    least = max(least, style.sheet.smallest / SMALL + 1) if capitals else least
    face = r.choice(style.faces)
    lines = [line_of(hand, text, face, max(size, least), least) for text in texts]
    spacing = r.choice((0.05, 0.1, 0.2, 0.4)) if hand.chance(0.35 if upper else 0.12) else 0.0
    widest = max(line.wide + spacing * len(line.text) for line in lines)
    if widest * least > style.room:
        spacing, widest = 0.0, max(line.wide for line in lines)
    for line in lines:
        line.spacing, line.capitals = spacing, capitals
        line.wide += spacing * len(line.text)
        line.size = min(line.size, style.room / widest)
    align = style.align if hand.chance(0.8) else r.choice((0, 0.5, 1))
    leading = r.uniform(0.2, 0.45) if upper else r.uniform(0.1, 0.3)
    return Block(kind, lines, align, leading, hand.color() if hand.chance(0.1) else None)


def line_of(hand: Hand, text: str, face: str, size: float, least: float) -> Line:
    font = hand.font(face, MEASURE)
    _, top, right, bottom = font.getbbox(text if text.isupper() else text + "Hp")
    wide = max(font.getlength(text), right if text.isupper() else 0) / MEASURE
    return Line(text, face, size, least, wide, top / MEASURE, (bottom - top) / MEASURE)


def fitted(hand: Hand, blocks: list[Block], style: Style) -> bool:
    """Made smaller, and fewer, until they fit the height; whether they do, and can be read."""
    for block in [block for block in blocks if block.kind in SPARE and not block.legible]:
        blocks.remove(block)
    lines = [line for block in blocks for line in block.lines]
    while style.free(blocks) < 0:
        spare = [block for block in blocks if block.kind in SPARE]
        if all(line.size <= line.least for line in lines):
            if not spare:
                return False
            blocks.remove(spare[0])
        for block in blocks:
            block.depth *= 0.9
        for line in lines:
            line.size = max(min(line.size, line.least), line.size * 0.9)
    longest = max(_pieces(hand, line)[1] for block in blocks for line in block.lines)
    return longest < style.room + 0.5 * style.margin and all(block.legible for block in blocks)


def tops_of(hand: Hand, blocks: list[Block], style: Style) -> list[float]:
    """Where each block begins: what height is left goes above, between or below them."""
    r, inner, k = hand.random, len(blocks) - 1, hand.random.random()
    weights = [r.random() ** 4 + 0.001 for _ in range(inner + 2)]
    if k < 0.4:  # together
        weights = [r.choice((0.01, 0.5, 1)), *[0.0] * inner, r.choice((0.01, 0.5, 1))]
    elif k < 0.6:  # apart
        weights = [0.01, *[1.0] * inner, 0.01]
    if inner and blocks[-1].kind == "imprint" and hand.chance(0.75):  # at the foot
        weights[-2:] = [weights[-2] + weights[-1], 0.0]
    y, tops, free = style.margin, [], max(0.0, style.free(blocks))
    for block, weight in zip(blocks, weights, strict=False):
        y += free * weight / sum(weights)
        tops.append(y)
        y += block.height + style.gap(blocks)
    return tops


def write(hand: Hand, style: Style, block: Block, top: float, inks: list[Color]) -> None:
    """Draws the block, mostly in an ink that was used before if it can be read here."""
    sheet, y, placed = style.sheet, top + block.pad, []
    for line in block.lines:
        pieces, length = _pieces(hand, line)
        length += LOGO * line.size if block.logo else 0
        placed.append((style.margin + block.align * (style.room - length), y, length, line, pieces))
        y += line.tall * line.size + block.leading * block.size
    left, right = min(p[0] for p in placed), max(p[0] + p[2] for p in placed)
    if block.band is not None:
        reach = (0, sheet.width) if hand.chance(0.6) else (left - block.pad, right + block.pad)
        sheet.pen.rectangle((reach[0], top, reach[1], top + block.height), fill=block.band)
    tall = hand.font(block.lines[0].face, (block.height - 2 * block.pad) / 1.2)
    apart = 75 if block.size > 1.7 * sheet.smallest else 105  # small text needs more contrast
    ink = _ink(hand, sheet, (left, top + block.pad, right - left), tall, inks, apart)
    effect = hand.random.choice(("shadow", "outline")) if hand.chance(0.12) else ""
    for x, y, _, line, pieces in placed:
        start = len(sheet.lines)
        if block.logo:
            _logo(hand, sheet, (x, y, x + line.size * 0.8, y + line.size * 0.8), ink)
        begin = x + (LOGO * line.size if block.logo else 0)
        for shift, drop, text, font in pieces:
            place = (begin + shift, y + drop - line.rise * int(line.size))
            if effect and not line.spacing and line.size > 2 * sheet.smallest:
                _below(sheet, place, text, font, ink, effect)
            spacing = line.spacing * int(line.size)
            sheet.text(*place, text, font, ink, spacing=spacing)
        sheet.lines[start:] = [(y, line.text)]


def _pieces(hand: Hand, line: Line) -> tuple[list[tuple[float, float, str, Font]], float]:
    """What a line is written with, each part at its place, and how long that is."""
    font = hand.font(line.face, int(line.size))
    spacing = line.spacing * font.size
    if not line.capitals:
        return [(0.0, 0.0, line.text, font)], spaced_length(font, line.text, spacing)
    small = hand.font(line.face, font.size * SMALL)
    drop, x = font.getmetrics()[0] - small.getmetrics()[0], 0.0
    pieces: list[tuple[float, float, str, Font]] = []
    for word in line.text.split(" "):
        pieces.append((x, 0.0, word[0], font))
        x += max(font.getlength(word[0]), font.getbbox(word[0])[2]) + spacing
        if word[1:]:
            pieces.append((x, drop, word[1:], small))
            x += spaced_length(small, word[1:], spacing) + spacing
        x += font.getlength(" ") + spacing
    return pieces, x - font.getlength(" ") - 2 * spacing


def _below(
    sheet: Sheet, place: tuple[float, float], text: str, font: Font, ink: Color, effect: str
) -> None:
    other = (0, 0, 0) if brightness(ink) > 128 else (255, 255, 255)
    thin = max(1, round(font.size / 30))
    if effect == "outline":
        sheet.pen.text(place, text, font=font, fill=other, stroke_width=thin)
    else:
        sheet.pen.text((place[0] + thin, place[1] + thin), text, font=font, fill=other)


def _logo(hand: Hand, sheet: Sheet, box: tuple[float, float, float, float], ink: Color) -> None:
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    k = hand.random.randrange(4)
    if k == 0:
        sheet.pen.ellipse(box, fill=ink)
    elif k == 1:
        sheet.pen.rectangle(box, outline=ink, width=max(1, int((x1 - x0) / 6)))
    elif k == 2:
        sheet.pen.polygon([(x, y0), (x1, y), (x, y1), (x0, y)], fill=ink)
    else:
        sheet.pen.polygon([(x0, y1), (x, y0), (x1, y1)], fill=ink)


def _ink(
    hand: Hand,
    sheet: Sheet,
    where: tuple[float, float, float],
    tall: Font,
    inks: list[Color],
    apart: int,
) -> Color:
    """One of these that can be read there, or a new one."""
    x, y, length = where
    box = (max(0, int(x)), int(y), min(sheet.width, int(x + length)), int(y + tall.size * 1.2))
    low, high = sheet.image.crop(box).convert("L").getextrema()
    for ink in inks:
        if hand.chance(0.6) and not low - apart < brightness(ink) < high + apart:
            return ink
    middle = (low + high) // 2
    ink = hand.ink((middle, middle, middle), apart + 15)
    if low - apart < brightness(ink) < high + apart:
        ink = hand.ink_at(sheet, x, y, length, tall)
    inks.append(ink)
    return ink
