"""Short lines of text in HTML: posters, notices, lists of names, labels, menus."""

from __future__ import annotations

from collections.abc import Callable

from draw import text
from draw.hand import Hand
from draw.running import MOST
from draw.text import _piece
from press.canvas import Canvas, Draft, backdrop, css, near, size, tag

PLACES = ("Town Hall", "Main Street", "Room {}", "Hall {}", "The Old Mill", "Station Road {}")
NOTICES = (
    "Please keep this door closed", "No smoking", "Mind the step", "Staff only", "Wet paint",
    "Ring the bell", "Out of order", "Please wait here", "Do not enter", "Closed on Mondays",
)  # fmt: skip
MONTHS = ("January", "March", "April", "May", "June", "August", "October", "December")


def draft(hand: Hand) -> Draft:
    width, height = size(hand, "text")
    while True:
        lines = hand.random.choice((_poster, _notice, _names, _label, _menu, _mixed, _mixed))(hand)
        answer = "\n".join(lines).replace("\t", " ")
        if len(answer) <= MOST:
            break
    canvas = Canvas(hand, width, height)
    ask = hand.random.choice(text.READ)
    return canvas.draft(Lines(canvas).body(lines), "", ask, answer)


def _poster(hand: Hand) -> list[str]:
    r = hand.random
    day = f"{r.randint(1, 30)} {r.choice(MONTHS)} {r.randint(1990, 2030)}"
    lines = [
        " ".join(hand.word().capitalize() for _ in range(r.randint(1, 2))),
        f"with {r.choice(hand.names)}",
        r.choice((day, day.upper(), f"{r.randint(1, 12)}:{r.choice((15, 30, 45))} pm")),
        r.choice(PLACES).format(r.randint(1, 99)),
        f"Tickets {hand.number()}",
        f"{hand.word()} and {hand.word()}",
    ]
    return [line for line in lines if hand.chance(0.75)] or lines[:1]


def _notice(hand: Hand) -> list[str]:
    r = hand.random
    head = r.choice(("NOTICE", "Attention", "WARNING", "Important", hand.word().upper()))
    more = [r.choice(NOTICES) for _ in range(r.randint(0, 2))]
    thing = f"{hand.word().capitalize()} {hand.word()} {hand.word()}."
    return [
        head,
        *dict.fromkeys(more),
        thing,
        *([r.choice(hand.names)] if hand.chance(0.4) else []),
    ]


def _names(hand: Hand) -> list[str]:
    r = hand.random
    names = [r.choice(hand.names) for _ in range(r.randint(3, 8))]
    head = [f"{hand.word().capitalize()} {r.choice(('Team', 'Club', 'List', 'Guests'))}"]
    return (head if hand.chance(0.6) else []) + names


def _label(hand: Hand) -> list[str]:
    r = hand.random
    lines = [f"{hand.word(9).capitalize()}: {_piece(hand)}" for _ in range(r.randint(1, 4))]
    code = f"{hand.word(4).upper()}-{r.randint(100, 99999)}"
    return [hand.word().upper(), *lines, *([code] if hand.chance(0.5) else [])]


def _menu(hand: Hand) -> list[str]:
    """A tab stands between what stands left and what stands right on one line."""
    r, sign = hand.random, hand.random.choice(("$", "€", "£", ""))
    dishes = []
    for _ in range(r.randint(2, 7)):
        dish = f"{hand.word(9).capitalize()} {hand.word(7) if hand.chance(0.5) else ''}".strip()
        dishes.append(f"{dish}\t{sign}{r.randint(1, 40)}.{r.choice((0, 50, 90, 25)):02d}")
    return [hand.word().capitalize() + r.choice((" Menu", "", " Bar")), *dishes]


def _mixed(hand: Hand) -> list[str]:
    r = hand.random
    return [" ".join(_piece(hand) for _ in range(r.randint(1, 5))) for _ in range(r.randint(1, 8))]


class Lines:
    def __init__(self, canvas: Canvas) -> None:
        self.canvas, self.hand = canvas, canvas.hand
        self.face = canvas.face()
        self.align = self.hand.random.choice(("left", "left", "center", "center", "right", "each"))

    def body(self, lines: list[str]) -> str:
        hand, r, canvas = self.hand, self.hand.random, self.canvas
        styles: tuple[Callable[[str, float], str], ...] = (self._plain, self._plain, self._chip)
        line = r.choice(styles)
        room = canvas.height * 0.9 / len(lines) / 1.5
        base = max(canvas.smallest, min(room, canvas.height * r.uniform(0.03, 0.11)))
        rows = []
        for i, words in enumerate(lines):
            points = base * (r.uniform(1.2, 2) if i == 0 else r.uniform(0.75, 1.3))
            rows.append(line(words, max(canvas.smallest, points)))
        spread = r.choice(("flex-start", "center", "space-between", "space-evenly", "flex-end"))
        pad = f"{r.uniform(1.5, 5):.1f}% {r.uniform(2, 7):.1f}%"
        look = f"background:{backdrop(hand, canvas.color)};"
        if hand.chance(0.3):
            look += f"border:{r.randint(2, 9)}px {r.choice(('solid', 'double', 'dotted'))};"
        if hand.chance(0.2):
            look += f"box-shadow:inset 0 0 {r.randint(8, 40)}px {css(near(hand, canvas.color))};"
        column = (
            f"position:absolute;inset:0;display:flex;flex-direction:column;padding:{pad};"
            f"justify-content:{spread};gap:{r.uniform(0, 0.6) * base:.1f}px;{look}"
        )
        return f'<div data-page style="{column}">{"".join(rows)}</div>'

    def _plain(self, words: str, points: float) -> str:
        hand, r = self.hand, self.hand.random
        if hand.chance(0.25):
            self.face = self.canvas.face()
        ink = self.canvas.ink if hand.chance(0.4) else self.canvas.another()
        return self._row(words, points, f"color:{css(ink)};{r.choice(('', '', 'width:100%;'))}")

    def _chip(self, words: str, points: float) -> str:
        """On a plate of its own."""
        r, plate = self.hand.random, self.hand.color()
        ink = css(self.canvas.another(plate))
        side = r.choice(("border-left:6px solid", "border-bottom:3px solid", "border:1px solid"))
        look = f"background:{backdrop(self.hand, plate)};color:{ink};{side};"
        return self._row(words, points, look + f"border-radius:{r.choice((0, 4, 12))}px;")

    def _row(self, words: str, points: float, look: str) -> str:
        r = self.hand.random
        at = self.align if self.align != "each" else r.choice(("left", "center", "right"))
        weight, slant = r.choice((400, 400, 700)), r.choice(("normal",) * 6 + ("italic",))
        style = (
            f"font:{slant} {weight} {points:.1f}px/1.35 {self.face};white-space:pre;flex:none;"
            f"text-align:{at};letter-spacing:{r.choice((0, 0, 0, 0.04, 0.1))}em;"
            f"padding:0 {r.uniform(0, 0.5):.2f}em;{look}"
        )
        left, _, right = words.partition("\t")
        if not right:
            return tag("div", words, style, "data-fit")
        split = f"{style}display:flex;justify-content:space-between;gap:1em"
        return f"<div data-fit style='{split}'>{tag('span', left)}{tag('span', right)}</div>"
