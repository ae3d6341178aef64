"""Rows of a dataset to answers, for `Model.map`. Knows nothing of how one is answered.

Owns the order: several rows are under way at once, and their answers come in the rows' order.
Files and URLs are opened and cut in threads, so that a fast device does not wait for one after
another; pictures in memory at once, since whoever gave them may go on to change or close them.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from phisight.answer import Answer, Stream
from phisight.errors import InputError, OptionError
from phisight.jsonfile import brief

_STARTERS = min(8, os.cpu_count() or 1)  # threads


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
    under_way: deque[tuple[int, Future[Stream | InputError]]] = deque()
    numbered = enumerate(rows)
    with ThreadPoolExecutor(_STARTERS) as starters:
        try:
            while True:
                for number, row in itertools.islice(numbered, ahead - len(under_way)):
                    fields = row if request is None else request(row)
                    begin = starters.submit if _from_files(fields) else _done
                    under_way.append((number, begin(_started, fields, start)))
                if not under_way:
                    return
                number, started = under_way[0]
                try:
                    stream = started.result()
                    under_way.popleft()
                    yield stream.finish() if isinstance(stream, Stream) else _raised(stream)
                except InputError as error:
                    told = type(error)(f"row {number}: {error}")
                    if not return_errors:
                        raise told from None
                    yield told
        finally:
            for _, started in under_way:
                if not started.cancel():
                    started.add_done_callback(_closed)


def _from_files(fields: Any) -> bool:
    images = fields.get("images") if isinstance(fields, Mapping) else None
    return isinstance(images, (list, tuple)) and all(
        isinstance(image, (str, bytes, os.PathLike)) for image in images
    )


def _done(call: Callable[..., Stream | InputError], *given: Any) -> Future[Stream | InputError]:
    future: Future[Stream | InputError] = Future()
    future.set_result(call(*given))
    return future


def _closed(started: Future[Stream | InputError]) -> None:
    if started.exception() is None and isinstance(stream := started.result(), Stream):
        stream.close()


def _started(fields: Any, start: Callable[[Row], Stream]) -> Stream | InputError:
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
