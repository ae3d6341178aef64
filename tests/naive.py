"""The engine's law, as code: recompute the whole sequence for every token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from phisight.model.decoder import causal_attend
from phisight.model.phi3v import EncodedImage, Phi3V


@torch.inference_mode()
def last_logits(model: Phi3V, ids: Sequence[int], images: Sequence[EncodedImage]) -> torch.Tensor:
    """(V,) logits after the last id."""
    x = model.embed(ids, images)
    rotation = model.rope().rotation(0, len(ids), length=len(ids), dtype=x.dtype)
    return model.logits(model(x, rotation, causal_attend)[-1])


def greedy(
    model: Phi3V,
    ids: Sequence[int],
    images: Sequence[EncodedImage] = (),
    *,
    max_tokens: int,
    stop_ids: frozenset[int] = frozenset(),
) -> tuple[list[int], list[float]]:
    """The likeliest tokens one after the other, and the gap to the second likeliest at each."""
    tokens: list[int] = []
    gaps: list[float] = []
    while len(tokens) < max_tokens and len(ids) + len(tokens) < model.config.max_positions:
        top = last_logits(model, [*ids, *tokens], images).topk(2)
        tokens.append(int(top.indices[0]))
        gaps.append(float(top.values[0] - top.values[1]))
        if tokens[-1] in stop_ids:
            break
    return tokens, gaps
