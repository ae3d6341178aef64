"""One sample: pictures of some real size and the turns of a conversation about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from draw import chart, cover, figures, pair, photo, scene, table, text
from draw.distort import distorted
from draw.hand import Hand
from draw.sheet import Drawn, Sheet, Turn
from draw.vector import typeset

DRAW: dict[str, Callable[[Hand, int, int], Drawn]] = {
    "cover": cover.cover,
    "text": text.text,
    "chart": partial(chart.chart, kinds=figures.PRACTICE),
    "table": table.table,
    "scene": scene.scene,
    "pair": pair.pair,
    "photo": photo.photo,
}
# Width over height: from, to.
ASPECTS = {
    "cover": (0.55, 0.85),
    "text": (0.5, 3.2),
    "chart": (1.0, 2.2),
    "table": (0.8, 2.4),
    "scene": (0.7, 1.5),
    "pair": (0.8, 1.6),
    "photo": (0.6, 1.8),
}
SMALLEST, LARGEST = 230, 3000  # of the longer side
FOLLOW_UP = 0.3
# A chart is asked for one value after another as long as no description has told them all: a
# question more costs 60 tokens, a picture more 27 ms of drawing.
ASKED_AGAIN = 0.75
ABSENT = 0.03  # share of pictures asked for what is not in them
CASUAL = 0.2  # share of questions without capitals or marks
# What pictures of a kind do not show, how one asks for it, and which kinds lack it.
LACKING = (
    ("book cover", (*cover.BOTH, *cover.TITLE, *cover.AUTHOR), ("chart", "table", "scene")),
    ("table", table.READ, ("cover", "scene", "chart")),
    ("chart", figures.DESCRIBE[:4], ("cover", "table", "scene")),
)


class Sample(NamedTuple):
    kind: str
    sheets: list[Sheet]
    turns: list[tuple[str, str]]  # question and answer


def draw_sample(hand: Hand, kind: str) -> Sample:
    width, height = random_size(hand, *ASPECTS[kind])
    drawn = DRAW[kind](hand, width, height)
    for sheet in drawn.sheets:
        typeset(sheet)
    sheets = [distorted(hand, sheet) for sheet in drawn.sheets]
    lacking = [(thing, asks) for thing, asks, kinds in LACKING if kind in kinds]
    left = list(drawn.turns)
    if lacking and hand.chance(ABSENT):
        thing, asks = hand.random.choice(lacking)
        turns = [(_said(hand, hand.random.choice(asks)), f"There is no {thing} in the image.")]
    else:
        turns = [_taken(hand, left)]
    told = left[:1] != drawn.turns[:1]
    again, most = (ASKED_AGAIN, 5) if kind == "chart" and not told else (FOLLOW_UP, 3)
    left = [turn for turn in left if turn is not drawn.turns[0]]
    while hand.chance(again) and left and len(turns) < most:
        turns.append(_taken(hand, left))
    return Sample(kind, sheets, turns)


def random_size(hand: Hand, narrowest: float, widest: float) -> tuple[int, int]:
    """Mostly as large as the model sees it, sometimes much larger or smaller."""
    r = hand.random
    aspect = math.exp(r.uniform(math.log(narrowest), math.log(widest)))
    k = r.random()
    low, high = (SMALLEST, 450) if k < 0.1 else (450, 1000) if k < 0.93 else (1000, 1600)
    if k > 0.995:
        high = LARGEST
    long = math.exp(r.uniform(math.log(low), math.log(high)))
    width, height = (long, long / aspect) if aspect > 1 else (long * aspect, long)
    return max(120, round(width)), max(120, round(height))


def _taken(hand: Hand, turns: list[Turn]) -> tuple[str, str]:
    """One of them, which is theirs no more."""
    (turn,) = hand.random.choices(turns, [turn.weight for turn in turns])
    turns.remove(turn)
    return _said(hand, hand.random.choice(turn.asks)), turn.answer


def _said(hand: Hand, question: str) -> str:
    """As written, or as people type."""
    if not hand.chance(CASUAL):
        return question
    k = hand.random.random()
    if k < 0.4:
        return question.lower().rstrip("?.")
    if k < 0.6:
        return question.rstrip("?.")
    return f"Please {question[0].lower()}{question[1:]}" if k < 0.8 else question.lower()
