"""What the engine is asked and what it answers. Knows nothing of text or pictures' formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from phisight.engine.sampling import AllowedTokens, Logprobs
from phisight.model.phi3v import Crops, EncodedImage
from phisight.params import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"  # a stop id came, and is the last of the answer's ids
    LENGTH = "length"  # max_tokens, or the end of the context


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to be written. `ids` holds -n at every position of picture n."""

    ids: Sequence[int]
    images: Sequence[EncodedImage | Crops] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: frozenset[int] = frozenset()
    allowed_tokens: AllowedTokens | None = None  # for answers of a given form
    penalized_ids: frozenset[int] = frozenset()  # for the repetition penalty, besides `ids`


@dataclass(frozen=True)
class Progress:
    """How far a request is: crops encoded, tokens of its prompt read, tokens written."""

    crops_done: int
    crops: int
    read: int
    prompt: int
    written: int


@dataclass(frozen=True)
class EngineTimes:
    """Seconds of a request's life so far."""

    queue: float = 0.0  # before anything was done for it
    vision: float = 0.0  # steps' share in which its pictures were encoded
    prefill: float = 0.0  # reading the prompt, up to the first token
    decode: float = 0.0  # from the first token to this one


@dataclass(frozen=True)
class Token:
    """One token of an answer; `finish` comes with the last."""

    token_id: int
    times: EngineTimes
    finish: FinishReason | None = None
    logprobs: Logprobs | None = None
    cached_tokens: int = 0  # of the prompt, not read since they were found in the cache


@dataclass(frozen=True)
class StepOutput:
    """What one step did for one request: a token, or the error that ended it."""

    request_id: int
    result: Token | Exception

    @property
    def is_last(self) -> bool:
        return isinstance(self.result, Exception) or self.result.finish is not None
