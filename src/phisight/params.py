"""The options a caller may set: fields, defaults, limits and help, each written once.

Python signatures are tested against these classes and the command line is built from them.
Knows nothing of torch or of any argument parser.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from phisight.errors import OptionError
from phisight.jsonfile import brief

DTYPES = ("bfloat16", "float32")


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field that carries its own help text and limits (both ends included)."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def option_field(owner: type, name: str) -> dataclasses.Field[Any]:
    """The field of an option class by name; KeyError if there is none."""
    return {field.name: field for field in dataclasses.fields(owner)}[name]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer is drawn. Raises OptionError if a value is out of its limits."""

    max_tokens: int = option(
        512, "Most tokens to write; the end of the context stops the answer too.", minimum=1
    )
    temperature: float = option(
        0.0,
        "0 always takes the likeliest token; higher values vary more.",
        minimum=0.0,
        maximum=100.0,
    )
    top_p: float = option(
        1.0,
        "Draw only from the likeliest tokens that together have this probability.",
        minimum=0.0,
        maximum=1.0,
    )
    seed: int | None = option(
        None,
        "Makes drawn answers repeatable; no effect at temperature 0.",
        minimum=0,
        maximum=2**32 - 1,
    )

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is put on a machine. None means: decide, and say why."""

    device: str | None = option(
        None, "Where to run: cpu, cuda, cuda:1, mps. Left out: cuda where there is one, else cpu."
    )
    dtype: str | None = option(
        None,
        "Number format of the weights. Left out: bfloat16 where the device computes in it.",
        choices=DTYPES,
    )
    num_crops: int | None = option(
        None,
        "Most 336-pixel crops to cut a picture into. Left out: the checkpoint's own number.",
        minimum=1,
        maximum=64,
    )

    def __post_init__(self) -> None:
        check_limits(self)


def check_limits(options: SamplingParams | LoadOptions) -> None:
    """Raise OptionError for the first field of a wrong type or outside its limits."""
    for field in dataclasses.fields(options):
        value, limits = getattr(options, field.name), field.metadata
        kind = str(field.type)
        if value is None and "None" in kind:
            continue
        expected: type | tuple[type, ...] = (
            int if kind.startswith("int") else (int, float) if kind.startswith("float") else str
        )
        if not isinstance(value, expected) or isinstance(value, bool):
            raise OptionError(
                f"{field.name}={value!r}: expected {kind}, got {type(value).__name__}"
            )
        if isinstance(value, str):
            if limits["choices"] and value not in limits["choices"]:
                raise OptionError(
                    f"{field.name}={value!r}: expected one of {', '.join(limits['choices'])}"
                )
            continue
        low, high = limits["minimum"], limits["maximum"]
        # "not (a <= b)" rather than "a > b": the latter lets NaN through.
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise OptionError(f"{field.name}={brief(value)}: must be {limit}")
