"""`quantize`: a model folder with packed weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phisight.cli.options import model_names
from phisight.cli.output import note, printable
from phisight.params import WEIGHTS


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
    """Pack a model's weights into a folder that is a quarter or half as large, for the CPU.

    The folder is then a model like any other: phisight ask --model FOLDER.
    """
    from phisight.quantize import quantize as write

    note(f"packing {printable(model)} into {weights}: minutes for a large model")
    made = write(model, folder, weights)
    typer.echo(printable(str(made)))
