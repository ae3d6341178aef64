"""Command-line options built from the option classes, so that help and limits stand there alone."""

from __future__ import annotations

from typing import Annotated

import typer

from phisight.params import LoadOptions, SamplingParams, option_field


def _option(owner: type, name: str) -> object:
    field = option_field(owner, name)
    limits = field.metadata
    return typer.Option(
        help=limits["help"],
        min=limits["minimum"],
        max=limits["maximum"],
        metavar="|".join(limits["choices"]) if limits["choices"] else None,
    )


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A folder, phi-3.5-vision, phi-3-vision, or a hub id. Left out: nano."
    ),
]
Device = Annotated[str | None, _option(LoadOptions, "device")]
Dtype = Annotated[str | None, _option(LoadOptions, "dtype")]
NumCrops = Annotated[int | None, _option(LoadOptions, "num_crops")]
MaxTokens = Annotated[int, _option(SamplingParams, "max_tokens")]
Temperature = Annotated[float, _option(SamplingParams, "temperature")]
TopP = Annotated[float, _option(SamplingParams, "top_p")]
Seed = Annotated[int | None, _option(SamplingParams, "seed")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per answer, on a line.")]
