"""The same figures drawn by matplotlib, which has habits of its own."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter
from PIL import Image

from draw.figures import Figures
from draw.hand import Hand, brightness
from draw.sheet import Mark, Sheet

DPI = 100


def draw_plot(hand: Hand, figures: Figures, width: int, height: int) -> Sheet | None:
    """None if texts would lie on one another."""
    if figures.printed and figures.kind == "line" and len(figures.series) > 1:
        return None
    plot = Plot(hand, figures, width, height)
    if figures.kind == "pie":
        plot.pie()
    else:
        plot.series()
        plot.axis()
    return plot.sheet()


class Plot:
    def __init__(self, hand: Hand, figures: Figures, width: int, height: int) -> None:
        self.hand, self.figures = hand, figures
        self.width, self.height = width, height
        r = hand.random
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="tight")
        self.canvas = FigureCanvasAgg(figure)
        self.axes: Any = figure.add_subplot()
        smallest = Sheet(Image.new("1", (width, height))).smallest * 72 / DPI
        size = max(smallest, height / DPI * 72 / r.uniform(20, 28))
        self.face = FontProperties(fname=hand.font_path(), size=size)
        if hand.chance(0.3):
            figure.set_facecolor([v / 255 for v in hand.color(225, 255)])
        self.colors: list[Any] = [f"C{i}" for i in range(10)]
        if hand.chance(0.5):
            inks = hand.inks((255, 255, 255), 10)
            self.colors = [tuple(v / 255 for v in ink) for ink in inks]
        large = FontProperties(fname=hand.font_path(), size=size * r.uniform(1.1, 1.5))
        self.texts = [self.axes.set_title(figures.title, fontproperties=large)]

    def pie(self) -> None:
        figures, r, row = self.figures, self.hand.random, self.figures.values[0]
        names = [
            f"{label} {figures.shown(value)}"
            for label, value in zip(figures.labels, row, strict=True)
        ]
        how = r.choice(("beside", "beside", "apart", "inside", "listed"))
        order = list(range(len(row)))
        if self.hand.chance(0.6):
            r.shuffle(order)
        beside = {"beside": names, "apart": figures.labels}.get(how)
        wedges, *texts = self.axes.pie(
            [row[i] for i in order],
            labels=None if beside is None else [beside[i] for i in order],
            colors=self.colors,
            startangle=90 if self.hand.chance(0.4) else r.uniform(0, 360),
            counterclock=self.hand.chance(0.5),
            autopct="%.0f%%" if how in ("apart", "inside") else None,
            textprops={"fontproperties": self.face},
            wedgeprops={"width": r.choice((1, 1, 0.5)) * 0.8},
            pctdistance=r.uniform(0.6, 0.7),
            radius=0.8,
        )
        for some in texts:
            self.texts += some
        for wedge, text in zip(wedges, texts[1] if len(texts) > 1 else (), strict=False):
            red, green, blue, _ = wedge.get_facecolor()
            dark = brightness((255 * red, 255 * green, 255 * blue)) < 120
            text.set_color("white" if dark else "black")
        if beside is None:
            keys = names if how == "listed" else figures.labels
            where = r.choice(("center left", "center right", "lower center"))
            # Beyond the axes' edge, or the pie would be under it.
            at = {"center left": (1, 0.5), "center right": (0, 0.5)}.get(where, (0.5, -0.12))
            count = len(row) if where == "lower center" else 1
            legend = self.axes.legend(
                wedges, [keys[i] for i in order], prop=self.face, loc=where,
                bbox_to_anchor=at, ncols=count, frameon=False,
            )  # fmt: skip
            self.texts += legend.get_texts()

    def series(self) -> None:
        figures, places = self.figures, range(len(self.figures.labels))
        wide = 0.8 / len(figures.series)
        for number, (name, row) in enumerate(zip(figures.series, figures.values, strict=True)):
            at, look = list(places), {"color": self.colors[number], "label": name or None}
            if figures.kind == "line":
                self.axes.plot(at, row, self.hand.random.choice(("o-", "s-", "o--", "^-")), **look)
            else:
                at = [place + wide * (number + 0.5) - 0.4 for place in places]
                self.axes.bar(at, row, wide * 0.95, **look)
            if figures.printed:
                self.texts += [
                    self.axes.annotate(
                        figures.shown(value),
                        (x, value),
                        (0, 3),
                        ha="center",
                        textcoords="offset points",
                        fontproperties=self.face,
                    )
                    for x, value in zip(at, row, strict=True)
                ]

    def axis(self) -> None:
        figures, axes = self.figures, self.axes
        axes.set_xticks(list(range(len(figures.labels))), figures.labels, fontproperties=self.face)
        self.texts += axes.get_xticklabels()
        top = figures.top * 1.15
        if not figures.printed:
            ticks = [i * figures.step for i in range(int(figures.top / figures.step) + 2)]
            axes.yaxis.set_major_locator(FixedLocator(ticks))
            axes.grid(axis="y", alpha=0.5)
            top = ticks[-1]
        elif self.hand.chance(0.5):
            axes.set_yticks([])
        show = FuncFormatter(lambda value, _: f"{figures.prefix}{value:g}{figures.unit}")
        axes.yaxis.set_major_formatter(show)
        for label in axes.get_yticklabels():
            label.set_fontproperties(self.face)
        if self.hand.chance(0.5):
            axes.spines[["top", "right"]].set_visible(False)
        count = len(figures.series)
        if count > 1:
            legend = axes.legend(prop=self.face, loc="upper center", ncols=count, frameon=False)
            self.texts += legend.get_texts()
            top *= 1.3
        axes.set_ylim(0, top)

    def sheet(self) -> Sheet | None:
        self.canvas.draw()
        shown = [text for text in self.texts if text.get_text()]
        boxes = [text.get_window_extent() for text in shown]
        inside = all(
            box.x0 >= 0 and box.x1 <= self.width and box.y0 >= 0 and box.y1 <= self.height
            for box in boxes
        )
        if not inside or any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]):
            return None
        pixels, size = bytes(self.canvas.buffer_rgba()), self.canvas.get_width_height()
        sheet = Sheet(Image.frombytes("RGBA", size, pixels).convert("RGB"))
        for box, text in zip(boxes, shown, strict=True):
            written = text.get_text()
            step = (box.x1 - box.x0) / len(written)  # near enough for cells of 28 pixels
            sheet.marks += [
                Mark(box.x0 + step * (i + 0.5), self.height - (box.y0 + box.y1) / 2, character)
                for i, character in enumerate(written)
                if character != " "
            ]
        return sheet
