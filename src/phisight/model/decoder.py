"""The Phi-3 decoder layers.

Modules act on the last dimensions, so the same code takes (T, D) and (B, T, D). What attention
sees is the caller's: `attend(q, k, v, layer)` gets (..., T, heads, d) tensors, already rotated, and
returns the mixed values in the same shape.

Dimensions: T tokens, D hidden size, I intermediate size, d head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from phisight.config import ModelConfig
from phisight.kernels import between
from phisight.kernels.dense import widest
from phisight.model.packed import linear
from phisight.model.rope import Rotation, rotate

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def widened(x: Tensor) -> Tensor:
    """At least float32; wider stays as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class RMSNorm(nn.Module):
    """float32 inside, cast back *before* the weight is applied, as the reference does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return between.rms_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.num_heads
        self.qkv_proj = linear(config, config.hidden_size, 3 * config.hidden_size)
        self.o_proj = linear(config, config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, -1))  # (..., T, 3, heads, d)
        q, k = rotate(qkv[..., :2, :, :], rotation).unbind(-3)
        mixed = attend(q, k, qkv[..., 2, :, :], self.layer)
        return self.o_proj(mixed.flatten(-2))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up_proj = linear(config, config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = linear(config, config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(between.silu_product(self.gate_up_proj(x)))


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


def causal_attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
    """Every token sees itself and those before it: training, and the tests' recomputation."""
    dtype = q.dtype
    q, k, v = (x.transpose(-2, -3) for x in widest(q, k, v))  # (..., heads, T, d)
    if q.dim() == 3:  # without a batch torch takes the way that writes all (T, T) scores down
        mixed = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[
            0
        ]
    else:
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(-2, -3).to(dtype)
