"""32 requests at once: tokens a second together, at several numbers of running requests.

    GOMP_SPINCOUNT=2000 python benchmarks/throughput.py [MODEL] [TOKENS]

Three loads: questions of text; 32 questions about one picture; 32 different pictures. Every answer
has the same number of tokens. One at a time is the same engine with max_batch=1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from record import record

import phisight

REQUESTS = 32
CONCURRENCY = (1, 8, 32)
CHART = Path(__file__).parents[1] / "examples" / "chart.png"


def pictures() -> list[Image.Image]:
    """No two alike, all of one size."""
    with Image.open(CHART) as opened:
        chart = opened.convert("RGB")
    made = []
    for number in range(REQUESTS + 1):
        picture = chart.copy()
        picture.paste((number * 8, 0, 0), (0, 0, 8, 8))
        made.append(picture)
    return made


def loads(shown: list[Image.Image], tokens: int) -> dict[str, list[dict[str, Any]]]:
    options = {"max_tokens": tokens, "ignore_eos": True}
    ask = [f"What is shown in part {number} of this?" for number in range(REQUESTS)]
    return {
        "text": [{"prompt": text * 4, **options} for text in ask],
        "one picture": [{"prompt": text, "images": [shown[-1]], **options} for text in ask],
        "32 pictures": [
            {"prompt": text, "images": [picture], **options}
            for text, picture in zip(ask, shown[:-1], strict=True)
        ],
    }


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "nano"
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    shown = pictures()
    model = None
    rates: dict[str, dict[str, float]] = {}
    for running in CONCURRENCY:
        del model  # one cache at a time
        model = phisight.load(name, max_batch=running)  # no load begins as another does
        model.ask("Hi", max_tokens=2)
        for load, questions in loads(shown, tokens).items():
            began = time.perf_counter()
            answers = model.ask_many(questions)
            seconds = time.perf_counter() - began
            written = sum(answer.usage.completion_tokens for answer in answers)
            assert written == REQUESTS * tokens
            rates.setdefault(load, {})[str(running)] = round(written / seconds, 1)
    record(
        "throughput",
        model=Path(model.name).name,
        placement=str(model.placement),
        requests=REQUESTS,
        tokens_each=tokens,
        tok_per_s=rates,
        gain_at_8={load: round(rate["8"] / rate["1"], 2) for load, rate in rates.items()},
        bar="at least 2 times one at a time, at 8",
    )


if __name__ == "__main__":
    main()
