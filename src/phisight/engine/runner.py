"""One sequence through the network: its tokens, its cache, its RoPE regime.

Owns the single rule of LongRoPE in generation: when the sequence grows past the short factors'
reach, its cache is rebuilt from the first token with the long ones, so that the answer is the one
recomputation would give. (The Phi-3-vision code keeps the old keys there; Phi-3.5's rebuilds.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from phisight.engine.cache import KVCache
from phisight.model.phi3v import EncodedImage, Phi3V
from phisight.model.rope import Rope


class SequenceRunner:
    """The growing token list of one request and the logits after it."""

    def __init__(
        self,
        model: Phi3V,
        rope: Rope,
        ids: Sequence[int],
        images: Sequence[EncodedImage],
    ) -> None:
        self._model, self._rope, self._images = model, rope, images
        self._ids = list(ids)
        self._cache = KVCache(model.config, device=model.device, dtype=model.dtype)
        self._is_long = False

    def __len__(self) -> int:
        return len(self._ids)

    def append(self, token_id: int) -> None:
        self._ids.append(token_id)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """(V,) logits after the last token; reads every token not yet in the cache."""
        cache, length = self._cache, len(self._ids)
        if self._rope.is_long(length) != self._is_long:
            self._is_long = not self._is_long
            cache.length = 0
        # A step cut short before its token was kept reads the last one again.
        start = cache.length = min(cache.length, length - 1)
        # Pictures stand in the prompt, which is read in one piece, from 0.
        x = self._model.embed(self._ids[start:], self._images if start == 0 else ())  # (T, D)
        rotation = self._rope.rotation(start, length, length=length, dtype=x.dtype)
        hidden = self._model(x, rotation, cache.attend)
        cache.length = length
        return self._model.logits(hidden[-1])
