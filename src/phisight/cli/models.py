"""`pull`, `use` and `models`: fetch models, choose one, list them. Knows no HTTP and no layout."""

from __future__ import annotations

import dataclasses
import json as json_format
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from phisight.cli.output import note, printable
from phisight.errors import ModelError, PhisightError

if TYPE_CHECKING:
    from rich.progress import Progress

    from phisight.hub import ModelFolder
    from phisight.hub.cache import LocalModel

_LARGEST_CARD = 2**20  # bytes


def pull(
    model: Annotated[str, typer.Argument(help="phi-3.5-vision, phi-3-vision, or a hub id.")],
    revision: Annotated[
        str | None,
        typer.Option(help="A commit, branch or tag. Left out: the one we know, or main."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hash what is here already.")] = False,
) -> None:
    """Fetch a model from the hub, or the rest of it.

    Prints the model's folder. What has come is kept: the same command goes on where it stopped.
    """
    from phisight.hub.pull import pull as fetch_model

    with _Bar() as bar:
        try:
            found = fetch_model(model, revision=revision, verify=verify, progress=bar)
        except KeyboardInterrupt:
            bar.close()
            note("stopped; what has come is kept, and the same command goes on from there")
            raise typer.Exit(130) from None
    typer.echo(printable(str(found.path)))
    name = found.name if revision is None else str(found.path)
    note(f"to use it when no model is named: phisight use {name}")


def use(
    model: Annotated[
        str | None, typer.Argument(help="A name, a folder or a hub id. Left out: say what is used.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Go back to the default.")] = False,
) -> None:
    """Choose the model used when none is named, or say which it is."""
    from phisight.hub import choice, find_model, use_model

    if forget and model is not None:
        raise typer.BadParameter("give a model or --forget, not both")
    if model is not None:
        use_model(model)
    if forget and not choice.forget():
        note("nothing was chosen")
    used = find_model()
    typer.echo(printable(f"{used.name} ({used.chosen_by})  {used.path}"))
    if model is not None and used.chosen_by != "phisight use":
        note(f"{model} is remembered, but {used.chosen_by} goes before it")
    elif used.note:
        note(used.note)


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Print this one's card: what it is for, and its scores."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the models on this machine, and those that can be fetched."""
    from phisight.hub import find_model
    from phisight.hub.cache import local_models, size_text
    from phisight.hub.registry import PUBLISHED

    if name is not None:
        _print_card(find_model(name), json=json)
        return
    here = local_models()
    complete = {model.hub_id for model in here if not model.missing}
    absent = [known for known in PUBLISHED.values() if known.hub_id not in complete]
    used: ModelFolder | None = None
    why_not = None
    try:
        used = find_model()
    except PhisightError as error:
        why_not = str(error)
    if json:
        record = {
            "used": used and {"name": used.name, "path": used.path, "chosen_by": used.chosen_by},
            "models": [dataclasses.asdict(model) for model in here],
            "to_pull": [dataclasses.asdict(known) for known in absent],
        }
        typer.echo(json_format.dumps(record, default=str))
    else:
        rows = [("", "NAME", "SIZE", "STATE", "FROM")]
        for model in here:
            mark = "*" if used and used.path == model.path else ""
            rows.append((mark, model.name, size_text(model.size), _state(model), _origin(model)))
        if used and all(used.path != model.path for model in here):
            rows.append(("*", used.name, "", "", f"folder {used.path}"))
        _table(rows)
        if used:
            typer.echo(printable(f"\n* is used when no model is named ({used.chosen_by})"))
        if absent:
            typer.echo("\nto fetch, with phisight pull NAME:\n")
            _table(
                [
                    ("", known.name, size_text(known.weight_bytes), known.licence, known.about)
                    for known in absent
                ]
            )
    if why_not:
        note(why_not)


def _state(model: LocalModel) -> str:
    if not model.missing:
        return "complete"
    more = f" and {len(model.missing) - 1} more" if len(model.missing) > 1 else ""
    return f"lacks {model.missing[0]}{more}"


def _origin(model: LocalModel) -> str:
    if model.hub_id is None:
        return "bundled"
    return f"{model.hub_id} at {(model.revision or '')[:12]}"


def _print_card(found: ModelFolder, *, json: bool) -> None:
    """The README.md that model folders come with."""
    card = found.path / "README.md"
    if not card.is_file():
        raise ModelError(f"{found.name} has no card: there is no README.md in {found.path}")
    if (size := card.stat().st_size) > _LARGEST_CARD:
        raise ModelError(f"{card} has {size} bytes: a card has at most {_LARGEST_CARD}")
    try:
        text = printable(card.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ModelError(f"{card} cannot be read: {error.strerror}") from None
    if json:
        record = {"name": found.name, "path": found.path, "card": text}
        typer.echo(json_format.dumps(record, default=str))
    else:
        typer.echo(text.rstrip())


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns of plain text, as wide as needed, so that a pipe gets what a terminal shows."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo(printable("  ".join([*cells, row[-1]]).rstrip()))


class _Bar:
    """Notes on stderr, and a bar there if it is a terminal."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def note(self, text: str) -> None:
        self.close()
        note(text)

    def start(self, have: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.add_task("", total=total, completed=have)
        self._bar.start()

    def advance(self, num_bytes: int) -> None:
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], num_bytes)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
