"""The three jobs on the bundled model: describe a chart, read a cover, compare two pictures."""

from __future__ import annotations

from pathlib import Path

import phisight

HERE = Path(__file__).parent
JOBS = [
    ("Could you please introduce this chart to me?", ["chart.png"]),
    ("Help me get the title and author information of this book?", ["book.png"]),
    ("What is difference in this two images?", ["pair-a.png", "pair-b.png"]),
]


def main() -> None:
    model = phisight.load()
    print(f"phisight {phisight.__version__}, model {model.name} on {model.placement}")
    for question, names in JOBS:
        print(f"\n{', '.join(names)}\n? {question}")
        stream = model.stream(question, [HERE / name for name in names])
        for piece in stream:
            print(piece, end="", flush=True)
        answer = stream.finish()
        tokens = answer.usage
        print(
            f"\n{answer.timings.total:.1f} s  "
            f"({tokens.prompt_tokens} tokens read, {tokens.completion_tokens} written)"
        )
    print(f"\n{model.note}")


if __name__ == "__main__":
    main()
