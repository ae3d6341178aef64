"""Writes docs/cli.md, and the options in docs/python.md, from the code: python docs/make_docs.py"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

HERE = Path(__file__).parent

INTRO = """# The command line

Made by `docs/make_docs.py` from `--help`; a test compares them.

- Answers go to stdout; the model in use, the device and why, and the time taken go to stderr.
- Pictures are files, folders (all pictures in them, by name), patterns such as `"scans/*.png"`,
  URLs, or `-` for one picture on standard input. In the question's place, `-` reads the question.
- A name that matches nothing stops a command before the model is loaded. `describe`, `ocr` and
  `table` answer for each picture; one that cannot be read is reported on stderr (with `--json` also
  as a line with `error`), and the others go on.
- `--json` writes one JSON object per answer, on a line, in ASCII.
- `phisight --install-completion` completes commands and options in your shell.

| exit code | meaning |
| --- | --- |
"""
MEANINGS = {
    0: "done",
    1: "the answer could not be written (a full disk, a closed pipe)",
    2: "a question, picture or option that cannot be taken",
    3: "a model that is not there, or is damaged",
    4: "a device that is not there",
    5: "an answer that is not in the form asked for",
    130: "stopped with Ctrl-C",
}
_MARKED = re.compile(
    r"(<!-- docs/make_docs.py: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL
)


def pages() -> dict[Path, str]:
    """Every file that is made, and its text."""
    python = HERE / "python.md"
    text = _MARKED.sub(
        lambda found: f"{found[1]}{_options_table(found[2])}{found[3]}", python.read_text()
    )
    return {HERE / "cli.md": _cli_page(), python: text}


def _cli_page() -> str:
    os.environ["COLUMNS"] = "88"
    import typer.main

    from phisight.cli.main import app

    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="phisight", terminal_width=88)
    text = INTRO + "".join(f"| {code} | {meaning} |\n" for code, meaning in MEANINGS.items())
    text += _block("phisight", group.get_help(context))
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = typer.Context(command, info_name=name, parent=context, terminal_width=88)
        text += _block(f"phisight {name}", command.get_help(inner))
    return text


def _block(title: str, help_text: str) -> str:
    lines = "\n".join(line.rstrip() for line in help_text.strip().splitlines())
    return f"\n## {title}\n\n```text\n{lines}\n```\n"


def _options_table(owner: str) -> str:
    from phisight import params

    rows = ["| option | default | what it does |\n| --- | --- | --- |\n"]
    for field in dataclasses.fields(getattr(params, owner)):
        low, high = field.metadata["minimum"], field.metadata["maximum"]
        limits = "" if low is None else f" {low} or more." if high is None else f" {low} to {high}."
        help_text = field.metadata["help"]
        rows.append(f"| `{field.name}` | `{field.default!r}` | {help_text}{limits} |\n")
    return "".join(rows)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
