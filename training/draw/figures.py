"""What a chart shows, apart from how it is drawn, and what can be asked of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from draw.hand import Hand
from draw.sheet import Turn

DESCRIBE = (
    "Could you please introduce this chart to me?",
    "Describe this chart.",
    "Could you please introduce this stock to me?",
    "What does this chart show?",
    "Describe the image.",
    "What is in the picture?",
)
SUBJECTS = (
    "Revenue", "Sales", "Users", "Profit", "Growth", "Exports", "Visitors", "Energy Use",
    "Population", "Orders", "Output", "Traffic", "Costs", "Budget", "Income", "Downloads",
    "Rainfall", "Market Share", "Staff", "Data Center Revenue", "Net Income", "Subscribers",
)  # fmt: skip
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NAMES = {"bar": "bar chart", "grouped": "grouped bar chart", "line": "line chart",
         "pie": "pie chart"}  # fmt: skip
ASKED = 4  # values of one chart, in practice
# How often each is drawn: as an evaluation asks, and as training practises what is hard.
USUAL = ("bar", "bar", "bar", "line", "line", "grouped", "pie")
PRACTICE = ("bar", "bar", "line", "line", "grouped", "grouped", "pie", "pie")


@dataclass(frozen=True)
class Figures:
    kind: str  # a key of NAMES
    title: str
    labels: tuple[str, ...]
    series: tuple[str, ...]  # one empty name where there is one series
    values: tuple[tuple[float, ...], ...]  # a row for each series
    prefix: str
    unit: str
    decimals: int
    printed: bool  # values stand on the chart; otherwise they are read off the axis
    step: float  # between two ticks of the axis

    def shown(self, value: float) -> str:
        return f"{self.prefix}{value:.{self.decimals}f}{self.unit}"

    @property
    def top(self) -> float:
        return max(map(max, self.values))

    def title_sentence(self) -> str:
        return f'a {NAMES[self.kind]} titled "{self.title}"'

    def body(self) -> str:
        """All labels and values."""
        rows = []
        for name, row in zip(self.series, self.values, strict=True):
            points = zip(self.labels, map(self.shown, row), strict=True)
            of = f"for {name} " if name else ""
            rows.append(of + ", ".join(f"{label} {shown}" for label, shown in points))
        return "; ".join(rows)

    def description(self) -> str:
        points = [
            (self.shown(value), label, name, value)
            for name, row in zip(self.series, self.values, strict=True)
            for label, value in zip(self.labels, row, strict=True)
        ]
        high = max(points, key=lambda point: point[3])
        low = min(points, key=lambda point: point[3])
        sentences = [
            f"This is {self.title_sentence()}.",
            f"It shows {self.body()}.",
            f"The highest is {_place(high)} ({high[0]})",
            f"and the lowest is {_place(low)} ({low[0]}).",
        ]
        return " ".join(sentences + self._trend())

    def _trend(self) -> list[str]:
        if len(self.series) > 1 or self.kind == "pie":
            return []
        row = self.values[0]
        if all(a <= b for a, b in itertools.pairwise(row)):
            return ["It rises over the whole range."]
        if all(a >= b for a, b in itertools.pairwise(row)):
            return ["It falls over the whole range."]
        return []

    def turns(self, hand: Hand) -> list[Turn]:
        turns = [
            Turn(DESCRIBE, self.description(), 6),
            *self._values_asked(hand),
            Turn(("What is the title of this chart?", "Read the title."), self.title, 0.5),
            Turn(("What kind of chart is this?",), f"This is a {NAMES[self.kind]}.", 0.4),
        ]
        if len(self.series) == 1:
            row = self.values[0]
            high, low = row.index(max(row)), row.index(min(row))
            turns += [
                Turn(("Which has the highest value?", "Which is the highest?"),
                     f"{self.labels[high]}, with {self.shown(row[high])}.", 0.8),
                Turn(("Which has the lowest value?", "Which is the lowest?"),
                     f"{self.labels[low]}, with {self.shown(row[low])}.", 0.8),
                Turn(("How many values are shown?",), str(len(row)), 0.3),
            ]  # fmt: skip
        return turns

    def _values_asked(self, hand: Hand) -> list[Turn]:
        """One, or in practice up to ASKED; no two alike."""
        r = hand.random
        places = {(r.randrange(len(self.series)), r.randrange(len(self.labels))): None}
        most = min(ASKED, len(self.series) * len(self.labels)) if hand.practises else 1
        while len(places) < most:
            places[r.randrange(len(self.series)), r.randrange(len(self.labels))] = None
        turns = []
        for s, i in places:
            name, label = self.series[s], self.labels[i]
            of = f"{name} in {label}" if name else label
            asks = (
                f"What is the value for {of}?",
                f"How much is {of}?",
                f"What value does {of} have?",
            )
            turns.append(Turn(asks, self.shown(self.values[s][i]), 3 / most))
        return turns


def random_figures(hand: Hand, kinds: tuple[str, ...] = USUAL) -> Figures:
    r = hand.random
    kind = r.choice(kinds)
    count = r.randint(3, 8) if kind in ("bar", "line") else r.randint(2, 5)
    labels = _labels(hand, count, timely=kind != "pie" and hand.chance(0.65))
    series: tuple[str, ...] = ("",)
    if kind == "grouped" or (kind == "line" and hand.chance(0.6 if hand.practises else 0.15)):
        if kind == "line":
            labels = labels[:5]
        series = tuple(_distinct(lambda: hand.word(8).capitalize(), r.choice((2, 2, 3))))
        if hand.chance(0.4):
            year = r.randint(2000, 2024)
            series = tuple(str(year + i) for i in range(len(series)))
            labels = _labels(hand, len(labels), timely=False)
    unit = r.choice(("", "", "", "%", "B", "M", "K"))
    prefix = "$" if unit != "%" and hand.chance(0.3) else ""
    decimals = r.choice((0, 0, 1))
    printed, step = kind == "pie" or hand.chance(0.75), 0.0
    count = len(labels)
    if kind == "pie":
        prefix, unit, decimals = "", "%", 0
        rows = [_shares(hand, count)]
    elif printed:
        scale = r.choice((10, 100, 100, 200, 1000))
        rows = [_row(hand, count, scale, 10.0**-decimals) for _ in series]
    else:
        step = r.choice((1, 2, 5, 10, 20, 25, 50, 100, 200))
        decimals = 1 if step == 1 else 0
        rows = [_row(hand, count, step * r.randint(4, 6), step / 2) for _ in series]
    if len(series) == 1 and hand.chance(0.4):
        rows = [sorted(rows[0], reverse=hand.chance(0.3))]
    if kind == "pie":  # told from the largest on: a pie has no first slice
        rows = [sorted(rows[0], reverse=True)]
    everything = [value for row in rows for value in row]
    alike = any(everything.count(end) > 1 for end in (max(everything), min(everything)))
    if alike or (kind == "pie" and len(set(everything)) < count):
        return random_figures(hand, kinds)
    values = tuple(map(tuple, rows))
    title = _title(hand)
    return Figures(kind, title, labels, series, values, prefix, unit, decimals, printed, step)


def nice_step(top: float) -> float:
    """A round distance between ticks, four to eight of them below `top`."""
    power = 10 ** math.floor(math.log10(top / 4))
    return next(f * power for f in (1, 2, 5, 10) if top / (f * power) <= 8)


def _row(hand: Hand, count: int, scale: float, unit: float) -> list[float]:
    top = max(2, round(scale / unit))
    low = 1 if hand.chance(0.6) else max(1, top // 3)
    return [hand.random.randint(low, top) * unit for _ in range(count)]


def _shares(hand: Hand, count: int) -> list[float]:
    cuts = sorted(hand.random.sample(range(1, 20), count - 1))
    if hand.chance(0.6):  # no share below five per cent, or it could not be written on its slice
        return [5.0 * (b - a) for a, b in zip([0, *cuts], [*cuts, 20], strict=True)]
    cuts = sorted(hand.random.sample(range(2, 25), count - 1))
    return [4.0 * (b - a) for a, b in zip([0, *cuts], [*cuts, 25], strict=True)]


def _labels(hand: Hand, count: int, *, timely: bool) -> tuple[str, ...]:
    r, k = hand.random, hand.random.random()
    if timely and k < 0.55:
        first = r.randint(1985, 2030 - count)
        prefix = r.choice(("", "", "", "", "FY", "FY", "Y", "CY"))
        short = prefix and hand.chance(0.5)
        years = [first + i for i in range(count)]
        return tuple(f"{prefix}{year % 100:02d}" if short else f"{prefix}{year}" for year in years)
    if timely and k < 0.72:
        first = r.randint(0, 3)
        year = r.randint(18, 27)
        return tuple(
            f"Q{(first + i) % 4 + 1}" + (f" {year + (first + i) // 4}" if count > 4 else "")
            for i in range(count)
        )
    if timely and k < 0.9:
        first = r.randint(0, 12 - count)
        return MONTHS[first : first + count]
    if timely:
        return DAYS[: min(count, 7)] if count <= 7 else MONTHS[:count]
    return tuple(_distinct(lambda: _category(hand), count))


def _category(hand: Hand) -> str:
    if hand.chance(0.15):
        return hand.word(5).upper()
    return hand.word(8).capitalize()


def _distinct(make: Callable[[], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


def _title(hand: Hand) -> str:
    r = hand.random
    subject = r.choice(SUBJECTS) if hand.chance(0.7) else hand.word().capitalize()
    k = r.random()
    if k < 0.3:
        return subject
    if k < 0.5:
        return f"{r.choice(('Annual', 'Monthly', 'Quarterly', 'Total', 'Average'))} {subject}"
    if k < 0.7:
        company = r.choice(hand.companies).split(",")[0].split("-")[0]
        return f"{company} {subject}"
    if k < 0.85:
        return f"{subject} by {r.choice(('Year', 'Region', 'Product', hand.word().capitalize()))}"
    return f"{hand.word().capitalize()} {subject}"


def _place(point: tuple[str, str, str, float]) -> str:
    return f"{point[2]} in {point[1]}" if point[2] else point[1]
