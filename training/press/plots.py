"""The kinds of charts that have axes: bars upright and sideways, lines.

Each draws on a Chart and says whether there was room.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from press.canvas import css
from press.charts import Chart
from press.pies import pie

FINEST = 7  # pixels, as the model sees them, of half a step of an axis that values are read off
Point = tuple[float, float]


class Axes:
    """The plot's frame: where values stand, ticks and grid lines; `along` is the values' axis."""

    def __init__(self, chart: Chart, *, sideways: bool) -> None:
        self.chart, self.sideways = chart, sideways
        hand, figures, size = chart.hand, chart.figures, chart.size
        self.ticked = not figures.printed or hand.chance(0.4)
        self.end, self.ticks = chart.scale() if self.ticked else (figures.top, [])
        longest = max(map(len, figures.labels))
        ticks = max((chart.length(chart.tick(tick)) for tick in self.ticks), default=0.0)
        # Room for the values printed past the bars' ends.
        past = max(chart.length(figures.shown(v)) for row in figures.values for v in row)
        if sideways:
            self.x0 = chart.left + longest * size * 0.6 + size * 0.6
            self.x1 = chart.right - (past * 1.1 + size * 0.5 if figures.printed else ticks / 2)
            self.y0, self.y1 = chart.bottom - size * (1.7 if self.ticked else 0.2), chart.top
            long, count = self.y0 - self.y1, len(figures.labels)
            self.ok = self.x1 - self.x0 > chart.canvas.width * 0.3 and long / count > size * 1.3
        else:
            self.x0 = chart.left + (ticks + size * 0.6 if self.ticked else 0)
            self.x1, self.y0 = chart.right, chart.bottom - size * 1.6
            self.y1 = chart.top + size * (1.6 if figures.printed else 0.7)
            self.ok = self.y0 - self.y1 > chart.canvas.height * 0.3
        across = (self.y0 - self.y1) if sideways else (self.x1 - self.x0)
        self.slot = across / len(figures.labels)
        long = (self.x1 - self.x0) if sideways else (self.y0 - self.y1)
        if not figures.printed:
            seen = long / (2 * (len(self.ticks) - 1)) * 12.5 / chart.canvas.smallest
            self.ok = self.ok and seen > FINEST
        if self.ok:
            self._frame()

    def along(self, value: float) -> float:
        share = value / self.end
        if self.sideways:
            return self.x0 + (self.x1 - self.x0) * share
        return self.y0 - (self.y0 - self.y1) * share

    def across(self, place: float) -> float:
        return (self.y1 if self.sideways else self.x0) + self.slot * place

    def _frame(self) -> None:
        chart, size = self.chart, self.chart.size
        grid = not chart.figures.printed or chart.hand.chance(0.6)
        dash = chart.hand.random.choice(("", 'stroke-dasharray="4 4"', 'stroke-dasharray="1 3"'))
        for tick in self.ticks:
            at = self.along(tick)
            if grid and self.sideways:
                self._line((at, self.y0), (at, self.y1), f'stroke="{chart.faint}" {dash}')
            elif grid:
                self._line((self.x0, at), (self.x1, at), f'stroke="{chart.faint}" {dash}')
            if self.sideways:
                chart.text(at, self.y0 + size * 0.95, chart.tick(tick))
            else:
                chart.text(self.x0 - size * 0.5, at, chart.tick(tick), anchor="end")
        for i, label in enumerate(chart.figures.labels):
            at = self.across(i + 0.5)
            if self.sideways:
                chart.text(self.x0 - size * 0.5, at, label, anchor="end")
            else:
                chart.text(at, self.y0 + size * 0.95, label)
        if chart.hand.chance(0.7):
            end = (self.x0, self.y1) if self.sideways else (self.x1, self.y0)
            self._line((self.x0, self.y0), end, f'stroke="{chart.quiet}"')

    def _line(self, a: Point, b: Point, look: str) -> None:
        ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
        self.chart.add(f"<line {ends} {look}/>")


def _named(chart: Chart) -> None:
    if len(chart.figures.series) > 1:
        chart.legend(chart.figures.series, chart.hand.random.choice(("right", "below", "top")))


def _upright(chart: Chart) -> bool:
    return _bars(chart, sideways=False)


def _sideways(chart: Chart) -> bool:
    return _bars(chart, sideways=True)


def _bars(chart: Chart, *, sideways: bool) -> bool:
    _named(chart)
    axes = Axes(chart, sideways=sideways)
    if not axes.ok:
        return False
    hand, figures, count = chart.hand, chart.figures, len(chart.figures.series)
    thick = hand.random.uniform(0.45, 0.8) if count == 1 else hand.random.uniform(0.75, 0.88)
    thick *= axes.slot / count
    rounding = hand.random.choice((0, 3, 6, thick / 2.5))
    inside, own = figures.printed and hand.chance(0.35), count == 1 and hand.chance(0.25)
    for s, row in enumerate(figures.values):
        for i, value in enumerate(row):
            at = axes.across(i + 0.5) + thick * (s - count / 2)
            color = s if count > 1 else i if own else 0
            end = axes.along(value)
            box = (axes.x0, at, end, at + thick * 0.96) if sideways else (
                at, end, at + thick * 0.96, axes.y0)  # fmt: skip
            _bar(chart, box, rounding, color)
            if figures.printed:
                _value(chart, box, figures.shown(value), color, inside=inside, sideways=sideways)
    return True


def _bar(chart: Chart, box: tuple[float, ...], rounding: float, color: int) -> None:
    x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
    place = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
    chart.add(f'<rect {place} rx="{min(rounding, w / 2, h / 2):.1f}" fill="{chart.fill(color)}"/>')


def _value(
    chart: Chart, box: tuple[float, ...], shown: str, color: int, *, inside: bool, sideways: bool
) -> None:
    """Within the bar's end if it is to stand there and there is room, else past it."""
    x0, y0, x1, y1 = box
    size, length = chart.size, chart.length(shown)
    if sideways:
        inside = inside and x1 - x0 > length + size and y1 - y0 > size
        x, y = (x1 - size * 0.4, (y0 + y1) / 2) if inside else (x1 + size * 0.4, (y0 + y1) / 2)
        anchor = "end" if inside else "start"
    else:
        inside = inside and y1 - y0 > size * 1.6 and x1 - x0 > length
        x, y, anchor = (x0 + x1) / 2, y0 + size * (0.85 if inside else -0.75), "middle"
    chart.text(x, y, shown, anchor=anchor, fill=chart.on(color) if inside else "")


def _line(chart: Chart) -> bool:
    if chart.figures.printed and len(chart.figures.series) > 1:
        return False  # values of several lines would lie on one another
    _named(chart)
    axes = Axes(chart, sideways=False)
    if not axes.ok:
        return False
    hand, height = chart.hand, chart.canvas.height
    wide = max(1.5, height / hand.random.uniform(90, 200))
    area = len(chart.figures.series) == 1 and hand.chance(0.35)
    dash = hand.random.choice(("", "", f'stroke-dasharray="{wide * 3:.0f} {wide * 2:.0f}"'))
    dot, hollow = wide * hand.random.uniform(1.4, 2.2), hand.chance(0.35)
    for s, row in enumerate(chart.figures.values):
        points = [(axes.across(i + 0.5), axes.along(value)) for i, value in enumerate(row)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        color = css(chart.colors[s])
        if area:
            closed = f"{path}V{axes.y0:.1f}H{points[0][0]:.1f}Z"
            chart.add(f'<path d="{closed}" fill="{color}" fill-opacity=".22"/>')
        chart.add(
            f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{wide:.1f}" {dash}/>'
        )
        inner = css(chart.canvas.color) if hollow else color
        for (x, y), value in zip(points, row, strict=True):
            look = f'fill="{inner}" stroke="{color}" stroke-width="{wide * 0.7:.1f}"'
            chart.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot:.1f}" {look}/>')
            if chart.figures.printed:
                halo = f'stroke="{css(chart.canvas.color)}" stroke-width="3" paint-order="stroke"'
                words = chart.figures.shown(value)
                off = dot + chart.size * 0.75
                free = [
                    to
                    for to in (y - off, y + off)
                    if to < axes.y0 - chart.size * 0.6 and not _crossed(chart, x, to, words, points)
                ]
                if not free:
                    return False
                chart.text(x, free[0], words, more=halo)
    return True


def _crossed(chart: Chart, x: float, y: float, words: str, points: list[Point]) -> bool:
    """Whether the line runs through text that stands there."""
    wide, high = chart.length(words) / 2, chart.size * 0.45
    return any(
        abs(a[0] + (b[0] - a[0]) * t / 60 - x) < wide
        and abs(a[1] + (b[1] - a[1]) * t / 60 - y) < high
        for a, b in pairwise(points)
        for t in range(61)
    )


DRAW: dict[str, Callable[[Chart], bool]] = {
    "upright": _upright,
    "sideways": _sideways,
    "line": _line,
    "pie": pie,
}
KINDS = {
    "bar": ("upright", "upright", "sideways"),
    "grouped": ("upright", "upright", "sideways"),
    "line": ("line",),
    "pie": ("pie",),
}
