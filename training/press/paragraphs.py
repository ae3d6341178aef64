"""Running text whose line breaks are set by hand, so that they are known: in HTML and Writer."""

from __future__ import annotations

from draw import text
from draw.hand import Hand
from draw.running import MOST, sentences
from press.canvas import Canvas, Draft, backdrop, css, mix, size, tag

NARROWEST, WIDEST = 20, 46  # characters of a line
MOST_LINES = 12


def broken(hand: Hand, per: int, count: int) -> list[str]:
    """Running text, filled up to `per` characters a line."""
    words = sentences(hand)
    lines: list[str] = []
    word = next(words)
    while len(lines) < count:
        line, word = word, next(words)
        while len(line) + 1 + len(word) <= per:
            line, word = f"{line} {word}", next(words)
        if sum(map(len, lines)) + len(lines) + len(line) > MOST - 30:
            break
        lines.append(line)
    return lines


def heading(hand: Hand) -> str:
    return " ".join(hand.word(9).capitalize() for _ in range(hand.random.randint(1, 3)))


def draft(hand: Hand) -> Draft:
    r = hand.random
    while True:
        canvas = Canvas(hand, *size(hand, "text"))
        per = r.randint(NARROWEST, WIDEST)
        points = canvas.width * r.uniform(0.75, 0.92) / per / 0.5
        points = min(points, canvas.height * 0.1)
        step = r.uniform(1.2, 1.75)
        most = int(canvas.height * 0.9 / points / step)
        if points > canvas.smallest * 1.1 and most >= 2:
            break
    count = min(most, MOST_LINES, r.randint(2, 12) if hand.chance(0.3) else MOST_LINES)
    head = heading(hand) if count > 3 and hand.chance(0.25) else ""
    lines = broken(hand, per, count - 2 if head else count)
    answer = "\n".join([head, *lines] if head else lines)
    body = _body(canvas, lines, head, points, step)
    return canvas.draft(body, "", r.choice(text.READ), answer)


def _body(canvas: Canvas, lines: list[str], head: str, points: float, step: float) -> str:
    hand, r = canvas.hand, canvas.hand.random
    align = r.choice(("left", "left", "left", "left", "justify", "center", "right"))
    rows = [_line(line, align, last=line is lines[-1]) for line in lines]
    # Sometimes a gap parts two paragraphs; no line is empty in the answer.
    if len(rows) > 4 and hand.chance(0.2):
        rows.insert(r.randint(2, len(rows) - 2), f'<div style="height:{step * 0.6:.2f}em"></div>')
    face = canvas.face()
    title = ""
    if head:
        other = canvas.face() if hand.chance(0.5) else face
        look = f"font:700 {r.uniform(1.1, 1.5):.2f}em/1.5 {other};text-align:{align};"
        title = tag("div", head, look + f"white-space:pre;color:{css(canvas.another())}")
    look = r.choice((
        "", "", "",
        f"border-left:5px solid {css(hand.color())};padding-left:.7em;",
        "border:1px solid;padding:.4em;border-radius:6px;",
        "border-top:3px double;border-bottom:3px double;padding:.2em 0;",
    ))  # fmt: skip
    slant = "italic" if hand.chance(0.08) else "normal"
    style = (
        f"position:absolute;inset:0;overflow:hidden;background:{backdrop(hand, canvas.color)};"
        f"padding:{r.uniform(1, 4):.1f}% {r.uniform(2, 5):.1f}%;"
        f"font:{slant} {r.choice((400, 400, 400, 300, 700))} {points:.1f}px/{step:.2f} {face};"
        f"color:{css(mix(canvas.ink, canvas.color, r.choice((0, 0, 0.08))))}"
    )
    inner = f'<div style="{look}">{title}{"".join(rows)}</div>'
    # The box that shrinks is the page: its scroll width is that of the widest line.
    return f'<div data-page data-fit style="{style}">{inner}</div>'


def _line(line: str, align: str, *, last: bool) -> str:
    if align != "justify":
        return tag("div", line, f"white-space:pre;text-align:{align}")
    # Each line is a block of its own: the last line's alignment is every line's.
    side = "left" if last else "justify"
    return tag("div", line, f"white-space:nowrap;text-align:{side};text-align-last:{side}")
