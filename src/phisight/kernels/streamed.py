"""A matrix times few rows, the weights streamed once past them: what bounds a small decode step.

cuBLAS reaches 1.9 to 3.9 TB/s on an H200 at one row, least on the narrowest matrices
(docs/log.md).

Dimensions: R rows, OUT and IN the weight's sizes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 1
OUTS, INS, WARPS = 8, 1024, 8  # a program's outputs, and inputs at a time


def worth_streaming(x: Tensor, weight: Tensor) -> bool:
    """Whether it beats cuBLAS: large half-precision weights and few rows."""
    return (
        len(x) <= MOST_ROWS
        and weight.dtype in (torch.bfloat16, torch.float16)
        and weight.numel() >= 2**20
        and weight.is_contiguous()
    )


@triton.jit
def _stream(
    x, weight, residual, out,
    OUT: tl.constexpr, IN: tl.constexpr, OUTS: tl.constexpr, INS: tl.constexpr,
    ADDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    outs = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    within = outs < OUT
    total = tl.zeros((OUTS, INS), tl.float32)
    lines = weight + outs[:, None].to(tl.int64) * IN
    for start in range(0, IN, INS):
        ins = start + tl.arange(0, INS)
        inside = ins < IN
        w = tl.load(lines + ins[None, :], mask=within[:, None] & inside[None, :], other=0.0,
                    eviction_policy="evict_first")  # fmt: skip
        part = tl.load(x + row * IN + ins, mask=inside, other=0.0).to(tl.float32)
        total += w.to(tl.float32) * part[None, :]
    summed = tl.sum(total, 1)
    place = row * OUT + outs
    if ADDS:
        summed += tl.load(residual + place, mask=within, other=0.0).to(tl.float32)
    tl.store(out + place, summed.to(out.dtype.element_ty), mask=within)


def streamed_linear(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    """(R, IN) by an (OUT, IN) weight to (R, OUT), added to a residual before it is rounded."""
    outs, ins = weight.shape
    out = x.new_empty(len(x), outs)
    _stream[(triton.cdiv(outs, OUTS), len(x))](
        x, weight, x if residual is None else residual, out,
        outs, ins, OUTS, INS, residual is not None, num_warps=WARPS,
    )  # fmt: skip
    return out
