"""Keys and values of one sequence, contiguous in each layer and written in place.

Owns their layout and growth. Dimensions: H heads, T tokens of this step, R room for tokens, d head
size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phisight.config import ModelConfig
from phisight.kernels.attention import attend_one

# Room grows by so many tokens at a time. A layer is read whole at every step, since views with gaps
# between heads would be copied, so room to spare costs time; growing copies the layer.
_GROWTH = 64


class KVCache:
    """The cache of one sequence. `attend` is what the decoder layers call."""

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        shape = (2, config.num_heads, 0, config.head_dim)
        self._layers = [
            torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_layers)
        ]
        self.length = 0  # tokens whose keys and values are stored in every layer

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Store (T, H, d) keys and values after the earlier ones; mix what each query sees."""
        stop = self.length + len(q)
        store = self._with_room(layer, stop)  # (2, H, R, d)
        store[0, :, self.length : stop] = k.transpose(0, 1)
        store[1, :, self.length : stop] = v.transpose(0, 1)
        if len(q) == 1:
            return attend_one(q.transpose(0, 1), store[0], store[1], stop).transpose(0, 1)
        assert self.length == 0, "prompts are read in one step"
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, T, d)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed[0].transpose(0, 1)

    def _with_room(self, layer: int, tokens: int) -> Tensor:
        store = self._layers[layer]
        if tokens > store.shape[2]:
            room = -(-tokens // _GROWTH) * _GROWTH
            # Zeros, since what lies beyond the stored tokens is multiplied by weights of zero.
            larger = store.new_zeros(2, store.shape[1], room, store.shape[3])
            larger[:, :, : self.length] = store[:, :, : self.length]
            self._layers[layer] = store = larger
        return store
