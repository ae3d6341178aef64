"""What an option class is: fields that carry their help and limits, and the checks of both.

Knows nothing of torch or of any argument parser.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from phisight.errors import OptionError
from phisight.jsonfile import brief

_MOST_STOPS, _LONGEST_STOP = 16, 256


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


def check_limits(options: Any) -> None:
    """Raise OptionError for the first field of a wrong type or outside its limits."""
    for field in dataclasses.fields(options):
        value, limits = getattr(options, field.name), field.metadata
        kind = str(field.type)
        if (value is None and "None" in kind) or "Sequence" in kind or "Mapping" in kind:
            continue
        if kind.startswith("bool"):
            if not isinstance(value, bool):
                raise OptionError(f"{field.name}={brief(value)}: expected True or False")
            continue
        expected: type | tuple[type, ...] = (
            int if kind.startswith("int") else (int, float) if kind.startswith("float") else str
        )
        if not isinstance(value, expected) or isinstance(value, bool):
            raise OptionError(
                f"{field.name}={brief(value)}: expected {kind}, got {type(value).__name__}"
            )
        if isinstance(value, str):
            if limits["choices"] and value not in limits["choices"]:
                raise OptionError(
                    f"{field.name}={brief(value)}: expected one of {', '.join(limits['choices'])}"
                )
            continue
        low, high = limits["minimum"], limits["maximum"]
        # "not (a <= b)" rather than "a > b": the latter lets NaN through.
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limit = f"at least {low}" if high is None else f"between {low} and {high}"
            raise OptionError(f"{field.name}={brief(value)}: must be {limit}")


def check_names(owner: type, options: Mapping[str, Any]) -> None:
    """Raise OptionError for a name that is no field of an option class, with the nearest one."""
    known = [field.name for field in dataclasses.fields(owner)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]}? " if close else ""
            raise OptionError(f"unknown option {name!r}: {guess}There are {', '.join(known)}")


def check_stops(stop: str | Sequence[str]) -> None:
    """Raise OptionError for what cannot be stop strings."""
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


def check_bias(bias: Mapping[int, float] | None) -> None:
    """Raise OptionError for what cannot be added to logits."""
    if bias is None:
        return
    if not isinstance(bias, Mapping):
        raise OptionError(f"logit_bias={brief(bias)}: expected a mapping of token ids to numbers")
    for token_id, amount in bias.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise OptionError(f"logit_bias: {brief(token_id)} is no token id")
        if not isinstance(amount, (int, float)) or not -100 <= amount <= 100:
            raise OptionError(
                f"logit_bias[{token_id}]={brief(amount)}: must be within -100 and 100"
            )
