"""A matrix times few rows, the weights streamed once past them: what bounds a small decode step.

What stands before the product (RMSNorm) and after it (SiLU, a residual) is done within, and the
first weights are asked for before the kernel that makes the input has ended (programmatic dependent
launch). cuBLAS reaches 1.9 to 3.9 TB/s on an H200 at one row, least on the narrowest matrices
(docs/log.md).

Dimensions: R rows, OUT and IN the weight's sizes; of a gated weight (2 OUT, IN), gates first.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

MOST_ROWS = 1
# A program's outputs, and inputs at a time. On an H100 within 3 % of the best for every matrix of
# the full size but the narrowest (o: 2,440 of 2,610 GB/s); 8, 1024, 8 lost up to 15 %.
OUTS, INS, WARPS = 4, 1024, 4


def worth_streaming(x: Tensor, weight: Tensor) -> bool:
    """Whether it beats cuBLAS: large half-precision weights and few rows."""
    return (
        len(x) <= MOST_ROWS
        and weight.dtype in (torch.bfloat16, torch.float16)
        and weight.numel() >= 2**20
        and weight.is_contiguous()
    )


@triton.jit
def _tile(lines, start, within, IN: tl.constexpr, INS: tl.constexpr):
    ins = start + tl.arange(0, INS)
    mask = within[:, None] & (ins < IN)[None, :]
    return tl.load(lines + ins[None, :], mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _stream(
    x, norm, weight, residual, out, eps,
    OUT: tl.constexpr, IN: tl.constexpr, OUTS: tl.constexpr, INS: tl.constexpr,
    PADDED: tl.constexpr, NORMS: tl.constexpr, GATED: tl.constexpr, ADDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    outs = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    within = outs < OUT
    narrow = x.dtype.element_ty
    lines = weight + outs[:, None].to(tl.int64) * IN
    next_w = _tile(lines, 0, within, IN, INS)
    if GATED:
        next_u = _tile(lines + OUT * IN, 0, within, IN, INS)
        ups = tl.zeros((OUTS, INS), tl.float32)
    if EARLY:
        gdc_wait()  # from here on what the kernel before has written can be read
        gdc_launch_dependents()
    if NORMS:
        whole = tl.arange(0, PADDED)
        read = tl.load(x + row * IN + whole, mask=whole < IN, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(read * read) / IN + eps)
    total = tl.zeros((OUTS, INS), tl.float32)
    for start in range(0, IN, INS):
        w = next_w
        next_w = _tile(lines, start + INS, within, IN, INS)
        ins = start + tl.arange(0, INS)
        inside = ins < IN
        part = tl.load(x + row * IN + ins, mask=inside, other=0.0).to(tl.float32)
        if NORMS:
            part = (part * scale).to(narrow).to(tl.float32)
            part *= tl.load(norm + ins, mask=inside, other=0.0).to(tl.float32)
            part = part.to(narrow).to(tl.float32)
        total += w.to(tl.float32) * part[None, :]
        if GATED:
            u = next_u
            next_u = _tile(lines + OUT * IN, start + INS, within, IN, INS)
            ups += u.to(tl.float32) * part[None, :]
    summed = tl.sum(total, 1)
    if GATED:
        gate = summed.to(narrow).to(tl.float32)
        silu = (gate / (1.0 + tl.exp(-gate))).to(narrow).to(tl.float32)
        summed = tl.sum(ups, 1).to(narrow).to(tl.float32) * silu
    place = row * OUT + outs
    if ADDS:
        summed = summed.to(narrow).to(tl.float32)
        summed += tl.load(residual + place, mask=within, other=0.0).to(tl.float32)
    tl.store(out + place, summed.to(narrow), mask=within)


def stream(
    x: Tensor,
    weight: Tensor,
    *,
    norm: tuple[Tensor, float] | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """(R, IN), normed if there is a norm, by a weight to (R, OUT): gated, or added to a residual.

    `norm` is RMSNorm's weight and epsilon. Everything is contiguous.
    """
    outs, ins = weight.shape
    outs = outs // 2 if gated else outs
    out = x.new_empty(len(x), outs)
    weight_of_norm, eps = norm or (x, 0.0)
    early = starts_early(x.device)
    _stream[(triton.cdiv(outs, OUTS), len(x))](
        x, weight_of_norm, weight, x if residual is None else residual, out, eps,
        outs, ins, OUTS, INS, triton.next_power_of_2(ins), norm is not None, gated,
        residual is not None, early, num_warps=WARPS, launch_pdl=early,
    )  # fmt: skip
    return out


@functools.cache
def starts_early(device: torch.device) -> bool:
    """Whether a kernel may start before the one it depends on has ended: from Hopper on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
