"""What the operations of a decode step compute, in plain torch: the definition of `fused`.

A step reads one token of each sequence. Its keys and values go to their place in the blocks first,
and then it attends to all that is stored, itself included.

Dimensions: S sequences, D hidden size, H heads, d head size, I intermediate size, N blocks,
B tokens a block, M width of the block table.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels.paged import gathered, write_pages


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(S, D) to (S, D); float32 inside, cast back before the weight, as `RMSNorm` does."""
    wide = x.to(wide_dtype(x.dtype))
    normed: Tensor = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def silu_product(gate_up: Tensor) -> Tensor:
    """(S, 2I), gates first, to (S, I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return up * functional.silu(gate)


def quick_gelu(x: Tensor) -> Tensor:
    """Of any shape: x * sigmoid(1.702 x), each operation rounded."""
    return x * torch.sigmoid(1.702 * x)


def linear(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    """(S, in) by an (out, in) weight to (S, out), rounded, then added to a residual.

    As the modules do it: a sum rounded once would be more exact, and further from what they give.
    """
    product = functional.linear(x, weight)
    return product if residual is None else residual + product


def normed_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    """`linear` of `rms_norm`."""
    return linear(rms_norm(x, norm, eps), weight)


def gated_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    """`silu_product` of `normed_linear`: (S, D) by a (2I, D) weight to (S, I)."""
    return silu_product(normed_linear(x, norm, eps, weight))


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, table: Tensor,
    lengths: Tensor,
) -> Tensor:  # fmt: skip
    """Rotate queries and keys, put keys and values into (N, H, B, d) stores; (S, H, d) queries.

    `qkv` is (S, 3HD), cos and sin are (S, d); `table` (S, M) names each sequence's blocks, and
    `lengths` (S,) counts its tokens, this one included.
    """
    heads, block_size, size = keys.shape[1:]
    qk, v = qkv.unflatten(-1, (3, heads, size)).split([2, 1], dim=1)
    swapped = torch.cat([-qk[..., size // 2 :], qk[..., : size // 2]], dim=-1)
    rotated: Tensor = qk * cos[:, None, None] + swapped * sin[:, None, None]  # (S, 2, H, d)
    last = lengths.long() - 1
    blocks = table.long().gather(1, (last // block_size)[:, None])[:, 0]
    write_pages(keys, blocks, last % block_size, rotated[:, 1])
    write_pages(values, blocks, last % block_size, v[:, 0])
    return rotated[:, 0].contiguous()


def attend_blocks(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """(S, H, d) queries over the first `lengths` tokens in each sequence's blocks to (S, H, d)."""
    wide, size = wide_dtype(q.dtype), q.shape[-1]
    # (S, M, H, B, d) to (S, H, M * B, d)
    k, v = (
        gathered(store, table.long(), wide).transpose(1, 2).flatten(2, 3)
        for store in (keys, values)
    )
    seen = torch.arange(k.shape[2], device=q.device) < lengths[:, None]  # (S, M * B)
    v = v.masked_fill(~seen[:, None, :, None], 0.0)  # what no token wrote may be no number
    scores = (k @ q.to(wide)[..., None])[..., 0] * size**-0.5  # (S, H, M * B)
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    mixed: Tensor = weights[:, :, None] @ v
    return mixed[:, :, 0].to(q.dtype)


def attend_sequence(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """`attend_blocks` of rows that are all of one sequence, whose `table` is (M,).

    Beside it a rounding of the weights to the rows' dtype, if that is bfloat16 or float16.
    """
    return attend_blocks(q, keys, values, table.expand(len(q), -1), lengths)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
