"""The options a caller may set: fields, defaults, limits and help, each written once.

Python signatures are tested against these classes and the command line is built from them.
Knows nothing of torch or of any argument parser.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

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


class SamplingOptions(TypedDict, total=False):
    """SamplingParams as keyword arguments, so that every method that takes them is checked."""

    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None


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
    top_k: int | None = option(None, "Draw only from so many of the likeliest tokens.", minimum=1)
    top_p: float = option(
        1.0,
        "Draw only from the likeliest tokens that together have this probability.",
        minimum=0.0,
        maximum=1.0,
    )
    min_p: float = option(
        0.0,
        "Draw only from tokens at least this likely, measured against the likeliest.",
        minimum=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = option(
        1.0,
        "Above 1, makes tokens of the prompt's text and of the answer less likely to come again.",
        minimum=0.1,
        maximum=10.0,
    )
    seed: int | None = option(
        None,
        "Makes drawn answers repeatable; no effect at temperature 0.",
        minimum=0,
        maximum=2**32 - 1,
    )
    stop: str | Sequence[str] = option(
        (), "End the answer before this text; may be given several times."
    )
    logprobs: int | None = option(
        None,
        "Also give the log-probability of every token, and of so many of the likeliest.",
        minimum=0,
        maximum=20,
    )

    def __post_init__(self) -> None:
        check_limits(self)
        _check_stops(self.stop)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


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
        if (value is None and "None" in kind) or "Sequence" in kind:
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


def sampling_params(*given: Mapping[str, Any]) -> SamplingParams:
    """SamplingParams from keyword arguments, later ones before earlier.

    Raises OptionError for a name that is no option, with the nearest that is.
    """
    known = [field.name for field in dataclasses.fields(SamplingParams)]
    options = {name: value for mapping in given for name, value in mapping.items()}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]}? " if close else ""
            raise OptionError(f"unknown option {name!r}: {guess}There are {', '.join(known)}")
    return SamplingParams(**options)


_MOST_STOPS, _LONGEST_STOP = 16, 256


def _check_stops(stop: str | Sequence[str]) -> None:
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise OptionError(f"stop={brief(stop)}: expected a string or a list of strings")
    if len(texts) > _MOST_STOPS:
        raise OptionError(f"stop has {len(texts)} strings: must be at most {_MOST_STOPS}")
    for text in texts:
        if not 1 <= len(text) <= _LONGEST_STOP:
            raise OptionError(
                f"stop={brief(text)}: must have between 1 and {_LONGEST_STOP} characters"
            )
