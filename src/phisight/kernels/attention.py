"""Attention of one query per head over the keys and values of a sequence.

Dimensions: H heads, S stored tokens, d head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(H, 1, d) queries, (H, S, d) keys and values to (H, 1, d).

    On the CPU two matrix products beat scaled_dot_product_attention for one query: in bfloat16,
    1.2 against 3.2 ms a layer at 32 heads and 800 tokens.
    """
    if q.device.type == "cpu":
        return attend_one_by_products(q, keys, values)
    return functional.scaled_dot_product_attention(q[None], keys[None], values[None])[0]


def attend_one_by_products(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same as two matrix products, softmax in float32 or wider, on any device."""
    # The keys come first in theirs: oneDNN copies a transposed view with gaps between its heads,
    # which costs another 1.2 ms.
    scores = torch.bmm(keys, (q * q.shape[-1] ** -0.5).transpose(1, 2)).transpose(1, 2)  # (H, 1, S)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.bmm(scores.softmax(-1, dtype=wide).to(q.dtype), values)
