"""Command-line options built from the option classes, so that help and limits stand there alone."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

from phisight.params import EngineConfig, LoadOptions, SamplingParams


def model_names(incomplete: str) -> list[str]:
    """What the shell offers after --model: models here, and those that can be fetched."""
    from phisight.hub.cache import local_models
    from phisight.hub.registry import PUBLISHED

    names = [model.name for model in local_models()]
    return [name for name in dict.fromkeys([*names, *PUBLISHED]) if name.startswith(incomplete)]


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=model_names,
        help="A name (`phisight models` lists them), a folder, or a hub id. Left out: the one in "
        "PHISIGHT_MODEL, or chosen by `phisight use`, or nano.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per answer, on a line.")]


# Options of EngineConfig for those who serve many; other commands leave them out.
SERVING = ("max_batch", "chunk_tokens", "prefix_cache", "image_memory", "speculate")


def loading(placed: LoadOptions, engine: EngineConfig) -> dict[str, Any]:
    """The keyword arguments of `load`."""
    return {**dataclasses.asdict(placed), **dataclasses.asdict(engine)}


def expand(
    *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of each parameter whose type is an option class.

    The command itself is called with whole SamplingParams, LoadOptions and EngineConfig; fields in
    `without`, and mappings, keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(command, include_extras=True)
        classes = (SamplingParams, LoadOptions, EngineConfig)
        owners = {name: kind for name, kind in hints.items() if kind in classes}
        fields = {
            field.name: (name, field)
            for name, owner in owners.items()
            for field in dataclasses.fields(owner)
            if field.name not in without and "Mapping" not in str(field.type)
        }

        def expanded(**given: Any) -> None:
            values: dict[str, dict[str, Any]] = {name: {} for name in owners}
            for name, (owner, field) in fields.items():
                value = given.pop(name)
                values[owner][name] = field.default if value is None else value
            made = {name: owners[name](**values[name]) for name in owners}
            command(**given, **made)

        parameters = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name not in owners:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
                continue
            for name, (owner, field) in fields.items():
                if owner == parameter.name:
                    parameters.append(_parameter(name, field, owners[owner]))
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        expanded.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        expanded.__doc__, expanded.__name__ = command.__doc__, command.__name__
        return expanded

    return decorate


def _parameter(name: str, field: dataclasses.Field[Any], owner: type) -> inspect.Parameter:
    limits = field.metadata
    option = typer.Option(
        help=limits["help"],
        min=limits["minimum"],
        max=limits["maximum"],
        metavar="|".join(limits["choices"]) if limits["choices"] else None,
    )
    kind = typing.get_type_hints(owner)[name]
    default = field.default
    if "Sequence" in str(field.type):  # given several times
        kind, default = list[str] | None, None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
