"""Pies and rings: labels and shares beside the slices, in them or in a legend."""

from __future__ import annotations

import math

from draw.chart import Chart, overlapping
from draw.sheet import Sheet


def draw_pie(chart: Chart, top: float) -> Sheet | None:
    """None if there is no room for the texts."""
    figures, hand, font, sheet = chart.figures, chart.hand, chart.font, chart.sheet
    row = figures.values[0]
    shown = [figures.shown(value) for value in row]
    joint = hand.random.choice((" ", " ", ": ", ", ", " - "))
    both = [f"{label}{joint}{value}" for label, value in zip(figures.labels, shown, strict=True)]
    ways = ("beside", "beside", "listed", "inside", "apart")
    if hand.practises:
        ways += ("listed", "inside")
    how = hand.random.choice(ways)
    if how in ("listed", "inside"):
        where = hand.random.choice(("right", "right", "left", "below", "above"))
        top = chart.legend(top, both if how == "listed" else figures.labels, where)
    if top > sheet.height * 0.45:
        return None
    ring = font.size * (1.9 if how in ("beside", "apart") else 0.4)
    beside = max(map(font.getlength, both if how == "beside" else figures.labels)) + font.size
    free = chart.right - chart.left - (2 * beside if how in ("beside", "apart") else 0)
    radius = min(free / 2, (chart.floor - top) / 2 - ring) * hand.random.uniform(0.85, 1)
    if radius < font.size * (3 if how in ("inside", "apart") else 2):
        return None
    cx, cy = (chart.left + chart.right) / 2, (top + chart.floor) / 2
    hollow = radius * hand.random.choice((0, 0, 0, 0.4, 0.55))
    order = list(range(len(row)))
    if hand.chance(0.6):
        hand.random.shuffle(order)
    angle = -90.0 if hand.chance(0.4) else hand.random.uniform(0, 360)
    boxes = []
    for i in order:
        turn = row[i] / sum(row) * 360
        box = (cx - radius, cy - radius, cx + radius, cy + radius)
        sheet.pen.pieslice(box, angle, angle + turn, fill=chart.colors[i], outline=chart.ground)
        angle += turn
    if hollow:
        box = (cx - hollow, cy - hollow, cx + hollow, cy + hollow)
        sheet.pen.ellipse(box, fill=chart.ground)
    for i in order:  # where each began, in turn
        turn = row[i] / sum(row) * 360
        middle = math.radians(angle + turn / 2)
        angle += turn
        within = chart.hand.ink(chart.colors[i], 110)
        if how in ("beside", "apart"):
            words = both[i] if how == "beside" else figures.labels[i]
            out = radius + font.size * 0.7
            x, y = cx + math.cos(middle) * out, cy + math.sin(middle) * (out + font.size * 0.3)
            x -= font.getlength(words) * (1 - math.cos(middle)) / 2
            boxes.append(_text(chart, x, y, words, chart.ink))
        if how in ("inside", "apart"):
            out = (radius + max(hollow, radius * 0.3)) / 2
            x, y = cx + math.cos(middle) * out, cy + math.sin(middle) * out
            if math.radians(turn) * out < font.getlength(shown[i]) * 1.05:
                return None
            boxes.append(_text(chart, x - font.getlength(shown[i]) / 2, y, shown[i], within))
    outside = any(box[0] < 0 or box[2] > sheet.width or box[3] > sheet.height for box in boxes)
    return None if outside or overlapping(boxes) else sheet


def _text(
    chart: Chart, x: float, y: float, words: str, ink: tuple[int, int, int]
) -> tuple[float, float, float, float]:
    """Centred on a height; the box that it takes."""
    font = chart.font
    chart.sheet.text(x, y - font.size * 0.6, words, font, ink)
    return x, y - font.size * 0.55, x + font.getlength(words), y + font.size * 0.55
