"""Named jobs: a question that the model answers well, and the form of its answer."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from phisight.errors import AnswerError
from phisight.jsonfile import brief


@dataclass(frozen=True)
class Task:
    """A job by name: each picture gets its own question, or `num_images` of them share one."""

    name: str
    summary: str
    question: str
    num_images: int | None = None
    gives_table: bool = False


TASKS = (
    Task("describe", "Say what each picture shows.", "Describe the image."),
    Task("ocr", "Write out the text in each picture.", "Read all the text in the image."),
    Task(
        "table",
        "Write out the table in each picture.",
        "Read this table as Markdown.",
        gives_table=True,
    ),
    Task(
        "compare",
        "Say what is different between two pictures.",
        "Compare the two images.",
        num_images=2,
    ),
)

_RULE = re.compile(r"[\s|:-]+")  # the line under the heads of a Markdown table, once it has --
# What a spreadsheet would run: the text may come off a picture. A sign before a number is none.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d\s.,%€$£¥]*$)")


def table_rows(text: str) -> list[list[str]]:
    """The cells of the Markdown table in an answer; lines that are none of it are left out.

    Raises AnswerError if there is none.
    """
    rows: list[list[str]] = []
    for line in text.splitlines():
        if "|" not in line:
            continue
        is_rule = len(rows) == 1 and "--" in line and _RULE.fullmatch(line)
        if not is_rule:
            cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    if not rows:
        raise AnswerError(f"the answer holds no table: {brief(text)}")
    return rows


def table_csv(text: str) -> str:
    """The Markdown table in an answer as comma-separated values. Raises AnswerError.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    rows = [[f"'{c}" if _FORMULA.match(c) else c for c in row] for row in table_rows(text)]
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
