"""Typed values out of a model folder's JSON, each checked where it is read. No torch.

Every function raises ConfigError naming the key, the value and what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phisight.errors import ConfigError

_MOST_BYTES = 64 * 2**20  # of a text file; the largest of Phi-3-V, tokenizer.json, has 1.9 MB


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigError if it is absent or not an object."""
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, endless numbers
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not readable as JSON ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def read_text(path: Path) -> str:
    """A small text file of a model folder. Raises ConfigError.

    A pipe or a device in its place would be waited for, or read, without end.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{path}: larger than the limit of {_MOST_BYTES:,} bytes")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; a Phi-3-V model folder needs {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None


def check_fixed(data: Mapping[str, Any], fixed: dict[str, tuple[object, ...]], where: str) -> None:
    """Check that each key, where present, has one of its allowed values."""
    for key, allowed in fixed.items():
        value = data.get(key, allowed[0])
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            expected = " or ".join(repr(choice) for choice in allowed)
            raise ConfigError(f"{where}{key}={brief(value)}: only {expected} is implemented")


def section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A JSON object inside another."""
    value = data.get(key)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}={brief(value)}: expected a JSON object, as in Phi-3-V's config.json"
        )
    return value


def whole_number(
    data: Mapping[str, Any], key: str, default: int | None = None, *, maximum: int = 2**24
) -> int:
    """An integer from 1 to a maximum, which keeps absurd sizes from being built."""
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise ConfigError(f"{key}={brief(value)}: expected a whole number from 1 to {maximum}")
    return value


def positive(data: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number above 0."""
    value = data.get(key, default)
    if not _is_number(value) or value <= 0:
        raise ConfigError(f"{key}={brief(value)}: expected a number above 0")
    return float(value)


def numbers(value: object, key: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    if not isinstance(value, (list, tuple)) or not all(map(_is_number, value)):
        raise ConfigError(f"{key}={brief(value)}: expected a list of finite numbers")
    return tuple(map(float, value))


def token_ids(value: object, key: str) -> tuple[int, ...]:
    """Token ids from one id, a list of them, or null."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for item in ids:
        if not isinstance(item, int) or isinstance(item, bool) or item < 0:
            raise ConfigError(f"{key}={brief(value)}: expected token ids")
    return tuple(ids)


def brief(value: object) -> str:
    """A value for an error message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**1000
