"""A page in HTML being written: its size, its colours and the faces used so far."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from draw.hand import Hand, brightness
from draw.sample import ASPECTS, random_size
from draw.sheet import Color, Sheet

LARGEST = 1100  # pixels of a picture's longer side
SYSTEM = ("serif", "sans-serif", "monospace", "sans-serif", "serif", "system-ui")
SYSTEM_SHARE = 1 / 3  # of the pictures use the faces that the browser itself chooses


class Draft(NamedTuple):
    """A page not yet looked at: the browser may find that its texts do not fit."""

    html: str
    width: int
    height: int
    ask: str
    answer: str


def size(hand: Hand, kind: str) -> tuple[int, int]:
    width, height = random_size(hand, *ASPECTS[kind])
    shrink = min(1.0, LARGEST / max(width, height))
    return round(width * shrink), round(height * shrink)


def smallest(width: int, height: int) -> int:
    """Pixels of the smallest font size that can be read in a picture of this size."""
    return Sheet(Image.new("1", (width, height))).smallest


def contrast(a: Color, b: Color) -> float:
    return abs(brightness(a) - brightness(b))


def css(color: Color) -> str:
    return f"rgb({color[0]},{color[1]},{color[2]})"


def mix(a: Color, b: Color, share: float) -> Color:
    """`share` of the second colour in the first."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore


def near(hand: Hand, color: Color, distance: float = 25) -> Color:
    """Another colour of about the same brightness: an ink for one can be read on the other."""
    for share in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        other = mix(color, hand.color(), share)
        if contrast(other, color) < distance:
            return other
    return color


def ground(hand: Hand) -> Color:
    k = hand.random.random()
    if k < 0.25:
        return (255, 255, 255)
    return hand.color(215, 255) if k < 0.5 else hand.color(5, 60) if k < 0.65 else hand.color()


def backdrop(hand: Hand, color: Color) -> str:
    """A CSS background that stays near one colour's brightness."""
    r, a, b = hand.random, css(color), css(near(hand, color))
    k = r.random()
    if k < 0.45:
        return a
    if k < 0.7:
        return f"linear-gradient({r.randint(0, 359)}deg, {a}, {b})"
    if k < 0.85:
        return f"radial-gradient(circle at {r.randint(0, 100)}% {r.randint(0, 100)}%, {b}, {a})"
    faint, wide = css(mix(color, near(hand, color), 0.4)), r.randint(6, 40)
    angle = r.choice((0, 45, 90, 135))
    return f"repeating-linear-gradient({angle}deg, {a} 0 {wide}px, {faint} {wide}px {2 * wide}px)"


class Canvas:
    def __init__(self, hand: Hand, width: int, height: int) -> None:
        self.hand, self.width, self.height = hand, width, height
        self.smallest = smallest(width, height)
        self.system = hand.chance(SYSTEM_SHARE)
        self.color = ground(hand)
        self.ink = hand.ink(self.color, 115)
        if hand.chance(0.3):  # as most of what is printed is
            self.ink = (0, 0, 0) if brightness(self.color) > 128 else (255, 255, 255)
        self._rules: dict[str, str] = {}

    def face(self) -> str:
        """The value of a `font-family`."""
        if self.system:
            return self.hand.random.choice(SYSTEM)
        path = Path(self.hand.font_path())
        name = f"held{len(self._rules)}"
        if path.name not in self._rules:
            # Within the page: a browser gives a page from a file no other file's fonts.
            data = base64.b64encode(path.read_bytes()).decode()
            self._rules[path.name] = (
                f"@font-face{{font-family:{name};src:url(data:font/ttf;base64,{data})}}"
            )
        else:
            name = f"held{list(self._rules).index(path.name)}"
        return f"{name}, sans-serif"

    def another(self, color: Color | None = None) -> Color:
        """One more ink for a ground, by default the page's own."""
        return self.hand.ink(color or self.color, 115)

    def draft(self, body: str, style: str, ask: str, answer: str) -> Draft:
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><style>"
            + "".join(self._rules.values())
            + "*{box-sizing:border-box;margin:0;padding:0}"
            + f"body{{width:{self.width}px;height:{self.height}px;overflow:hidden;"
            + f"background:{css(self.color)};color:{css(self.ink)};position:relative}}"
            + f"{style}</style><body>{body}</body></html>"
        )
        return Draft(page, self.width, self.height, ask, answer)


def tag(name: str, text: str, style: str = "", more: str = "") -> str:
    return f'<{name} style="{style}" {more}>{html.escape(text)}</{name}>'
