"""An answer being written, and the answer written.

Owns the assembly of text from ids. Knows nothing of how a model is loaded.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from phisight.engine.loop import EngineLoop
from phisight.engine.request import EngineTimes, Progress, Request, Token
from phisight.engine.sampling import Logprobs
from phisight.jsonfile import brief
from phisight.processing.processor import ReadyImage
from phisight.processing.stops import StopStrings
from phisight.processing.tokenizer import Tokenizer

# Progress for those, too, who know no engine.
__all__ = ["Answer", "Progress", "Stream", "Timings", "TokenLogprob", "Usage"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a request; the image tokens are part of the prompt's."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int = 0  # up to and including the stop token
    cached_tokens: int = 0  # of the prompt, kept from earlier requests and not read again
    spared_tokens: int = 0  # that its pictures would take more without crops="auto"


@dataclass(frozen=True)
class Timings:
    """Seconds spent on each part of a request; what ran beside it had a share in them."""

    processing: float = 0.0  # opening and cutting pictures, encoding text
    vision: float = 0.0  # crops to image tokens
    queue: float = 0.0  # before the engine took it up
    prefill: float = 0.0  # reading the prompt, up to the first token
    decode: float = 0.0  # writing the other tokens

    @property
    def total(self) -> float:
        return self.processing + self.vision + self.queue + self.prefill + self.decode


@dataclass(frozen=True)
class TokenLogprob:
    """The natural logarithm of a token's probability, before any sampling option acts."""

    token_id: int
    text: str  # what it adds to a text; part of a character is U+FFFD, a control token nothing
    logprob: float
    top: tuple[TokenLogprob, ...] = ()  # the likeliest tokens at this place, best first

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


@dataclass(frozen=True, repr=False)
class Answer:
    """What the model wrote, and what it took."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    usage: Usage
    timings: Timings
    stop: str | None = None  # the stop string that ended it; the text ends before it
    logprobs: tuple[TokenLogprob, ...] | None = None  # one for each of token_ids, if asked for

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        tokens = self.usage.completion_tokens
        return f"<phisight.Answer {brief(self.text)}, {self.finish_reason} after {tokens} tokens>"

    def _repr_html_(self) -> str:
        """How a notebook shows it. All of the text is escaped: it may come off a picture."""
        text, costs = html.escape(self.text), html.escape(self.summary())
        return (
            f'<pre style="white-space: pre-wrap; font-family: inherit">{text}</pre>'
            f'<div style="opacity: 0.6; font-size: smaller">{costs}</div>'
        )

    def summary(self) -> str:
        """One line: seconds and tokens, and whether the answer was cut."""
        usage, seconds = self.usage, self.timings
        cut = ", cut there" if self.finish_reason == "length" else ""
        full = usage.image_tokens + usage.spared_tokens
        if usage.spared_tokens:
            cut += f"; pictures in {usage.image_tokens} tokens, {full} without crops=auto"
        return (
            f"{seconds.total:.2f} s: pictures {seconds.processing + seconds.vision:.2f}, "
            f"reading {usage.prompt_tokens} tokens {seconds.prefill:.2f}, "
            f"writing {usage.completion_tokens} tokens {seconds.decode:.2f}{cut}"
        )


class Stream(Iterator[str]):
    """Pieces of an answer as they are written; `answer` is set once they are all out.

    Closing it, leaving its `with` block, or dropping it ends the request and frees its memory.
    """

    def __init__(
        self,
        loop: EngineLoop,
        request: Request,
        tokenizer: Tokenizer,
        usage: Usage,
        timings: Timings,
        images: tuple[ReadyImage, ...] = (),
    ) -> None:
        self.answer: Answer | None = None
        self.images = images  # opened, in the prompt's order, to be used again
        self._loop, self._stop_ids, self._tokenizer = loop, request.stop_ids, tokenizer
        self._usage, self._timings = usage, timings
        self._text = tokenizer.text_stream()
        self._stops = StopStrings(request.params.stop_strings)
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._when_complete: Callable[[Answer], None] | None = None
        self._request_id = loop.submit(request)

    def __next__(self) -> str:
        while (token := self._loop.next_token(self._request_id)) is not None:
            piece = self._take(token)
            if self._stops.found is not None and token.finish is None:
                self.close()
            if self._stops.found is not None or token.finish is not None:
                self.answer = self._complete(token)
                if self._when_complete is not None:
                    self._when_complete(self.answer)
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

    @property
    def progress(self) -> Progress | None:
        """How far it is, for any thread to ask; None where there is nothing to wait for."""
        return self._loop.progress(self._request_id)

    def when_complete(self, call: Callable[[Answer], None]) -> None:
        """Call this with the answer once it is complete, and not if it never is."""
        self._when_complete = call

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

    def _take(self, token: Token) -> str:
        """Keep a token; the text it lets out."""
        self._ids.append(token.token_id)
        if token.logprobs is not None:
            self._logprobs.append(self._named(token.token_id, token.logprobs))
        # A stop token is no text, even where the tokenizer does not call it special (</s>).
        stopped = token.token_id in self._stop_ids
        text = "" if stopped else self._text.add(token.token_id)
        if token.finish is not None:
            text += self._text.finish()
        piece = self._stops.add(text)
        if token.finish is not None:
            piece += self._stops.finish()
        self._pieces.append(piece)
        return piece

    def _named(self, token_id: int, logprobs: Logprobs) -> TokenLogprob:
        text = self._tokenizer.token_text
        top = tuple(TokenLogprob(other, text(other), value) for other, value in logprobs.top)
        return TokenLogprob(token_id, text(token_id), logprobs.chosen, top)

    def _complete(self, last: Token) -> Answer:
        times: EngineTimes = last.times
        found = self._stops.found
        return Answer(
            text="".join(self._pieces),
            token_ids=tuple(self._ids),
            finish_reason="stop" if found is not None else str(last.finish),
            usage=replace(
                self._usage, cached_tokens=last.cached_tokens, completion_tokens=len(self._ids)
            ),
            timings=replace(
                self._timings,
                queue=times.queue,
                vision=times.vision,
                prefill=times.prefill,
                decode=times.decode,
            ),
            stop=found,
            logprobs=tuple(self._logprobs) if self._logprobs else None,
        )
