"""Paragraphs and tables for LibreOffice: Writer's, and Calc's cells as they are printed."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from PIL import ImageFont

from draw import table, text
from draw.hand import Hand, brightness
from draw.sheet import Color
from press import office
from press.canvas import LARGEST, mix, near
from press.office import Document
from press.paragraphs import MOST_LINES, NARROWEST, WIDEST, broken, heading
from press.tables import content

CALC = 0.4  # share of the tables
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def paragraph(hand: Hand) -> Document:
    """Each line a paragraph or ended by a break; the page is far wider than any."""
    r = hand.random
    lines = broken(hand, r.randint(NARROWEST, WIDEST), r.randint(2, MOST_LINES))
    head = heading(hand) if 3 < len(lines) < MOST_LINES and hand.chance(0.25) else ""
    face, path = office.family(hand)
    points, ink = r.uniform(9, 13), _ink(hand)
    align = r.choice(("start", "start", "start", "center", "end"))
    look = f'fo:text-align="{align}" fo:line-height="{r.randint(100, 165)}%"'
    if hand.chance(0.25):
        narrow = office.WIDTH - max(_width(path, line, points) for line in lines) * 1.1
        look += f' fo:margin-right="{narrow:.1f}pt" fo:padding="4pt"'
        look += f' fo:background-color="{color_code(near(hand, WHITE, 30))}"'
    styles = _style("paragraph", "p", look, _colored(_letters(face, points), ink))
    if head:
        large = _letters(office.family(hand)[0], points * r.uniform(1.1, 1.5))
        large = _colored(large, _ink(hand))
        gap = f'{look} fo:margin-bottom="{r.uniform(0, 8):.1f}pt"'
        styles += _style("paragraph", "h", gap, large)
    if hand.chance(0.5):
        body = "".join(f'<text:p text:style-name="p">{escape(line)}</text:p>' for line in lines)
    else:
        inner = "<text:line-break/>".join(map(escape, lines))
        body = f'<text:p text:style-name="p">{inner}</text:p>'
    if head:
        body = f'<text:p text:style-name="h">{escape(head)}</text:p>{body}'
    every = [head, *lines] if head else lines
    return Document("text", styles, body, every, points, _long(hand), _margins(hand),
                    r.choice(text.READ), "\n".join(every))  # fmt: skip


def grid(hand: Hand) -> Document:
    """A table, by Writer or by Calc."""
    r, found = hand.random, content(hand)
    kind = "spreadsheet" if hand.chance(CALC) else "text"
    face, path = office.family(hand)
    points, ink = r.uniform(9, 13), _ink(hand)
    styles, aligned = "", r.choice(("left", "right", "right", "center"))
    look, total = Look(hand, kind), 0.0
    for column, number in enumerate(found.numbers):
        align = {"left": "start", "right": "end" if number else "start", "center": "center"}
        for row in range(3):  # the head, odd rows, even rows
            bold = ' fo:font-weight="bold"' if row == 0 and look.bold else ""
            letters = _letters(face, points) + bold
            styles += look.cell(f"c{column}r{row}", row, align[aligned], letters, ink)
        cells = [row[column] for row in found.rows]
        wide = max(_width(path, cell, points) for cell in cells) + look.pad * 2 + look.room
        total += wide
        inner = f'style:column-width="{wide:.1f}pt"'
        styles += f'<style:style style:name="w{column}" style:family="table-column">'
        styles += f"<style:table-column-properties {inner}/></style:style>"
    body = _rows(found.rows, kind)
    lines = ["".join(row) for row in found.rows]
    ask = r.choice(table.READ)
    styles += look.whole(total)
    return Document(kind, styles, body, lines, points, _long(hand), _margins(hand), ask,
                    found.answer)  # fmt: skip


class Look:
    """Borders and grounds of a table."""

    def __init__(self, hand: Hand, kind: str) -> None:
        r = hand.random
        self.kind, self.bold = kind, hand.chance(0.6)
        self.pad, self.room = r.uniform(3.5, 7), r.choice((3, 8, 25))
        self.head = hand.color() if hand.chance(0.35) else None
        self.shade = near(hand, WHITE, 35) if hand.chance(0.3) else None
        grey = mix(BLACK, WHITE, r.choice((0, 0.5)))
        line = f"{r.choice((0.5, 0.75, 1))}pt solid {color_code(grey)}"
        self.border = r.choice((
            f'fo:border="{line}"', f'fo:border="{line}"', f'fo:border-bottom="{line}"', "",
        ))  # fmt: skip
        self.rule = f'fo:border-bottom="{line}"'

    def cell(self, name: str, row: int, align: str, letters: str, ink: Color) -> str:
        ground = self.head if row == 0 else self.shade if row == 2 else None
        look = f'fo:padding="{self.pad:.1f}pt" style:vertical-align="middle" '
        look += self.border or (self.rule if row == 0 else "")
        if ground is not None:
            look += f' fo:background-color="{color_code(ground)}"'
            ink = WHITE if brightness(ground) < 130 else BLACK
        letters = _colored(letters, ink)
        across = f'fo:text-align="{align}"'
        cells = f"<style:table-cell-properties {look}"
        if self.kind == "spreadsheet":
            source = 'style:text-align-source="fix"/>'
            inner = f"{cells} {source}<style:paragraph-properties {across}/>"
            inner += f"<style:text-properties {letters}/>"
            return _named("table-cell", name, inner)
        paragraph = _style("paragraph", f"{name}p", across, letters)
        return _named("table-cell", name, f"{cells}/>") + paragraph

    def whole(self, width: float) -> str:
        if self.kind == "spreadsheet":
            return (
                '<style:style style:name="t" style:family="table" style:master-page-name="Default">'
                '<style:table-properties table:display="true"/></style:style>'
            )
        look = f'table:align="left" style:width="{width:.1f}pt"'
        return _named("table", "t", f"<style:table-properties {look}/>")


def _rows(rows: list[list[str]], kind: str) -> str:
    columns = "".join(f'<table:table-column table:style-name="w{i}"/>' for i in range(len(rows[0])))
    lines = []
    for number, row in enumerate(rows):
        look = 0 if number == 0 else 1 + (number + 1) % 2
        cells = []
        for column, cell in enumerate(row):
            name = f"c{column}r{look}"
            own = f' text:style-name="{name}p"' if kind == "text" else ""
            cells.append(
                f'<table:table-cell table:style-name="{name}" office:value-type="string">'
                f"<text:p{own}>{escape(cell)}</text:p></table:table-cell>"
            )
        lines.append(f"<table:table-row>{''.join(cells)}</table:table-row>")
    return (
        f'<table:table table:name="T" table:style-name="t">{columns}{"".join(lines)}</table:table>'
    )


def _width(path: str, words: str, points: float) -> float:
    """In points, a little too much rather than too little: bold letters are wider."""
    if not path:
        return len(words) * points * 0.64
    return ImageFont.truetype(path, 100).getlength(words) * points / 100 * 1.12


def _letters(face: str, points: float) -> str:
    name = quoteattr(f"'{face}'" if " " in face else face)
    return f'fo:font-family={name} fo:font-size="{points:.1f}pt"'


def _colored(letters: str, ink: Color) -> str:
    return f'{letters} fo:color="{color_code(ink)}"'


def _style(kind: str, name: str, look: str, letters: str) -> str:
    inner = f"<style:{kind}-properties {look}/><style:text-properties {letters}/>"
    return _named(kind, name, inner)


def _named(kind: str, name: str, inner: str) -> str:
    return f'<style:style style:name="{name}" style:family="{kind}">{inner}</style:style>'


def _ink(hand: Hand) -> Color:
    return BLACK if hand.chance(0.5) else hand.ink(WHITE, 140)


def _long(hand: Hand) -> int:
    return min(LARGEST, round(hand.random.triangular(420, 1150, 620)))


def _margins(hand: Hand) -> tuple[float, float, float, float]:
    a, b, c, d = (hand.random.uniform(3, 18) for _ in range(4))
    return a, b, c, d


def color_code(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
