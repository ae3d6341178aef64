"""Tables, and their text as Markdown."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from draw.hand import Hand
from draw.sheet import Color, Drawn, Sheet, Turn
from draw.text import READ as OCR

READ = (
    "Read this table as Markdown.",
    "Read this table.",
    "Convert the table to text.",
    "Extract the table.",
    "Give me the table in Markdown.",
    "Convert this table to Markdown.",
)
WHOLE = ("Describe the image.", "What is in the picture?", "Describe this table.")
MOST = 420  # characters of an answer


def table(hand: Hand, width: int, height: int) -> Drawn:
    while (drawn := _table(hand, width, height)) is None:
        pass
    return drawn


def markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _table(hand: Hand, width: int, height: int) -> Drawn | None:
    r = hand.random
    columns, count = r.randint(2, 5), r.randint(2, 8)
    kinds = [0] + [r.choice((0, 1, 1, 1, 2)) for _ in range(columns - 1)]
    head = [_name(hand) for _ in range(columns)]
    rows = [head, *([_cell(hand, kind) for kind in kinds] for _ in range(count))]
    text = markdown(rows)
    if len(text) > MOST or len(set(head)) < columns:
        return None
    if hand.chance(0.6):
        ground = (255, 255, 255) if hand.chance(0.6) else hand.color(225, 255)
        sheet = hand.sheet(Image.new("RGB", (width, height), ground))
    else:
        sheet, ground = hand.paper(width, height)
    style = Style.random(hand, ground, kinds)
    if not _draw(hand, sheet, style, rows):
        return None
    return Drawn([sheet], _turns(hand, rows, text))


class Style(NamedTuple):
    ground: Color
    ink: Color
    face: str
    head_face: str
    header: Color | None
    shade: Color | None  # of every other row
    border: bool
    lines: bool
    middle: bool
    right: list[bool]  # columns of numbers that end flush

    @classmethod
    def random(cls, hand: Hand, ground: Color, kinds: list[int]) -> Style:
        face = hand.font_path()
        a, b, c = ((3 * x + y) // 4 for x, y in zip(ground, hand.color(), strict=True))
        return cls(
            ground,
            hand.ink(ground, 120),
            face,
            hand.font_path() if hand.chance(0.3) else face,
            hand.color() if hand.chance(0.4) else None,
            (a, b, c) if hand.chance(0.3) else None,
            hand.chance(0.5),
            hand.chance(0.5),
            hand.chance(0.25),
            [kind == 1 and hand.chance(0.4) for kind in kinds],
        )


def _draw(hand: Hand, sheet: Sheet, style: Style, rows: list[list[str]]) -> bool:
    """Whether it fitted."""
    r, width = hand.random, sheet.width
    y = sheet.height * r.uniform(0.02, 0.08)
    if hand.chance(0.15):
        words = f"Table {r.randint(1, 9)}: {_name(hand)}"
        font = hand.fitted(style.face, words, width * 0.9, sheet.height * 0.06, sheet.smallest)
        sheet.text(width * 0.04, y, words, font, style.ink)
        y += font.size * 1.6
    row_height = min((sheet.height * 0.97 - y) / len(rows), sheet.height / 6)
    if row_height < sheet.smallest * 1.35:
        return False
    x0 = width * r.uniform(0.01, 0.04)
    widest = [max(map(len, column)) + 1.5 for column in zip(*rows, strict=True)]
    shares = [share / sum(widest) * (width - 2 * x0) for share in widest]
    size = row_height * r.uniform(0.45, 0.7)
    size = min(
        hand.fitted(style.head_face if row is rows[0] else style.face, cell, share * 0.92, size,
                    sheet.smallest).size
        for row in rows for cell, share in zip(row, shares, strict=True)
    )  # fmt: skip
    for number, row in enumerate(rows):
        fill = style.header if number == 0 else style.shade if number % 2 == 0 else None
        ink = style.ink
        if fill is not None:
            sheet.pen.rectangle((x0, y, width - x0, y + row_height), fill=fill)
            ink = hand.ink(fill, 110)
        font = hand.font(style.head_face if number == 0 else style.face, size)
        x = x0
        for cell, share, right in zip(row, shares, style.right, strict=True):
            free = share - font.getlength(cell)
            if free < share * 0.02:
                return False
            left = free / 2 if style.middle else free * 0.95 if right else min(free, font.size) / 2
            sheet.text(x + left, y + (row_height - font.size * 1.2) / 2, cell, font, ink)
            if style.border:
                sheet.pen.rectangle((x, y, x + share, y + row_height), outline=style.ink)
            x += share
        if style.lines or number == 0:
            line = (x0, y + row_height, width - x0, y + row_height)
            sheet.pen.line(line, fill=style.ink)
        y += row_height
    return True


def _turns(hand: Hand, rows: list[list[str]], text: str) -> list[Turn]:
    head, i, j = (
        rows[0],
        hand.random.randrange(1, len(rows)),
        hand.random.randrange(1, len(rows[0])),
    )
    names = [row[0] for row in rows[1:]]
    turns = [
        Turn((*READ, *OCR[:3]), text, 7),
        Turn(WHOLE, f"The image shows a table:\n{text}", 1),
        Turn(("How many rows does the table have?",), str(len(rows) - 1), 0.3),
        Turn(("What are the columns of this table?",), ", ".join(head) + ".", 0.4),
    ]
    if len(set(names)) == len(names):
        turns.append(Turn((f"What is the {head[j]} of {rows[i][0]}?",), rows[i][j], 1.2))
    return turns


def _name(hand: Hand) -> str:
    return hand.word(9).capitalize() + (f" {hand.word(6)}" if hand.chance(0.15) else "")


def _cell(hand: Hand, kind: int) -> str:
    if kind == 1:
        return hand.number()
    if kind == 2 and hand.chance(0.5):
        return hand.random.choice(("Yes", "No", "N/A", "-"))
    return hand.random.choice(hand.names) if hand.chance(0.1) else _name(hand)
