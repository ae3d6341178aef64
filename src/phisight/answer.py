"""An answer being written, and the answer written.

Owns the assembly of text from ids. Knows nothing of how a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from phisight.engine.loop import EngineLoop
from phisight.engine.request import Finish, Request
from phisight.processing.tokenizer import TextStream


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; the image tokens are part of the prompt's."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int = 0  # up to and including the stop token


@dataclass(frozen=True)
class Timings:
    """Seconds spent on each part of a request."""

    processing: float = 0.0  # opening and cutting pictures, encoding text
    vision: float = 0.0  # crops to image tokens
    queue: float = 0.0  # waiting for requests before it
    prefill: float = 0.0  # reading the prompt, up to the first token
    decode: float = 0.0  # writing the other tokens

    @property
    def total(self) -> float:
        return self.processing + self.vision + self.queue + self.prefill + self.decode


@dataclass(frozen=True)
class Answer:
    """What the model wrote, and what it took."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    usage: Usage
    timings: Timings

    def __str__(self) -> str:
        return self.text


class Stream(Iterator[str]):
    """Pieces of an answer as they are written; `answer` is set once they are all out.

    Closing it, leaving its `with` block, or dropping it ends the request and frees its memory.
    """

    def __init__(
        self, loop: EngineLoop, request: Request, text: TextStream, usage: Usage, timings: Timings
    ) -> None:
        self.answer: Answer | None = None
        self._loop, self._stop_ids, self._text = loop, request.stop_ids, text
        self._usage, self._timings = usage, timings
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._request_id = loop.submit(request)

    def __next__(self) -> str:
        while (output := self._loop.next_output(self._request_id)) is not None:
            assert output.token_id is not None, "an output without a token raises its error"
            self._ids.append(output.token_id)
            # A stop token is no text, even where the tokenizer does not call it special (</s>).
            stopped = output.token_id in self._stop_ids
            piece = "" if stopped else self._text.add(output.token_id)
            if output.finish is not None:
                piece += self._text.finish()
            self._pieces.append(piece)
            if output.finish is not None:
                self.answer = self._complete(output.finish)
            if piece:
                return piece
        raise StopIteration

    def finish(self) -> Answer:
        """Run to the end and return the answer. Raises RuntimeError if it was closed before."""
        for _ in self:
            pass
        if self.answer is None:
            raise RuntimeError("this stream was closed before its answer was complete")
        return self.answer

    def close(self) -> None:
        """End the request; the pieces so far are all there will be."""
        self._loop.abandon(self._request_id)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_request_id"):  # not if submitting it failed
            self.close()

    def _complete(self, finish: Finish) -> Answer:
        return Answer(
            text="".join(self._pieces),
            token_ids=tuple(self._ids),
            finish_reason=str(finish.reason),
            usage=replace(self._usage, completion_tokens=len(self._ids)),
            timings=replace(
                self._timings, queue=finish.queue, prefill=finish.prefill, decode=finish.decode
            ),
        )
