"""Write what nano can do into its card and docs/nano.md, from an evaluation and from samples.

    python training/card.py RESULTS.json --rivals RIVALS.json --materials .materials

The tables are the evaluation's and `rivals.py`'s. For some rows a held-out picture that was
answered rightly and one that was not are drawn again, asked here, and kept in docs/nano/.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

import phisight
from evaluate import LONGEST, ROWS, Case, cases
from train import NANO

DOCS = Path(__file__).parents[1] / "docs"
SAMPLED = ("covers *", "charts", "tables *", "paragraphs *", "scenes")
TRIED = 12  # pictures of a row, in search of a right and a wrong answer
SHOWN = 480  # pixels of a sample's longer side
BEGIN, END = "<!-- evaluation: training/card.py -->", "<!-- end of evaluation -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--rivals", type=Path, required=True)
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    rivals = json.loads(options.rivals.read_text())
    for page in (NANO / "README.md", DOCS / "nano.md"):
        put(page, table(results) + compared(results, rivals))
    model = phisight.load("nano")
    parts = [part for name in SAMPLED for part in samples(model, options.materials, name)]
    page = DOCS / "nano.md"
    head = page.read_text().partition("## Samples\n")[0]
    page.write_text(f"{head}## Samples\n\n{LEAD}\n{''.join(parts)}")
    for picture in (DOCS / "nano").glob("*.jpg"):  # of earlier weights' answers
        if picture.name not in page.read_text():
            picture.unlink()


LEAD = """The first right and the first wrong answer among twelve pictures of a row, chosen by
nobody. Pictures are shown smaller than nano saw them.
"""


def table(results: dict[str, Any]) -> str:
    lines = ["| held-out pictures | measure | score | bar | pictures |", "|" + " --- |" * 5]
    for name in ROWS:
        if name in results:
            row = results[name]
            error = 196 * row["standard_error"]
            score, bar = f"{100 * row['score']:.1f} % ± {error:.1f}", f"{100 * row['bar']:.0f} %"
            name_shown = escaped(name) + row.get("mark", "")
            lines.append(
                f"| {name_shown} | {measure(name)} | {score} | {bar} | {row['pictures']} |"
            )
    seen = [row for name, row in results.items() if name != "photographs"]
    refused = sum(row["refused"] * row["pictures"] for row in seen)
    total = sum(row["pictures"] for row in seen)
    share = f"{100 * refused / total:.2f} % of {total} pictures"
    lines.append(f"\nRefused though it could be read: {share} (bar: 1 %).")
    return "\n".join(lines) + "\n"


def compared(results: dict[str, Any], rivals: dict[str, dict[str, float]]) -> str:
    lines = ["\nThe same text pictures, character error rate:\n"]
    lines += ["| held-out pictures | nano | RapidOCR 3.10 | tesseract 5.3 |", "|" + " --- |" * 4]
    for name, rates in rivals.items():
        if name in results:
            own = 1 - results[name]["score"]
            three = (own, rates["RapidOCR"], rates["tesseract"])
            lines.append(f"| {escaped(name)} | " + " | ".join(f"{r:.1%}" for r in three) + " |")
    return "\n".join(lines) + "\n"


def escaped(name: str) -> str:
    return name.replace("*", "\\*")


def measure(name: str) -> str:
    if name == "photographs":
        return "says that it cannot tell"
    return {
        "exact": "whole answer exact", "characters": "1 − character error rate",
        "cells": "cells exact", "described": "title, labels and values all exact",
    }[ROWS[name].score.__name__]  # fmt: skip


def put(page: Path, text: str) -> None:
    """Between the marks that the page holds for it."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    old = page.read_text()
    assert pattern.search(old), page
    page.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}{END}", old))


def samples(model: phisight.Model, materials: Path, name: str) -> list[str]:
    wanted = {True, False}
    parts = []
    for number, case in enumerate(cases(materials, name, TRIED)):
        if number == TRIED or not wanted:
            break
        answer = model.ask(case.prompt, case.images, max_tokens=LONGEST).text
        right = ROWS[name].score(answer, case.right) == 1
        if right in wanted:
            wanted.remove(right)
            parts.append(sample(case, answer, name, right=right))
    return parts


def sample(case: Case, answer: str, name: str, *, right: bool) -> str:
    file = f"{re.sub('[^a-z]+', '-', name).strip('-')}-{'right' if right else 'wrong'}.jpg"
    given = case.images[0]
    picture = given if isinstance(given, Image.Image) else Image.open(given)
    picture = picture.convert("RGB")
    picture.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    (DOCS / "nano").mkdir(exist_ok=True)
    picture.save(DOCS / "nano" / file, quality=80)
    text = f"### {escaped(name)}: {'right' if right else 'wrong'}\n\n"
    text += f'<img src="nano/{file}" alt="" width="320">\n\n'
    text += f"> {case.prompt}\n\n```text\n{answer}\n```\n\n"
    return text if right else text + f"Right would be:\n\n```text\n{case.right}\n```\n\n"


if __name__ == "__main__":
    main()
