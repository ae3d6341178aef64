"""Writes docs/cli.md from the command line's own help: python docs/make_cli.py"""

from __future__ import annotations

import os
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")

INTRO = """# The command line

Made by `docs/make_cli.py` from `--help`; a test compares them.

- Answers go to stdout; the model in use, the device and why, and the time taken go to stderr.
- Pictures are files, folders (all pictures in them, by name), patterns such as `"scans/*.png"`,
  URLs, or `-` for one picture on standard input. In the question's place, `-` reads the question.
- `describe`, `ocr` and `table` answer for each picture; one that cannot be read is reported on
  stderr (with `--json` also as a line with `error`), and the others go on.
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


def page() -> str:
    """The page's text."""
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


if __name__ == "__main__":
    PAGE.write_text(page())
