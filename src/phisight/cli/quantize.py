"""`quantize`: a model folder with packed weights."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from phisight.cli.options import model_names
from phisight.cli.output import note, printable
from phisight.params import WEIGHTS, LoadOptions


def quantize(
    model: Annotated[
        str,
        typer.Argument(help="A name, a folder or a hub id.", autocompletion=model_names),
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    weights: Annotated[
        str, typer.Option(help="int8 or int4.", metavar="|".join(WEIGHTS))
    ] = WEIGHTS[-1],
) -> None:
    """Pack a model's weights into a folder a third as large (int8: a half), for the CPU.

    The folder is then a model like any other: phisight ask --model FOLDER.
    """
    LoadOptions(weights=weights)  # before anything is told
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or its half of a folder would stay
    from phisight.quantize import quantize as write

    note(f"packing {printable(model)} into {weights}: minutes for a large model")
    made = write(model, folder, weights)
    typer.echo(printable(str(made)))
