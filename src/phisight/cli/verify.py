"""`verify`: is a model folder whole, and does it work here? A report to be shared."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phisight.cli.output import note, printable
from phisight.errors import OptionError

if TYPE_CHECKING:
    from phisight.verify.report import Report

_FAULT = 3  # what a model folder that cannot be used exits with elsewhere


def verify(
    model: Annotated[str, typer.Argument(help="A folder, nano, phi-3.5-vision, or a hub id.")],
    output: Annotated[
        Path, typer.Option(help="Folder for the report; one of the same name is replaced.")
    ] = Path(),
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the comparison of float32 and bfloat16.")
    ] = False,
) -> None:
    """Check a model folder and write a report to share.

    The report holds hashes, findings and three answers; no paths, no names of users or machines.
    Exit code 3 if there is a fault.
    """
    _check_output(output)
    from phisight.verify.markdown import to_markdown
    from phisight.verify.report import file_safe
    from phisight.verify.run import verify as run

    report = run(model, quick=quick, progress=note)
    _show(report)  # first: a full disk must not lose what took minutes to find out
    stem = f"verify-{file_safe(report.model)}"
    for suffix, text in ((".md", to_markdown(report)), (".json", report.to_json())):
        path = output / f"{stem}{suffix}"
        _replace(path, text)
        sys.stdout.write(f"written: {printable(str(path))}\n")
    if report.faults:
        raise typer.Exit(_FAULT)


def _check_output(output: Path) -> None:
    """Before the work, which may take many minutes."""
    if not output.is_dir():
        raise OptionError(f"--output {output}: no such folder; create it or name another")
    if not os.access(output, os.W_OK):
        raise OptionError(f"--output {output}: cannot be written to; name another folder")


def _replace(path: Path, text: str) -> None:
    """Write beside the file and put it in its place: what lies there may be a link to elsewhere."""
    beside = path.parent / f".verify-{secrets.token_hex(8)}"
    try:
        with beside.open("x", encoding="utf-8", newline="\n", errors="backslashreplace") as file:
            file.write(text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _show(report: Report) -> None:
    width = max(len(finding.check) for finding in report.findings)
    lines = [f"{f.status:5}  {f.check:{width}}  {f.message}" for f in report.findings]
    sys.stdout.write(printable("\n".join([*lines, report.verdict])) + "\n")
