"""Keys and values of one sequence, contiguous and written in place.

Owns their layout and how attention reads them. Dimensions: L layers, H heads, T tokens of this
step, S tokens stored, d head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phisight.config import ModelConfig
from phisight.kernels.attention import attend_one


class KVCache:
    """Room for `capacity` tokens. `attend` is what the decoder layers call."""

    def __init__(
        self, config: ModelConfig, capacity: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (2, config.num_layers, config.num_heads, capacity, config.head_dim)
        self._store = torch.empty(shape, device=device, dtype=dtype)  # (2, L, H, capacity, d)
        self.length = 0  # tokens whose keys and values are stored in every layer

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Store (T, H, d) keys and values after the earlier ones; mix what each query sees."""
        start, stop = self.length, self.length + len(q)
        keys, values = self._store[0, layer, :, :stop], self._store[1, layer, :, :stop]  # (H, S, d)
        keys[:, start:] = k.transpose(0, 1)
        values[:, start:] = v.transpose(0, 1)
        q = q.transpose(0, 1)  # (H, T, d)
        if q.shape[1] == 1:
            return attend_one(q, keys, values).transpose(0, 1)
        assert start == 0, "prompts are read in one step"
        mixed = functional.scaled_dot_product_attention(
            q[None], keys[None], values[None], is_causal=True
        )
        return mixed[0].transpose(0, 1)
