"""Charts drawn by hand with Pillow, or by matplotlib."""

from __future__ import annotations

import math

from draw.figures import Figures, nice_step, random_figures
from draw.hand import Hand
from draw.sheet import Color, Drawn, Font, Sheet

BY_MATPLOTLIB = 0.25


def chart(hand: Hand, width: int, height: int) -> Drawn:
    while True:
        figures = random_figures(hand)
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
            self.sheet = Sheet(hand.paper(width, height)[0].image)
            self.sheet.image.paste(ground, (0, 0, width, height))
            self.ground: Color = ground
        else:
            self.sheet, self.ground = hand.paper(width, height)
        self.ink = hand.ink(self.ground, 130)
        self.right, self.floor = width * 0.97, height * 0.96  # of the plot, labels included
        self.face = hand.font_path()
        shades = [hand.ink(self.ground, 40) for _ in range(8)]
        self.colors = [shades[0]] * 8 if figures.kind in ("bar", "line") else shades
        if figures.kind == "bar" and hand.chance(0.25):
            self.colors = shades

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
        self.font = hand.font(self.face, max(sheet.smallest, h / hand.random.uniform(17, 26)))
        if len(figures.series) > 1:
            top = self._legend(top)
        if top > h * 0.4:
            return None
        if figures.kind == "pie":
            return self._pie(top)
        sideways = figures.kind == "bar" and figures.printed and hand.chance(0.2)
        return self._sideways(top) if sideways else self._upright(top)

    def _legend(self, top: float) -> float:
        """Above the plot, below it or on its right; the height at which the plot begins."""
        font, sheet, names = self.font, self.sheet, self.figures.series
        side = font.size * 0.8
        widths = [side * 1.4 + font.getlength(name) + font.size for name in names]
        place = self.hand.random.choice(("above", "above", "below", "right"))
        if place == "right":
            self.right -= max(widths)
            first = top + sheet.height * self.hand.random.uniform(0, 0.3)
            spots = [(self.right + font.size * 0.5, first + i * font.size * 1.5)
                     for i in range(len(names))]  # fmt: skip
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
        for (x, y), name, color in zip(spots, names, self.colors_of_series(), strict=True):
            box = (x, y + font.size * 0.25, x + side, y + font.size * 0.25 + side)
            sheet.pen.rectangle(box, fill=color)
            sheet.text(x + side * 1.4, y, name, font, self.ink)
        return top

    def colors_of_series(self) -> list[Color]:
        if len(set(self.colors)) == 1:
            self.colors = [self.hand.ink(self.ground, 40) for _ in range(8)]
        return self.colors[: len(self.figures.series)]

    def _upright(self, top: float) -> Sheet | None:
        figures, sheet, hand, font = self.figures, self.sheet, self.hand, self.font
        pen, w, h = sheet.pen, sheet.width, sheet.height
        step = figures.step or nice_step(figures.top)
        with_axis = not figures.printed or hand.chance(0.4)
        scale = math.ceil(figures.top / step) * step if with_axis else figures.top
        ticks = [figures.prefix + f"{i * step:g}" + figures.unit
                 for i in range(round(scale / step) + 1)] if with_axis else []  # fmt: skip
        left = w * 0.04 + max((font.getlength(tick) for tick in ticks), default=w * 0.02)
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
        faint = tuple((a * 3 + b) // 4 for a, b in zip(self.ground, self.ink, strict=True))
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
        for number, row in enumerate(figures.values):
            heights = [bottom - (bottom - ceiling) * value / scale for value in row]
            if figures.kind == "line":
                self._line(number, left, slot, heights)
            else:
                self._bars(number, left, slot, heights, bottom)
            for i, (value, y) in enumerate(zip(row, heights, strict=True)):
                within = inside and bottom - y > font.size * 1.8
                place = y + font.size * 1.5 if within else y
                if figures.printed and not self._value(number, i, left, slot, value, place, within):
                    return None
        return sheet

    def _labels_fit(self, slot: float, font: Font) -> bool:
        figures = self.figures
        shown = [figures.shown(v) for row in figures.values for v in row] if figures.printed else []
        share = slot * (0.8 / len(figures.series) if figures.kind == "grouped" else 1)
        return (
            max(map(font.getlength, figures.labels)) < slot * 0.94
            and max(map(font.getlength, shown), default=0) < share * 0.98
        )

    def _line(self, number: int, left: float, slot: float, heights: list[float]) -> None:
        color = self.colors_of_series()[number] if len(self.figures.series) > 1 else self.colors[0]
        points = [(left + slot * (i + 0.5), y) for i, y in enumerate(heights)]
        self.sheet.pen.line(points, fill=color, width=max(2, self.sheet.height // 120))
        dot = max(2.5, self.sheet.height / 110)
        for x, y in points:
            self.sheet.pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color)

    def _bars(
        self, number: int, left: float, slot: float, heights: list[float], bottom: float
    ) -> None:
        count = len(self.figures.series)
        thick = slot * (0.8 / count if count > 1 else 0.66)
        grouped = self.colors_of_series() if count > 1 else self.colors
        for i, y in enumerate(heights):
            x = left + slot * (i + 0.5) + thick * (number - count / 2)
            color = grouped[number] if count > 1 else grouped[i % len(grouped)]
            self.sheet.pen.rectangle((x, y, x + thick * 0.98, bottom), fill=color)

    def _value(
        self, number: int, i: int, left: float, slot: float, value: float, y: float, within: bool
    ) -> bool:
        shown, count = self.figures.shown(value), len(self.figures.series)
        x = left + slot * (i + 0.5)
        if self.figures.kind == "grouped":
            x += slot * 0.8 / count * (number + 0.5 - count / 2)
        elif count > 1:  # values of several lines would lie on one another
            return False
        length = self.font.getlength(shown)
        color = (self.colors[number if count > 1 else i % len(self.colors)]) if within else None
        ink = self.ink if color is None else self.hand.ink(color, 120)
        self.sheet.text(x - length / 2, y - self.font.size * 1.3, shown, self.font, ink)
        return True

    def _sideways(self, top: float) -> Sheet | None:
        figures, sheet, font = self.figures, self.sheet, self.font
        left = sheet.width * 0.04 + max(map(font.getlength, figures.labels)) * 1.05
        shown = [figures.shown(value) for value in figures.values[0]]
        right = sheet.width * 0.95 - max(map(font.getlength, shown))
        slot = (sheet.height * 0.97 - top) / len(shown)
        if right - left < sheet.width * 0.25 or slot < font.size * 1.3:
            return None
        for i, (label, value) in enumerate(zip(figures.labels, figures.values[0], strict=True)):
            y = top + slot * i
            end = left + (right - left) * value / figures.top
            box = (left, y + slot * 0.15, end, y + slot * 0.85)
            sheet.pen.rectangle(box, fill=self.colors[i % len(self.colors)])
            middle = y + slot / 2 - font.size * 0.6
            x = left - font.getlength(label) - sheet.width * 0.01
            sheet.text(x, middle, label, font, self.ink)
            sheet.text(end + sheet.width * 0.01, middle, shown[i], font, self.ink)
        return sheet

    def _pie(self, top: float) -> Sheet | None:
        """Slices with their labels and shares beside them."""
        figures, sheet, font = self.figures, self.sheet, self.font
        radius = min(sheet.width * 0.22, (sheet.height * 0.96 - top) / 2 - font.size * 1.5)
        if radius < font.size * 2:
            return None
        cx, cy = sheet.width / 2, top + (sheet.height * 0.97 - top) / 2
        hollow = self.hand.chance(0.2)
        angle, box = self.hand.random.uniform(0, 360), (cx - radius, cy - radius)
        for i, (label, value) in enumerate(zip(figures.labels, figures.values[0], strict=True)):
            turn = value * 3.6
            sheet.pen.pieslice(
                (*box, cx + radius, cy + radius), angle, angle + turn,
                fill=self.colors[i], outline=self.ground,
            )  # fmt: skip
            if hollow:
                pen_box = (cx - radius / 2, cy - radius / 2, cx + radius / 2, cy + radius / 2)
                sheet.pen.ellipse(pen_box, fill=self.ground)
            middle = math.radians(angle + turn / 2)
            words = f"{label} {figures.shown(value)}"
            x = cx + math.cos(middle) * (radius + font.size * 0.6)
            y = cy + math.sin(middle) * (radius + font.size * 0.9) - font.size * 0.6
            x -= font.getlength(words) if math.cos(middle) < 0 else 0
            if x < 0 or x + font.getlength(words) > sheet.width:
                return None
            sheet.text(x, y, words, font, self.ink)
            angle += turn
        return sheet
