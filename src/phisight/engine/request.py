"""What the engine is asked and what it answers. Knows nothing of text or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from phisight.engine.sampling import Logprobs
from phisight.model.phi3v import EncodedImage
from phisight.params import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"  # a stop id came, and is the last of the answer's ids
    LENGTH = "length"  # max_tokens, or the end of the context


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to be written. `ids` holds -n at every position of picture n."""

    ids: Sequence[int]
    images: Sequence[EncodedImage] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class EngineTimes:
    """Seconds the engine has taken over a request so far."""

    queue: float  # waiting for requests before it
    prefill: float  # reading the prompt, up to the first token
    decode: float  # writing the other tokens, without the caller's pauses between them


@dataclass(frozen=True)
class Token:
    """One token of an answer; `finish` comes with the last."""

    token_id: int
    times: EngineTimes
    finish: FinishReason | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class StepOutput:
    """What one step did for one request: its next token, or the error that ended it."""

    request_id: int
    result: Token | Exception

    @property
    def is_last(self) -> bool:
        return isinstance(self.result, Exception) or self.result.finish is not None
