"""What a step is to do, as the scheduler tells it to the runner. Knows nothing of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from phisight.engine.sequence import Sequence, Slice


@dataclass(frozen=True)
class Limits:
    """Bounds of one step."""

    max_batch: int  # sequences that run at once
    chunk_tokens: int  # of prompts, in all
    chunk_crops: int  # of pictures to encode, though always one picture
    short_reach: int  # tokens up to which a sequence takes the short RoPE factors
    alone_tokens: int = 0  # instead of chunk_tokens, if more, where nobody is waiting for a token
    reuse: bool = True  # whether stored prefixes are found again


@dataclass
class Plan:
    """One step: pictures to encode first (sequence and number from 0), then slices to read."""

    images: list[tuple[Sequence, int]] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    new_blocks: list[int] = field(default_factory=list)  # blank until now
    named: list[int] = field(default_factory=list)  # findable from this step on
    fetched: int = 0  # tokens of whole blocks from elsewhere: takes time too, one prompt's a step
