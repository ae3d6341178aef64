"""A second question about the same 16-crop picture: what it costs, beside the first.

GOMP_SPINCOUNT=2000 python benchmarks/reuse.py [MODEL] [ROUNDS]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from record import record, spread

import phisight

CHART = Path(__file__).parents[1] / "examples" / "chart.png"
FIRST, SECOND = "What is the title of this chart?", "Which value is the highest?"


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "nano"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    model = phisight.load(name, num_crops=16)
    with Image.open(CHART) as opened:
        chart = opened.convert("RGB")
    first, second = [], []
    for number in range(rounds + 1):
        picture = chart.copy()
        picture.paste((number * 8, 0, 0), (0, 0, 8, 8))  # no two rounds alike
        answers = [model.ask(text, [picture], max_tokens=1) for text in (FIRST, SECOND)]
        if number:  # the first round warms up
            for answer, seconds in zip(answers, (first, second), strict=True):
                seconds.append(answer.timings.vision + answer.timings.prefill)
    usage = answers[1].usage
    record(
        "reuse",
        model=Path(model.name).name,
        placement=str(model.placement),
        prompt_tokens=usage.prompt_tokens,
        image_tokens=usage.image_tokens,
        read_again=usage.prompt_tokens - usage.cached_tokens,
        first_s=spread(first),
        second_s=spread(second),
        second_over_first=round(min(second) / min(first), 4),
        bar="at most 0.05",
    )


if __name__ == "__main__":
    main()
