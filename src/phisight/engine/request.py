"""What the engine is asked and what it answers. Knows nothing of text or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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
class Finish:
    """How a request ended, and the seconds the engine took over it."""

    reason: FinishReason
    queue: float  # waiting for requests before it
    prefill: float  # reading the prompt, up to the first token
    decode: float  # writing the other tokens, without the caller's pauses between them


@dataclass(frozen=True)
class StepOutput:
    """One token of one request, with its last one `finish`; or the error that ended it."""

    request_id: int
    token_id: int | None = None
    finish: Finish | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        return self.finish is not None or self.error is not None
