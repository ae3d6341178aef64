"""Tables in HTML, in the styles of web pages."""

from __future__ import annotations

from typing import NamedTuple

from draw import table
from draw.hand import Hand
from draw.table import _cell, _name
from press.canvas import Canvas, Draft, backdrop, contrast, css, mix, near, size, tag


class Content(NamedTuple):
    rows: list[list[str]]
    numbers: list[bool]  # which columns are

    @property
    def answer(self) -> str:
        return table.markdown(self.rows)


def content(hand: Hand) -> Content:
    r = hand.random
    while True:
        columns, count = r.randint(2, 5), r.randint(2, 8)
        kinds = [0] + [r.choice((0, 1, 1, 1, 2)) for _ in range(columns - 1)]
        head = [_name(hand) for _ in range(columns)]
        rows = [head, *([_cell(hand, kind) for kind in kinds] for _ in range(count))]
        found = Content(rows, [kind == 1 for kind in kinds])
        if len(found.answer) <= table.MOST and len(set(head)) == columns:
            return found


def draft(hand: Hand) -> Draft:
    found = content(hand)
    canvas = Canvas(hand, *size(hand, "table"))
    if hand.chance(0.5):
        canvas.color = (255, 255, 255)
        if contrast(canvas.ink, canvas.color) < 140:
            canvas.ink = hand.ink(canvas.color, 140)
    head, *rest = found.rows
    aligns = _aligns(hand, found.numbers)
    top = f"<tr>{''.join(map(_heading, head, aligns))}</tr>"
    lines = [f"<tr>{''.join(map(_data, row, aligns))}</tr>" for row in rest]
    name = hand.random.choice(("", "", "compact"))
    whole = f'<table class="{name}"><thead>{top}<tbody>{"".join(lines)}</table>'
    body = f"<div id=p data-page data-fit>{whole}</div>"
    style = _style(canvas, len(found.rows))
    return canvas.draft(body, style, hand.random.choice(table.READ), found.answer)


def _aligns(hand: Hand, numbers: list[bool]) -> list[str]:
    k = hand.random.random()
    if k < 0.2:
        return ["center"] * len(numbers)
    right = "right" if k < 0.65 else "left"
    return [right if number else "left" for number in numbers]


def _heading(cell: str, align: str) -> str:
    return tag("th", cell, f"text-align:{align}")


def _data(cell: str, align: str) -> str:
    return tag("td", cell, f"text-align:{align}")


def _style(canvas: Canvas, rows: int) -> str:
    hand, r = canvas.hand, canvas.hand.random
    points = max(canvas.smallest, canvas.height / rows * r.uniform(0.3, 0.5))
    points = min(points, canvas.width * r.uniform(0.03, 0.05))
    face = canvas.face()
    whole = hand.chance(0.5)
    stretch = "height:100%;" if whole and hand.chance(0.5) else ""
    style = (
        f"#p{{position:absolute;inset:0;padding:{r.uniform(1, 4):.1f}% {r.uniform(1, 4):.1f}%;"
        f"background:{backdrop(hand, canvas.color) if hand.chance(0.4) else css(canvas.color)};"
        f"font:{max(points, canvas.smallest):.1f}px/1.25 {face}}}"
        f"table{{border-collapse:collapse;{'width:100%;' if whole or hand.chance(0.4) else ''}"
        f"{stretch}}}"
        "th,td{white-space:nowrap;"
        f"padding:{r.uniform(0.1, 0.45):.2f}em {r.uniform(0.35, 0.9):.2f}em}}"
        ".compact th,.compact td{padding:.1em .4em}"
    )
    if hand.chance(0.3):
        style += f"th{{font-family:{canvas.face()}}}"
    if hand.chance(0.3):
        style += "th{font-weight:400}"
    looks = (_bootstrap, _grid, _ruled, _dark_head, _cards, _plain, _ledger)
    return style + r.choice(looks)(canvas)


def _bootstrap(canvas: Canvas) -> str:
    stripe = css(near(canvas.hand, canvas.color, 12))
    line = css(mix(canvas.color, canvas.ink, 0.2))
    zebra = f"tbody tr:nth-child(odd){{background:{stripe}}}" if canvas.hand.chance(0.6) else ""
    return (
        f"td,th{{border-bottom:1px solid {line}}}thead th{{border-bottom:2px solid {line}}}{zebra}"
    )


def _grid(canvas: Canvas) -> str:
    line = css(mix(canvas.color, canvas.ink, canvas.hand.random.uniform(0.3, 1)))
    width = canvas.hand.random.choice((1, 1, 2))
    return f"td,th{{border:{width}px solid {line}}}"


def _ruled(canvas: Canvas) -> str:
    """As books set tables: three rules and nothing else."""
    return "thead{border-top:2px solid;border-bottom:1px solid}table{border-bottom:2px solid}"


def _dark_head(canvas: Canvas) -> str:
    hand = canvas.hand
    bar = hand.color(0, 120)
    ink, stripe = hand.ink(bar, 120), near(hand, canvas.color, 15)
    zebra = f"tbody tr:nth-child(even){{background:{css(stripe)}}}" if hand.chance(0.7) else ""
    line = css(mix(canvas.color, canvas.ink, 0.25))
    grid = f"td{{border:1px solid {line}}}" if hand.chance(0.4) else ""
    return f"thead{{background:{css(bar)};color:{css(ink)}}}{zebra}{grid}"


def _cards(canvas: Canvas) -> str:
    """Every cell a plate, gaps between."""
    plate = css(near(canvas.hand, canvas.color, 20))
    gap = canvas.hand.random.randint(2, 5)
    return (
        f"table{{border-collapse:separate;border-spacing:{gap}px}}"
        f"td{{background:{plate};border-radius:4px}}th{{border-bottom:2px dotted}}"
    )


def _plain(canvas: Canvas) -> str:
    return "thead{border-bottom:1px solid}" if canvas.hand.chance(0.5) else ""


def _ledger(canvas: Canvas) -> str:
    """The first column stands out."""
    hand = canvas.hand
    side = near(hand, canvas.color, 25)
    line = css(mix(canvas.color, canvas.ink, 0.3))
    return (
        f"td:first-child{{background:{css(side)};font-weight:700}}"
        f"td,th{{border-bottom:1px dashed {line}}}th{{color:{css(canvas.another())}}}"
    )
