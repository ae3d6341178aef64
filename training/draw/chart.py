"""Charts drawn by hand with Pillow, or by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from draw.figures import USUAL, Figures, nice_step, random_figures
from draw.hand import Hand, brightness
from draw.sheet import Color, Drawn, Font, Sheet

BY_MATPLOTLIB = 0.15  # six times as slow


def chart(hand: Hand, width: int, height: int, kinds: tuple[str, ...] = USUAL) -> Drawn:
    while True:
        figures = random_figures(hand, kinds)
        sheet = draw_figures(hand, figures, width, height)
        if sheet is not None:
            return Drawn([sheet], figures.turns(hand))


def draw_figures(hand: Hand, figures: Figures, width: int, height: int) -> Sheet | None:
    """None if the labels do not fit."""
    if hand.chance(BY_MATPLOTLIB):
        from draw.plots import draw_plot  # matplotlib takes a second to import

        return draw_plot(hand, figures, width, height)
    return Chart(hand, figures, width, height).draw()


class Chart:
    """One chart being laid out; sizes in pixels."""

    def __init__(self, hand: Hand, figures: Figures, width: int, height: int) -> None:
        self.hand, self.figures = hand, figures
        plain = hand.chance(0.85)
        if plain:
            dark = hand.chance(0.12)
            ground = hand.color(8, 45) if dark else hand.color(228, 255)
            ground = (255, 255, 255) if hand.chance(0.5) and not dark else ground
            self.sheet = hand.sheet(Image.new("RGB", (width, height), ground))
            self.ground: Color = ground
        else:
            self.sheet, self.ground = hand.paper(width, height)
        self.ink = hand.ink(self.ground, 130)
        # Of the plot, labels included.
        self.left, self.right, self.floor = width * 0.04, width * 0.97, height * 0.96
        self.face = hand.font_path()
        self.colors = hand.inks(self.ground, 8)
        if figures.kind in ("bar", "line") and len(figures.series) == 1 and hand.chance(0.75):
            self.colors = self.colors[:1] * 8
        self.look = hand.random.choice(("flat", "flat", "flat", "round", "edged", "faded"))

    def draw(self) -> Sheet | None:
        sheet, figures, hand = self.sheet, self.figures, self.hand
        w, h = sheet.width, sheet.height
        size = max(sheet.smallest * 1.15, h / hand.random.uniform(11, 16))
        title = hand.fitted(self.face, figures.title, w * 0.92, size, sheet.smallest)
        if title.getlength(figures.title) > w * 0.97:
            return None
        x = (w - title.getlength(figures.title)) / 2 if hand.chance(0.75) else w * 0.04
        sheet.text(x, h * 0.02, figures.title, title, self.ink)
        top = h * 0.02 + title.size * 1.6
        size = max(sheet.smallest, h / hand.random.uniform(17, 26))
        if hand.practises and hand.chance(0.25):
            size = sheet.smallest * hand.random.uniform(1, 1.2)
        self.font = hand.font(self.face, size)
        if figures.kind == "pie":
            from draw.pie import draw_pie  # needs this class

            return draw_pie(self, top)
        if len(figures.series) > 1:
            top = self.legend(top, figures.series)
        if top > h * 0.4:
            return None
        sideways = figures.kind in ("bar", "grouped") and hand.chance(0.2)
        return self._sideways(top) if sideways else self._upright(top)

    def legend(self, top: float, names: Sequence[str], where: str = "") -> float:
        """Above the plot, below it or beside it; the height at which the plot begins."""
        font, sheet = self.font, self.sheet
        side = font.size * 0.8
        widths = [side * 1.4 + font.getlength(name) + font.size for name in names]
        place = where or self.hand.random.choice(("above", "above", "below", "right"))
        if place in ("left", "right"):
            free = self.right - self.left - max(widths)
            if free < sheet.width * 0.3 or len(names) * font.size * 1.5 > self.floor - top:
                return math.inf
            first = (
                top + (self.floor - top - len(names) * font.size * 1.5) * self.hand.random.random()
            )
            x = self.right - max(widths) + font.size * 0.5 if place == "right" else self.left
            spots = [(x, first + i * font.size * 1.5) for i in range(len(names))]
            if place == "right":
                self.right -= max(widths)
            else:
                self.left += max(widths)
        else:
            if sum(widths) > sheet.width * 0.94:
                return math.inf
            x = sheet.width * 0.06 if self.hand.chance(0.5) else (sheet.width - sum(widths)) / 2
            y = top if place == "above" else self.floor - font.size * 1.3
            spots = [(x + sum(widths[:i]), y) for i in range(len(names))]
            if place == "above":
                top += font.size * 1.7
            else:
                self.floor -= font.size * 1.6
        draw = sheet.pen.ellipse if self.hand.chance(0.25) else sheet.pen.rectangle
        for (x, y), name, color in zip(spots, names, self.colors, strict=False):
            draw((x, y + font.size * 0.25, x + side, y + font.size * 0.25 + side), fill=color)
            sheet.text(x + side * 1.4, y, name, font, self.ink)
        return top

    def _upright(self, top: float) -> Sheet | None:
        figures, sheet, hand, font = self.figures, self.sheet, self.hand, self.font
        pen, w, h = sheet.pen, sheet.width, sheet.height
        step = figures.step or nice_step(figures.top)
        with_axis = not figures.printed or hand.chance(0.4)
        scale = math.ceil(figures.top / step) * step if with_axis else figures.top
        ticks = self._ticks(scale, step) if with_axis else []
        left = self.left + max((font.getlength(tick) for tick in ticks), default=w * 0.02)
        right, bottom = self.right, self.floor - font.size * 1.4
        ceiling = top + (font.size * 1.5 if figures.printed else font.size * 0.5)
        if bottom - ceiling < h * 0.25 or right - left < w * 0.4:
            return None
        slot = (right - left) / len(figures.labels)
        if not self._labels_fit(slot, font):
            return None
        pen.line((left, bottom, right, bottom), fill=self.ink, width=max(1, h // 250))
        if with_axis or hand.chance(0.5):
            pen.line((left, top, left, bottom), fill=self.ink, width=max(1, h // 250))
        faint = mixed(self.ground, self.ink)
        for i, tick in enumerate(ticks):
            y = bottom - (bottom - ceiling) * i * step / scale
            if not figures.printed or hand.chance(0.6):
                pen.line((left, y, right, y), fill=faint, width=1)
            sheet.text(left - font.getlength(tick) - w * 0.01, y - font.size * 0.6, tick, font,
                       self.ink)  # fmt: skip
        for i, label in enumerate(figures.labels):
            x = left + slot * (i + 0.5) - font.getlength(label) / 2
            sheet.text(x, bottom + font.size * 0.2, label, font, self.ink)
        inside = figures.kind != "line" and hand.chance(0.15)  # values in the bars
        boxes: list[tuple[float, float, float, float]] = []
        levels = [[bottom - (bottom - ceiling) * v / scale for v in row] for row in figures.values]
        for number, heights in enumerate(levels):
            if figures.kind == "line":
                self._line(number, left, slot, heights)
            else:
                self._bars(number, left, slot, heights, bottom)
        for number, (row, heights) in enumerate(zip(figures.values, levels, strict=True)):
            for i, (value, y) in enumerate(zip(row, heights, strict=True)):
                within = inside and bottom - y > font.size * 1.8
                place = y + font.size * 1.5 if within else y
                if figures.printed:
                    boxes.append(self._value(number, i, left, slot, value, place, within))
        return None if overlapping(boxes) else sheet

    def _ticks(self, scale: float, step: float) -> list[str]:
        prefix, unit = self.figures.prefix, self.figures.unit
        return [f"{prefix}{i * step:g}{unit}" for i in range(round(scale / step) + 1)]

    def _labels_fit(self, slot: float, font: Font) -> bool:
        figures = self.figures
        shown = [figures.shown(v) for row in figures.values for v in row] if figures.printed else []
        share = slot * (0.8 / len(figures.series) if figures.kind == "grouped" else 1)
        return (
            max(map(font.getlength, figures.labels)) < slot * 0.94
            and max(map(font.getlength, shown), default=0) < share * 0.98
        )

    def _line(self, number: int, left: float, slot: float, heights: list[float]) -> None:
        color = self.colors[number]
        points = [(left + slot * (i + 0.5), y) for i, y in enumerate(heights)]
        self.sheet.pen.line(points, fill=color, width=max(2, self.sheet.height // 120))
        dot = max(2.5, self.sheet.height / 110)
        draw = self.sheet.pen.rectangle if self.look == "edged" else self.sheet.pen.ellipse
        for x, y in points:
            draw((x - dot, y - dot, x + dot, y + dot), fill=color)

    def _bars(
        self, number: int, left: float, slot: float, heights: list[float], bottom: float
    ) -> None:
        count = len(self.figures.series)
        thick = slot * (0.8 / count if count > 1 else 0.66)
        for i, y in enumerate(heights):
            x = left + slot * (i + 0.5) + thick * (number - count / 2)
            self._bar((x, y, x + thick * 0.98, bottom), self.colors[number if count > 1 else i])

    def _bar(self, box: tuple[float, float, float, float], color: Color) -> None:
        pen, (x0, y0, x1, y1) = self.sheet.pen, box
        if self.look == "round" and min(x1 - x0, y1 - y0) > 8:
            pen.rounded_rectangle(box, min(x1 - x0, y1 - y0) * 0.25, fill=color)
        elif self.look == "faded" and y1 - y0 > 4:
            lines = round(y1 - y0)
            for i in range(lines + 1):  # to a half of the ground's colour
                a, b, c = (round(v + (g - v) * 0.5 * i / lines)
                           for v, g in zip(color, self.ground, strict=True))  # fmt: skip
                pen.line((x0, y0 + i, x1, y0 + i), fill=(a, b, c))
        else:
            pen.rectangle(box, fill=color, outline=self.ink if self.look == "edged" else None)

    def _value(
        self, number: int, i: int, left: float, slot: float, value: float, y: float, within: bool
    ) -> tuple[float, float, float, float]:
        """The box that it takes."""
        shown, count, size = self.figures.shown(value), len(self.figures.series), self.font.size
        x = left + slot * (i + 0.5)
        if self.figures.kind == "grouped":
            x += slot * 0.8 / count * (number + 0.5 - count / 2)
        length = self.font.getlength(shown)
        ink = self.ink
        if within:
            ink = self.hand.ink(self.colors[number if count > 1 else i], 120)
        elif self.figures.kind == "line" and count > 1:  # as its line, and on either side of it
            y += size * 1.6 if self.hand.chance(0.3) else 0
            plate = (x - length / 2, y - size * 1.2, x + length / 2, y - size * 0.2)
            self.sheet.pen.rectangle(plate, fill=self.ground)
            if abs(brightness(self.colors[number]) - brightness(self.ground)) > 90:
                ink = self.colors[number]
        self.sheet.text(x - length / 2, y - size * 1.3, shown, self.font, ink)
        return x - length / 2, y - size * 1.2, x + length / 2, y - size * 0.2

    def _sideways(self, top: float) -> Sheet | None:
        """Bars from the left; the first label and the first series are on top."""
        figures, sheet, font = self.figures, self.sheet, self.font
        left = self.left + max(map(font.getlength, figures.labels)) * 1.05
        shown = [[figures.shown(value) for value in row] for row in figures.values]
        right = self.right - max(font.getlength(words) for row in shown for words in row)
        step = figures.step or nice_step(figures.top)
        with_axis = not figures.printed or self.hand.chance(0.2)
        scale = math.ceil(figures.top / step) * step if with_axis else figures.top
        bottom = self.floor - (font.size * 1.4 if with_axis else 0)
        slot = (bottom - top) / len(figures.labels)
        thick = slot * 0.76 / len(figures.series)
        if right - left < sheet.width * 0.25 or thick < font.size * 1.05:
            return None
        if with_axis and not self._floor_axis(left, right, top, bottom, self._ticks(scale, step)):
            return None
        for i, label in enumerate(figures.labels):
            y = top + slot * (i + 0.12)
            x = left - font.getlength(label) - sheet.width * 0.01
            sheet.text(x, y + slot * 0.38 - font.size * 0.6, label, font, self.ink)
            for number, row in enumerate(figures.values):
                color = self.colors[number if len(figures.values) > 1 else i]
                end, first = left + (right - left) * row[i] / scale, y + thick * number
                self._bar((left, first, max(end, left + 1), first + thick * 0.96), color)
                if figures.printed:
                    middle = first + thick / 2 - font.size * 0.6
                    sheet.text(end + sheet.width * 0.01, middle, shown[number][i], font, self.ink)
        return sheet

    def _floor_axis(
        self, left: float, right: float, top: float, bottom: float, ticks: list[str]
    ) -> bool:
        """Whether the ticks' texts stand apart."""
        slot = (right - left) / (len(ticks) - 1)
        if max(map(self.font.getlength, ticks)) > slot * 0.9:
            return False
        faint = mixed(self.ground, self.ink)
        for i, tick in enumerate(ticks):
            x = left + slot * i
            self.sheet.pen.line((x, top, x, bottom), fill=faint)
            x -= self.font.getlength(tick) / 2
            self.sheet.text(x, bottom + self.font.size * 0.1, tick, self.font, self.ink)
        return True


def mixed(ground: Color, ink: Color) -> Color:
    """A quarter of the ink."""
    a, b, c = ((3 * x + y) // 4 for x, y in zip(ground, ink, strict=True))
    return a, b, c


def overlapping(boxes: list[tuple[float, float, float, float]]) -> bool:
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
