"""Rows of a dataset to answers, for `Model.map`. Knows nothing of how one is answered.

Owns the order: several rows are under way at once, and their answers come in the rows' order.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from phisight.answer import Answer, Stream
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
    start: Callable[[Row], Stream],
    *,
    ahead: int,
    return_errors: bool,
) -> Iterator[Answer | InputError]:
    """An answer for each row in turn; up to `ahead` rows are read before the first is taken.

    `request` makes of a row a mapping with `prompt`, perhaps `images`, and options; without it the
    row is one. An InputError is led by the row's number, counted from 0.
    """
    under_way: deque[tuple[int, Stream | InputError]] = deque()
    numbered = enumerate(rows)
    try:
        while True:
            for number, row in itertools.islice(numbered, ahead - len(under_way)):
                under_way.append((number, _started(row, request, start)))
            if not under_way:
                return
            number, stream = under_way.popleft()
            try:
                yield stream.finish() if isinstance(stream, Stream) else _raised(stream)
            except InputError as error:
                told = type(error)(f"row {number}: {error}")
                if not return_errors:
                    raise told from None
                yield told
    finally:
        for _, stream in under_way:
            if isinstance(stream, Stream):
                stream.close()


def _started(
    row: Any,
    request: Callable[[Any], Mapping[str, Any]] | None,
    start: Callable[[Row], Stream],
) -> Stream | InputError:
    fields = row if request is None else request(row)
    try:
        return start(_row(fields))
    except InputError as error:
        return error


def _raised(error: InputError) -> Answer:
    raise error


def _row(fields: Any) -> Row:
    if not isinstance(fields, Mapping) or "prompt" not in fields:
        raise OptionError(
            f"expected a mapping with 'prompt' and perhaps 'images', got {brief(fields)}; "
            "for other columns pass a function that makes one of a row"
        )
    options = {key: value for key, value in fields.items() if key not in ("prompt", "images")}
    return Row(fields["prompt"], fields.get("images", ()), options)
