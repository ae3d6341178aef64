"""Ask a model about held-out pictures, through phisight itself, and score the answers.

    python training/evaluate.py MODEL_FOLDER --materials .materials --count 200 --out results.json

Fonts, words, names and photographs are those no training run sees; rows marked * are drawn by
renderers that no training picture comes from (`pages.py`). Pictures are drawn from fixed seeds, so
that two models are asked the same. Every answer is greedy. Writes each row's score, its standard
error and its wrong answers, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import phisight
from draw import chart, cover, figures, pair, photo, scene, table, text
from draw.distort import distorted
from draw.hand import Hand
from draw.sample import ASPECTS, random_size
from draw.sheet import Drawn
from pages import read_pages
from phisight.params import WEIGHTS

SEED = 20_261_124
LONGEST = 600  # tokens of an answer
WRONG_KEPT = 60


class Row(NamedTuple):
    score: Callable[[str, str], float]  # of an answer, given the right one: 0 to 1
    bar: float
    kind: str = ""  # of `draw.sample`; rows without one are photographs or pages
    draw: Callable[[Hand, int, int], Drawn] | None = None
    asks: tuple[str, ...] = ()


class Case(NamedTuple):
    prompt: str
    images: list[Image.Image | Path]
    right: str


def exact(answer: str, right: str) -> float:
    return float(answer.strip() == right)


def characters(answer: str, right: str) -> float:
    """1 - character error rate, not below 0."""
    return max(0.0, 1 - distance(answer.strip(), right) / len(right))


def cells(answer: str, right: str) -> float:
    """Share of the right table's cells that are in their places."""
    got, expected = _cells(answer), _cells(right)
    total = sum(map(len, expected))
    pairs = [zip(g, e, strict=False) for g, e in zip(got, expected, strict=False)]
    return sum(a == b for row in pairs for a, b in row) / total


def described(answer: str, right: str) -> float:
    """Every label and value of a chart's description; what it says of the highest and lowest is
    another row's matter, and a pie's slices have no order."""
    said, expected = (text.partition(" The highest is ")[0] for text in (answer, right))
    if expected.startswith("This is a pie chart"):
        said, expected = (_unordered(text) for text in (said, expected))
    return float(said == expected)


def _unordered(description: str) -> str:
    head, _, slices = description.rstrip(".").partition(" It shows ")
    return f"{head} It shows {', '.join(sorted(slices.split(', ')))}"


def distance(a: str, b: str) -> int:
    """Levenshtein's."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (x != y)))
        before = row
    return before[-1]


def _cells(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.strip().splitlines() if not re.fullmatch(r"[|\s:-]+", line)]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def _question(hand: Hand, width: int, height: int) -> Drawn:
    """A chart asked about one value, its highest or its lowest."""
    drawn = chart.chart(hand, width, height)
    asked = [t for t in drawn.turns if t.asks[0].startswith(("What is the value", "Which has"))]
    return Drawn(drawn.sheets, [hand.random.choice(asked)])


def _small_text(hand: Hand, width: int, height: int) -> Drawn:
    draw = hand.random.choice((text.receipt, text.sign, text.screen))
    return draw(hand, width, height)


ROWS = {
    "covers": Row(exact, 0.97, "cover", cover.cover, cover.BOTH),
    "covers *": Row(exact, 0.92),
    "lines": Row(characters, 0.99, "text", text.scattered, text.READ),
    "lines *": Row(characters, 0.97),
    "paragraphs": Row(characters, 0.99, "text", text.paragraph, text.READ),
    "paragraphs *": Row(characters, 0.97),
    "receipts, signs, screens": Row(characters, 0.99, "text", _small_text, text.READ),
    "charts": Row(described, 0.93, "chart", chart.chart, figures.DESCRIBE),
    "charts *": Row(described, 0.85),
    "chart questions": Row(exact, 0.97, "chart", _question),
    "tables": Row(cells, 0.98, "table", table.table, table.READ),
    "tables *": Row(cells, 0.93),
    "scenes": Row(exact, 0.97, "scene", scene.scene, scene.WHOLE),
    "pairs": Row(exact, 0.92, "pair", pair.pair, pair.COMPARE),
    "photographs": Row(exact, 0.95),
}


def cases(materials: Path, name: str, count: int) -> Iterator[Case]:
    row = ROWS[name]
    hand = Hand(materials, SEED + sum(map(ord, name)), "held")
    if name == "photographs":
        for path in hand.photos:  # each once, as it is
            yield Case(hand.random.choice(photo.ASKS), [path], photo.REFUSAL)
    elif row.draw is None:
        for page in read_pages(materials / "pages"):
            if page.row == name.removesuffix(" *"):
                yield Case(page.ask, [page.path], page.answer)
    else:
        for _ in range(count):
            drawn = row.draw(hand, *random_size(hand, *ASPECTS[row.kind]))
            turn = drawn.turns[0]
            asks = [ask for ask in turn.asks if not row.asks or ask in row.asks]
            images: list[Image.Image | Path] = [distorted(hand, s).image for s in drawn.sheets]
            yield Case(hand.random.choice(asks), images, turn.answer)


def evaluate(model: phisight.Model, row: Row, asked: list[Case]) -> dict[str, Any]:
    began = time.perf_counter()
    answers = model.ask_many(
        [{"prompt": c.prompt, "images": c.images, "max_tokens": LONGEST} for c in asked]
    )
    scored = [
        (row.score(answer.text, case.right), case.prompt, case.right, answer.text)
        for answer, case in zip(answers, asked, strict=True)
    ]
    scores = [score for score, *_ in scored]
    mean = sum(scores) / len(scores)
    error = math.sqrt(sum((s - mean) ** 2 for s in scores)) / len(scores)
    return {
        "score": round(mean, 4),
        "standard_error": round(error, 4),
        "bar": row.bar,
        "exact": round(sum(a == b for _, _, a, b in scored) / len(scored), 4),
        "refused": round(sum(photo.REFUSAL in answer for *_, answer in scored) / len(scored), 4),
        "pictures": len(scored),
        "seconds": round(time.perf_counter() - began),
        "wrong": [entry for entry in scored if entry[0] < 1][:WRONG_KEPT],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--weights", choices=WEIGHTS, help="packed while loading; on the CPU")
    options = parser.parse_args()
    model = phisight.load(options.model, max_batch=options.batch, weights=options.weights)
    report = {}
    for name in options.rows:
        asked = list(cases(options.materials, name, options.count))
        result = report[name] = evaluate(model, ROWS[name], asked)
        print(f"{name:26} {result['score']:7.2%} +- {result['standard_error']:.2%}"
              f"  bar {result['bar']:.0%}  exact {result['exact']:.1%}"
              f"  refused {result['refused']:.1%}  of {len(asked)}, {result['seconds']} s",
              flush=True)  # fmt: skip
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
