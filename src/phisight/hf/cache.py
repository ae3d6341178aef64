"""A key-value cache that can be made anew with the other RoPE factors.

Owns what that needs: the inputs of all tokens, their positions, and which factors each sequence's
keys were turned by. They are one more layer of the cache, so that whatever transformers does to
layers (reorder beams, take tokens back, choose rows) it does to them.

Dimensions: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from phisight.hf.config import Phi3VConfig


class _InputLayer(DynamicLayer):
    """Keys are the inputs, (B, 1, T, D); values are (position, is_long), (B, 1, T, 2)."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.values = value_states.new_empty(0)  # whole numbers, whatever the inputs are


class Phi3VCache(DynamicCache):
    """What `generate` uses; make one to go on from an earlier call: `Phi3VCache(model.config)`."""

    def __init__(self, config: Phi3VConfig) -> None:
        layers = [DynamicLayer() for _ in range(config.num_hidden_layers)]
        Cache.__init__(self, layers=[*layers, _InputLayer()])

    def add_inputs(self, x: Tensor, positions: Tensor, is_long: Tensor) -> None:
        """Note (B, T, D) inputs at (B, T) positions of sequences which are, or are not, long."""
        regimes = is_long[:, None].expand_as(positions)
        self.layers[-1].update(x[:, None], torch.stack([positions, regimes], -1)[:, None])

    def is_long(self) -> Tensor:
        """(B,) Whether the keys are turned by the long factors."""
        return self.layers[-1].values[:, 0, 0, 1].bool()

    def inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The (b, T, D) inputs and (b, T) positions of some rows."""
        layer = self.layers[-1]
        return layer.keys[rows, 0], layer.values[rows, 0, :, 0]

    def replace(self, rows: Tensor, fresh: Phi3VCache) -> None:
        """Take what `fresh` holds as the new contents of some rows."""
        for layer, new in zip(self.layers, fresh.layers, strict=True):
            at = rows.to(new.keys.device)
            # Not in place: tensors of an inference-mode step may not be written to outside of one.
            layer.keys = layer.keys.index_copy(0, at, new.keys)
            layer.values = layer.values.index_copy(0, at, new.values)
