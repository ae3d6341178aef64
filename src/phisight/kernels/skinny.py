"""A matrix times 2 to 32 rows: bound by reading the weights, as at one row, but worth tensor cores.

Dimensions: R rows, OUT and IN the weight's sizes; of a gated weight (2 OUT, IN), gates first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from phisight.kernels.streamed import starts_early

Tiles = tuple[int, int, int, int]  # a program's outputs, and inputs at a time; stages; warps
# By the most rows, a weight's outputs and inputs: where it beats cuBLAS, measured on an H100
# (docs/log.md). Others are left to cuBLAS, and so is every other chip: one of these takes 120 KiB
# of shared memory, and a program has 99 on an RTX card or an L4.
MEASURED_ON = (9, 0)  # compute capability
TILES: dict[tuple[int, int, int], Tiles] = {
    (8, 9216, 3072): (32, 128, 4, 4),
    (8, 3072, 3072): (16, 256, 4, 2),
    (8, 16384, 3072): (32, 128, 5, 4),
    (8, 3072, 8192): (16, 256, 4, 2),
    (8, 32064, 3072): (16, 256, 4, 2),
    (32, 3072, 3072): (16, 256, 4, 2),
    (32, 16384, 3072): (64, 128, 4, 4),
    (32, 3072, 8192): (16, 256, 4, 2),
    (32, 32064, 3072): (32, 128, 4, 4),
}


def tiles_for(x: Tensor, weight: Tensor) -> Tiles | None:
    """How to multiply few rows by a weight; None where cuBLAS does it better, or nobody knows."""
    if x.dtype != weight.dtype or x.dtype not in (torch.bfloat16, torch.float16):
        return None
    most = next((most for most in (8, 32) if len(x) <= most), 0)
    tiles = TILES.get((most, *weight.shape)) if weight.is_contiguous() else None
    if tiles is None or torch.cuda.get_device_capability(x.device) != MEASURED_ON:
        return None
    return tiles


@triton.jit
def _skinny(
    x, weight, residual, out, rows,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, OUTS: tl.constexpr,
    INS: tl.constexpr, STAGES: tl.constexpr, GATED: tl.constexpr, ADDS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)
    outs = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    there, within = row < rows, outs < OUT
    narrow = out.dtype.element_ty
    lines = weight + outs[None, :].to(tl.int64) * IN
    total = tl.zeros((ROWS, OUTS), tl.float32)
    ups = tl.zeros((ROWS, OUTS), tl.float32)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    for start in tl.range(0, IN, INS, num_stages=STAGES):
        ins = start + tl.arange(0, INS)
        inside = ins < IN
        part = tl.load(x + row[:, None] * IN + ins[None, :],
                       mask=there[:, None] & inside[None, :], other=0.0)  # fmt: skip
        mask = inside[:, None] & within[None, :]
        w = tl.load(lines + ins[:, None], mask=mask, other=0.0)
        total = tl.dot(part, w, total)
        if GATED:
            u = tl.load(lines + OUT * IN + ins[:, None], mask=mask, other=0.0)
            ups = tl.dot(part, u, ups)
    summed = total.to(narrow).to(tl.float32)
    if GATED:
        silu = (summed / (1.0 + tl.exp(-summed))).to(narrow).to(tl.float32)
        summed = ups.to(narrow).to(tl.float32) * silu
    place = row[:, None] * OUT + outs[None, :]
    mask = there[:, None] & within[None, :]
    if ADDS:
        summed += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, summed.to(narrow), mask=mask)


def skinny(
    x: Tensor,
    weight: Tensor,
    *,
    gated: bool = False,
    residual: Tensor | None = None,
    tiles: Tiles,
) -> Tensor:
    """Up to 32 rows, (R, IN) by a weight to (R, OUT): gated, or added to a residual.

    Everything is contiguous.
    """
    outs, ins = weight.shape
    outs = outs // 2 if gated else outs
    out = x.new_empty(len(x), outs)
    early = starts_early(x.device)
    at_once, deep, stages, warps = tiles
    _skinny[(triton.cdiv(outs, at_once),)](
        x, weight, x if residual is None else residual, out, len(x),
        outs, ins, 16 if len(x) <= 16 else 32, at_once, deep, stages, gated,
        residual is not None, early, num_warps=warps, launch_pdl=early,
    )  # fmt: skip
    return out
