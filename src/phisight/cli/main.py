"""The `phisight` program: its commands, and how errors leave it."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from phisight import __version__
from phisight.cli.ask import ask, task_command
from phisight.cli.cache import cache
from phisight.cli.chat import chat
from phisight.cli.look import crops, info
from phisight.cli.models import models, pull, use
from phisight.cli.output import exit_code, printable, show_error
from phisight.cli.quantize import quantize
from phisight.cli.serve import serve
from phisight.cli.verify import verify
from phisight.errors import PhisightError
from phisight.tasks import TASKS

app = typer.Typer(
    name="phisight",
    help="Run Phi-3-Vision on your own machine.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: the rich one imports for another 0.1 s
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command()(ask)
for _task in TASKS:
    app.command(_task.name)(task_command(_task))
for _command in (chat, serve, crops, pull, use, models, cache, quantize, verify, info):
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phisight {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and an exit code, never a traceback."""
    # GNU OpenMP's threads spin while they wait, and starve on a machine that has other work: 580 ms
    # a token instead of 15 on two busy cores. Read when torch is imported, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    for stream in (sys.stdout, sys.stderr):  # an answer or a file name may not fit the terminal
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    # Pillow's own words on damaged metadata, and at the size where we refuse and say it better.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        app()
    except PhisightError as error:
        show_error(error)
        raise SystemExit(exit_code(error)) from None
    except OSError as error:  # a full disk behind stdout, and the like
        sys.stderr.write(f"phisight: cannot write the answer ({error.strerror})\n")
        raise SystemExit(1) from None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"phisight: {printable(str(message))}\n")
