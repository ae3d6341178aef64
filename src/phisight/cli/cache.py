"""`cache`: what a `--cache-dir` holds, and clearing it."""

from __future__ import annotations

import json as json_format
import time
from pathlib import Path
from typing import Annotated

import typer

from phisight.errors import OptionError


def cache(
    folder: Annotated[str, typer.Argument(help="The folder that --cache-dir names.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove what is kept there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what is kept of pictures in a folder, or clear it.

    Each line is one model in one way of running it. Other files in the folder are left alone.
    """
    from phisight.cli.output import note, one_line
    from phisight.diskcache import files
    from phisight.hub.cache import size_text

    left: list[Path] = []
    try:
        if not files.cache_root(folder).parent.is_dir():
            raise OptionError(f"{folder!r} is no folder")
        if clear:
            held, left = files.clear(folder)
        else:
            held = files.stored(folder)
    except OptionError as error:
        raise typer.BadParameter(str(error), param_hint="FOLDER") from None
    total = sum(group.bytes for group in held)
    if json:
        record = {"folder": folder, "cleared": clear, "bytes": total}
        record |= {"models": [group._asdict() for group in held]}
        record |= {"left": [str(path) for path in left]} if clear else {}
        typer.echo(json_format.dumps(record))
        raise typer.Exit(1 if left else 0)
    for group in held:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(group.used))
        typer.echo(f"{group.model}  {group.files:6} files  {size_text(group.bytes):>9}  {used}")
    done = "removed" if clear else "kept"
    note(one_line(f"{size_text(total)} {done} in {folder}" if held else f"{folder} keeps nothing"))
    if left:
        note(one_line(f"{len(left)} files could not be removed, among them {left[0]}"))
        raise typer.Exit(1)
