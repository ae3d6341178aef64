"""Charts as SVG in HTML: what is chosen for a chart, its title and its legend."""

from __future__ import annotations

import colorsys
import html
import math

from draw import figures as figure
from draw.figures import Figures, nice_step, random_figures
from draw.hand import Hand, brightness
from draw.sheet import Color
from press.canvas import Canvas, Draft, contrast, css, mix, size

ASKS = figure.DESCRIBE[:4]
WIDE = 0.58  # of the font size is a character, more or less; the browser checks what comes of it


def draft(hand: Hand) -> Draft:
    from press import plots  # needs this module's Chart

    while True:
        figures = random_figures(hand)
        canvas = Canvas(hand, *size(hand, "chart"))
        chart = Chart(canvas, figures)
        drawn = plots.DRAW[hand.random.choice(plots.KINDS[figures.kind])](chart)
        if drawn:
            break
    ask = hand.random.choice(ASKS if figures.kind == "line" else (ASKS[0], ASKS[1], ASKS[3]))
    return canvas.draft(chart.svg(), "", ask, figures.description())


class Chart:
    """What all kinds of charts share. The plot may fill `left, top, right, bottom`."""

    def __init__(self, canvas: Canvas, figures: Figures) -> None:
        hand, r = canvas.hand, canvas.hand.random
        self.canvas, self.figures, self.hand = canvas, figures, hand
        if hand.chance(0.55):
            canvas.color = hand.color(238, 255) if hand.chance(0.5) else (255, 255, 255)
        if contrast(canvas.ink, canvas.color) < 140:  # also where it is drawn over that colour
            canvas.ink = hand.ink(canvas.color, 140)
        self.quiet = css(mix(canvas.ink, canvas.color, r.choice((0, 0, 0.15))))
        self.faint = css(mix(canvas.color, canvas.ink, r.uniform(0.15, 0.3)))
        self.face = canvas.face()
        self.size = max(canvas.smallest * 1.02, canvas.height / r.uniform(18, 27))
        self.colors = palette(hand, canvas.color)
        self.parts: list[str] = []
        self.defs: list[str] = []
        edge = canvas.width * r.uniform(0.025, 0.06)
        self.left, self.right = edge, canvas.width - edge
        self.top, self.bottom = canvas.height * r.uniform(0.02, 0.05), canvas.height - edge * 0.6
        self._title()

    def add(self, part: str) -> None:
        self.parts.append(part)

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "middle", fill: str = "",
        more: str = "",
    ) -> None:  # fmt: skip
        """Centred on a height."""
        look = f'fill="{fill or self.quiet}" text-anchor="{anchor}" dominant-baseline="central"'
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" {look} {more}>{html.escape(words)}</text>')

    def length(self, words: str) -> float:
        return len(words) * self.size * WIDE

    def fill(self, i: int) -> str:
        """A flat colour or, in some charts, a gradient to a near one."""
        color = self.colors[i % len(self.colors)]
        if not self.gradients:
            return css(color)
        name = f"g{i}"
        stops = (css(mix(color, (255, 255, 255), 0.3)), css(color))
        self.defs.append(
            f'<linearGradient id="{name}" x1="0" y1="0" x2="0" y2="1">'
            f'<stop offset="0" stop-color="{stops[0]}"/><stop offset="1" stop-color="{stops[1]}"/>'
            "</linearGradient>"
        )
        return f"url(#{name})"

    def on(self, i: int) -> str:
        """An ink for text that stands on a colour."""
        color = self.colors[i % len(self.colors)]
        if self.gradients:
            color = mix(color, (255, 255, 255), 0.15)
        return "#fff" if brightness(color) < 140 else "#111"

    def _title(self) -> None:
        hand, r, canvas = self.hand, self.hand.random, self.canvas
        self.gradients = hand.chance(0.25)
        points = self.size * r.uniform(1.15, 1.6)
        room = canvas.width * 0.92 / WIDE / len(self.figures.title)
        points = max(canvas.smallest, min(points, room))
        middle = hand.chance(0.45)
        x = canvas.width / 2 if middle else self.left
        face = self.face if hand.chance(0.6) else canvas.face()
        look = f"font-size:{points:.1f}px;font-weight:{r.choice((400, 600, 700))};"
        self.text(
            x, self.top + points * 0.65, self.figures.title, fill=css(canvas.ink),
            anchor="middle" if middle else "start", more=f"style='{look}font-family:{face}'",
        )  # fmt: skip
        self.top += points * 1.5
        if hand.chance(0.15):
            line = f'x1="{self.left:.1f}" x2="{self.right:.1f}" y1="{self.top:.1f}"'
            self.add(f'<line {line} y2="{self.top:.1f}" stroke="{self.faint}" stroke-width="1.5"/>')
        self.top += self.size * 0.4

    def legend(self, names: tuple[str, ...], where: str) -> None:
        """Takes its room from the plot's."""
        step, key = self.size * 1.6, self.size * 0.75
        lengths = [self.length(name) + key * 2.4 for name in names]
        if where == "right":
            self.right -= max(lengths) + self.size * 0.6
            x, y = self.right + self.size * 0.8, (self.top + self.bottom - step * len(names)) / 2
            places = [(x, y + step * (i + 0.5)) for i in range(len(names))]
        else:
            y = self.top + step * 0.4 if where == "top" else self.bottom - step * 0.4
            x = max(self.left, (self.canvas.width - sum(lengths)) / 2)
            places = [(x + sum(lengths[:i]), y) for i in range(len(names))]
            self.top += step * (where == "top")
            self.bottom -= step * (where == "below")
        rounding = self.hand.random.choice((0, 2, key / 2))
        for i, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
            box = f'x="{x:.1f}" y="{y - key / 2:.1f}" width="{key:.1f}" height="{key:.1f}"'
            self.add(f'<rect {box} rx="{rounding:.1f}" fill="{css(self.colors[i])}"/>')
            self.text(x + key * 1.5, y, name, anchor="start")

    def scale(self) -> tuple[float, list[float]]:
        """The axis' end and its ticks."""
        step = self.figures.step or nice_step(self.figures.top)
        count = math.ceil(self.figures.top / step - 1e-9)
        return count * step, [i * step for i in range(count + 1)]

    def tick(self, value: float) -> str:
        return f"{self.figures.prefix}{value:g}{self.figures.unit}"

    def svg(self) -> str:
        w, h = self.canvas.width, self.canvas.height
        style = f"font-family:{self.face};font-size:{self.size:.1f}px;display:block"
        defs, parts = "".join(dict.fromkeys(self.defs)), "".join(self.parts)
        return f'<svg width="{w}" height="{h}" style="{style}"><defs>{defs}</defs>{parts}</svg>'


def palette(hand: Hand, ground: Color) -> list[Color]:
    """Eight colours that differ from the ground and from one another."""
    first, found = hand.random.random(), []
    for i in range(8):
        hue, value = first + i * 0.618, hand.random.uniform(0.45, 0.95)
        for _ in range(20):
            parts = colorsys.hsv_to_rgb(hue % 1, hand.random.uniform(0.45, 0.95), value)
            color = (round(255 * parts[0]), round(255 * parts[1]), round(255 * parts[2]))
            if sum(abs(a - b) for a, b in zip(color, ground, strict=True)) > 130:
                break
            value = (value + 0.37) % 1
        found.append(color)
    return found
