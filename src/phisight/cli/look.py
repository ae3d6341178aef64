"""`crops` and `info`: what a picture costs, what a model needs, what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phisight.cli import options
from phisight.cli.pictures import find_pictures, is_file
from phisight.errors import ImageError
from phisight.params import LoadOptions


@options.expand(without=("device", "dtype", "weights", "activations"))
def crops(
    picture: Annotated[str, typer.Argument(help="A picture file, a URL, or - for stdin.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Draw the crops into this file; .png, .jpg or .webp."),
    ] = None,
    model: options.ModelName = None,
    *,
    placed: LoadOptions,
) -> None:
    """Show how a picture is cut into crops, and what that costs.

    No weights are loaded. With --output the crops are drawn, as large as the model sees them.
    """
    if output is not None and output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise typer.BadParameter(
            f"--output {str(output)!r}: the name must end in .png, .jpg or .webp"
        )
    found = find_pictures([picture])
    if len(found) != 1:
        raise typer.BadParameter(f"{picture!r} names {len(found)} pictures; crops takes one")
    if output is not None and output.exists() and is_file(picture) and output.samefile(picture):
        raise typer.BadParameter(f"--output {str(output)!r} is the picture itself: name another")
    from phisight.cli.output import one_line
    from phisight.preview import preview_crops

    preview = preview_crops(found[0].source, model, num_crops=placed.num_crops, crops=placed.crops)
    if output is not None:
        try:
            preview.drawing.save(output)
        except OSError as error:
            raise ImageError(f"{output}: cannot be written ({error.strerror})") from None
        except ValueError:  # a WebP has no side of more than 16,383 pixels
            raise ImageError(f"{output}: too large a drawing for this format; use .png") from None
    typer.echo(one_line(f"{found[0].name} for {preview.model.folder.name}: {preview}"))
    if output is not None:
        typer.echo(one_line(f"drawn in {output}"))


def info(
    model: options.ModelName = None,
) -> None:
    """Tell versions, devices, and what the model in use needs.

    For a question to others about a fault: all of it, and nothing private.
    """
    from phisight.placement import choose_placement
    from phisight.preview import preview_model
    from phisight.verify.environment import describe_machine
    from phisight.verify.files import shared_name

    _show(describe_machine(choose_placement(None, None)))  # first: the model may not be there
    sizes = preview_model(model)
    gib = 2**30
    rows = {
        "model": f"{shared_name(sizes.folder)} ({sizes.folder.chosen_by})",
        "parameters": f"{sizes.num_parameters:,}",
        "weights": (f"packed in {sizes.weights}: " if sizes.weights else "")
        + f"{sizes.weight_bytes('bfloat16') / gib:.2f} GiB in bfloat16, "
        f"{sizes.weight_bytes('float32') / gib:.2f} in float32",
        "context": f"{sizes.context:,} tokens, {sizes.token_bytes / 1024:.0f} KiB each in bfloat16",
        "pictures": f"up to {sizes.num_crops} crops each",
    }
    _show(rows)


def _show(rows: dict[str, str]) -> None:
    from phisight.cli.output import one_line

    for name, value in rows.items():
        typer.echo(one_line(f"{name:<13}{value}"))
