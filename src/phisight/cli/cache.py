"""`cache`: what a `--cache-dir` holds, and clearing it."""

from __future__ import annotations

import json as json_format
import time
from pathlib import Path
from typing import Annotated

import typer


def cache(
    folder: Annotated[Path, typer.Argument(help="The folder that --cache-dir names.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove what is kept there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what is kept of pictures in a folder, or clear it.

    Each line is one model in one way of running it. Other files in the folder are left alone.
    """
    if not folder.expanduser().is_dir():
        raise typer.BadParameter(f"{str(folder)!r} is no folder", param_hint="FOLDER")
    from phisight.cli.output import note, one_line
    from phisight.diskcache import files
    from phisight.hub.cache import size_text

    held = files.clear(folder) if clear else files.stored(folder)
    total = sum(group.bytes for group in held)
    if json:
        record = {"folder": str(folder), "cleared": clear, "bytes": total}
        record |= {"models": [group._asdict() for group in held]}
        typer.echo(json_format.dumps(record))
        return
    for group in held:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(group.used))
        typer.echo(f"{group.model}  {group.files:6} files  {size_text(group.bytes):>9}  {used}")
    done = "removed" if clear else "kept"
    note(one_line(f"{size_text(total)} {done} in {folder}" if held else f"{folder} keeps nothing"))
