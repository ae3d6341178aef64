"""Write the README's table and docs/performance.md: the newest line of each measurement.

python benchmarks/report.py            # rewrite both, and draw the plots
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import performance

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: benchmarks/report.py -->\n", "<!-- end of figures -->\n"


def newest(name: str) -> dict[str, Any]:
    lines = (ROOT / "benchmarks" / "results" / f"{name}.jsonl").read_text().splitlines()
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def table() -> str:
    ask, image, full = newest("ask_book"), newest("image_processing"), newest("full_cpu")
    reuse, rates = newest("reuse"), newest("throughput")["tok_per_s"]
    ours, theirs = full["total_s"]["ours"], full["total_s"]["theirs"]
    parts = full["ours_over_theirs"]
    rows = [
        (
            "`phisight ask examples/book.png …`, start to end",
            f"{ask['whole_command_s']['p50']:.1f} s",
        ),
        ("the same question, model already loaded", f"{ask['once_loaded_s']['p50']:.1f} s"),
        (
            "a second question about a 16-crop picture, reading it, against the first",
            f"{reuse['second_over_first']:.3f} ×",
        ),
        *(
            (
                f"32 requests to `nano`, {load}: 1, 8, 32 running at once",
                f"{', '.join(f'{rate:.0f}' for rate in rate_at.values())} tokens/s",
            )
            for load, rate_at in rates.items()
        ),
        (
            "12-megapixel JPEG to 16 crops, against Pillow's decode and resize alone",
            f"{image['ours_over_pillow']['p50']:.2f} ×",
        ),
        (
            f"4.1 B parameters in {full['weights']}"
            + (", inputs in 8 bits" if full.get("activations") else "")
            + f", one picture, 16 tokens, against transformers {full['transformers']} in bfloat16, "
            f"on {full['device']}",
            f"{ours:.1f} s to {theirs:.1f} s "
            f"(vision {parts['vision']:.2f} ×, reading {parts['prefill']:.2f} ×, "
            f"writing {parts['decode']:.2f} ×)",
        ),
    ]
    lines = ["| measured | median |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]
    where = f"{ask['device']}, torch {ask['torch']}"
    lines += ["", f"On {where}, a shared machine: `benchmarks/`, `benchmarks/results/`.", ""]
    return "\n".join(lines)


def with_table(readme: str) -> str:
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return head + BEGIN + table() + END + tail


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text()))
    performance.PAGE.write_text(performance.page())
    import plots  # here: a check of the texts needs no matplotlib

    plots.draw()
