"""A report as Markdown that reads well in an issue. Knows nothing of how it came about."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence

from phisight.verify.report import Agreement, Asked, Report

_LINKED = re.compile(r"://|www\.|mailto:|xmpp:|@|#\d", re.IGNORECASE)
_KEPT = "\n\t\u200c\u200d"
_WIDTH = 100  # columns of an answer: a fenced block does not wrap by itself


def to_markdown(report: Report) -> str:
    """The whole report; sections with nothing in them are left out."""
    sections = [
        _head(report),
        _table(
            ("check", "status", "finding"),
            [(f.check, f.status, f.message) for f in report.findings],
        ),
        _answers(report.answers),
        _agreement(report.agreement),
        _files(report),
        _machine(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(report: Report) -> str:
    lines = [
        f"# phisight verify: {_text(report.model)}",
        "",
        f"**Verdict: {_text(report.verdict)}**",
    ]
    facts = []
    if report.recognised:
        facts.append(f"Recognised as {report.recognised}.")
    if report.revision:
        facts.append(f"Revision `{report.revision}`.")
    return "\n".join([*lines, "", " ".join(facts)] if facts else lines)


def _answers(answers: list[Asked]) -> str:
    if not answers:
        return ""
    title = f"## Answers (greedy, {answers[0].dtype})"
    return "\n\n".join([title, *(_answer(answer) for answer in answers)])


def _answer(asked: Asked) -> str:
    speed = f", {asked.tokens_per_second:.1f} tokens/s" if asked.tokens_per_second else ""
    end = "ended by itself" if asked.finish_reason == "stop" else "cut"
    costs = (
        f"{asked.prompt_tokens:,} prompt tokens ({asked.image_tokens:,} of pictures), "
        f"{asked.completion_tokens} written, {end}; pictures "
        f"{asked.processing + asked.vision:.2f} s, prompt {asked.prefill:.2f} s, "
        f"answer {asked.decode:.2f} s{speed}"
    )
    return f"**{asked.picture}: {_text(asked.question)}**\n\n{_fenced(asked.answer)}\n\n{costs}"


def _agreement(rows: list[Agreement]) -> str:
    if not rows:
        return ""
    columns = (
        "answer",
        "tokens",
        "same top token",
        "largest logit difference",
        "mean",
        "first other token (float32's margin)",
        "as written",
    )
    cells = [
        (
            row.picture,
            str(row.num_tokens),
            f"{row.same_top1:.1%}",
            _number(row.largest_difference, ".4g"),
            _number(row.mean_difference, ".3g"),
            "none"
            if row.first_difference is None
            else f"{row.first_difference} ({_number(row.margin, '.3g')})",
            f"{row.rewritten} of {row.num_tokens}",
        )
        for row in rows
    ]
    return f"## float32 against bfloat16\n\n{_table(columns, cells)}"


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _files(report: Report) -> str:
    if not report.files:
        return ""
    rows = [(f.name, f"{f.size:,}", f"`{f.sha256}`") for f in report.files]
    table = _table(("file", "bytes", "sha256"), rows, code=2)
    never = ", ".join(_text(name) for name in report.never_opened)
    return f"## Files\n\n{table}" + (f"\n\nPresent, never opened: {never}" if never else "")


def _machine(report: Report) -> str:
    if not report.environment:
        return ""
    return f"## Machine\n\n{_table(('', ''), list(report.environment.items()))}"


def _table(
    columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, code: int | None = None
) -> str:
    """A table; the cells of column number `code` are Markdown already."""
    lines = [columns, ("---",) * len(columns)]
    lines += [tuple(c if i == code else _text(c) for i, c in enumerate(row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Plain text as Markdown shows it, on one line: no tags, no table bars, no links.

    Pages make links of bare addresses, @names and #numbers too: a word that holds one stands in a
    code span.
    """
    return " ".join(
        _code(word) if _LINKED.search(word) else _escaped(word) for word in _visible(text).split()
    )


def _escaped(word: str) -> str:
    word = re.sub(r"([\\`*|\[\]~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", word.replace("&", "&amp;"))
    return word.replace("<", "&lt;")


def _code(word: str) -> str:
    fence, space = "`" * (_longest_run(word) + 1), " " * ("`" in word)
    word = word.replace("|", "\\|")  # a table is cut into cells before code is found
    return f"{fence}{space}{word}{space}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _fenced(text: str) -> str:
    """An answer in a block of its own, folded to lines that fit a page (the JSON has it exact)."""
    text = _visible(text)  # first: taking a character out may join two runs of backticks
    lines = [
        folded
        for line in text.splitlines()
        for folded in textwrap.wrap(line, _WIDTH, break_on_hyphens=False) or [""]
    ]
    fence = "`" * max(3, _longest_run(text) + 1)
    return "\n".join([f"{fence}text", *lines, fence])


def _visible(text: str) -> str:
    """Without control and format characters, save two joiners that scripts and emoji need."""
    return "".join(c for c in text if c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf"))
