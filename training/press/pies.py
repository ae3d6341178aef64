"""Pies and rings, their labels beside the slices, within them or in a legend."""

from __future__ import annotations

import math

from press.canvas import css
from press.charts import Chart


def pie(chart: Chart) -> bool:
    """Whether there was room."""
    figures, hand, row = chart.figures, chart.hand, chart.figures.values[0]
    shown = [figures.shown(value) for value in row]
    both = [f"{label} {value}" for label, value in zip(figures.labels, shown, strict=True)]
    how = hand.random.choice(("beside", "listed", "inside"))
    if how != "beside":
        names = both if how == "listed" else figures.labels
        chart.legend(tuple(names), "right" if how == "listed" else hand.random.choice(
            ("right", "right", "below")))  # fmt: skip
    size, cx, cy = chart.size, (chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2
    room = (chart.bottom - chart.top) / 2 - (size * 1.6 if how == "beside" else size * 0.3)
    beside = max(map(len, both)) * size * 0.6 + size if how == "beside" else 0
    radius = min(room, (chart.right - chart.left) / 2 - beside)
    hole = hand.random.choice((0, 0, 0.45, 0.6)) * radius
    if radius < size * (4.2 if how == "inside" else 2.5):
        return False
    turn = 0.0
    for i, value in enumerate(row):
        after = turn + value / sum(row)
        ends = [_at(cx, cy, radius, turn), _at(cx, cy, radius, after)]
        inner = [_at(cx, cy, hole, after), _at(cx, cy, hole, turn)]
        big = int(after - turn > 0.5)
        path = (
            f"M{ends[0]}A{radius:.1f} {radius:.1f} 0 {big} 1 {ends[1]}"
            f"L{inner[0]}A{hole:.1f} {hole:.1f} 0 {big} 0 {inner[1]}Z"
        )
        edge = f'stroke="{css(chart.canvas.color)}" stroke-width="2"'
        chart.add(f'<path d="{path}" fill="{chart.fill(i)}" {edge}/>')
        middle = (turn + after) * math.pi
        out = radius + size * 0.8 if how == "beside" else (radius + max(hole, radius * 0.35)) / 2
        x, y = cx + math.sin(middle) * out, cy - math.cos(middle) * out
        if how == "beside":
            side = "start" if math.sin(middle) > 0.02 else "end"
            chart.text(x, y, both[i], anchor=side)
        elif how == "inside":
            if (after - turn) * out * 2 * math.pi < size * 1.5:
                return False
            chart.text(x, y, shown[i], fill=chart.on(i))
        turn = after
    return True


def _at(cx: float, cy: float, radius: float, turn: float) -> str:
    """A place on a circle, by the share of a turn from its top, clockwise."""
    angle = turn * 2 * math.pi
    return f"{cx + math.sin(angle) * radius:.1f} {cy - math.cos(angle) * radius:.1f}"
