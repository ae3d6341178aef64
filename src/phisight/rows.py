"""Rows of a dataset to answers, for `Model.map`. Knows nothing of how one is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from phisight.answer import Answer
from phisight.errors import InputError, OptionError
from phisight.jsonfile import brief


class Row(NamedTuple):
    """What `Model.ask` takes."""

    prompt: Any
    images: Any
    options: dict[str, Any]


def answers(
    rows: Iterable[Any],
    request: Callable[[Any], Mapping[str, Any]] | None,
    ask: Callable[[Row], Answer],
    *,
    return_errors: bool,
) -> Iterator[Answer | InputError]:
    """An answer for each row in turn, read as they are taken.

    `request` makes of a row a mapping with `prompt`, perhaps `images`, and options; without it the
    row is one. An InputError is led by the row's number, counted from 0.
    """
    for number, row in enumerate(rows):
        fields = row if request is None else request(row)
        try:
            yield ask(_row(fields))
        except InputError as error:
            numbered = type(error)(f"row {number}: {error}")
            if not return_errors:
                raise numbered from None
            yield numbered


def _row(fields: Any) -> Row:
    if not isinstance(fields, Mapping) or "prompt" not in fields:
        raise OptionError(
            f"expected a mapping with 'prompt' and perhaps 'images', got {brief(fields)}; "
            "for other columns pass a function that makes one of a row"
        )
    options = {key: value for key, value in fields.items() if key not in ("prompt", "images")}
    return Row(fields["prompt"], fields.get("images", ()), options)
