"""The operations of a decode step as Triton kernels; `reference` says what they compute.

A step of one token is bound by memory traffic and by the number of kernels: each costs some 2 us
beyond its bytes. Numbers that are no integers are constants, since Triton would make float32 of
them. Tensors are contiguous; dimensions as in `reference`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from phisight.kernels import reference
from phisight.kernels.attention import attend_blocks, attend_sequence, wide_of
from phisight.kernels.skinny import skinny, tiles_for
from phisight.kernels.streamed import starts_early, stream, worth_streaming

__all__ = [
    "attend_blocks", "attend_sequence", "gated_linear", "linear", "normed_linear", "quick_gelu",
    "rms_norm", "rotate_and_store", "silu_product",
]  # fmt: skip
WARPS = 4


@triton.jit
def _rms_norm(
    x, weight, out, EPS: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr
):
    at = tl.arange(0, PADDED)
    row = tl.program_id(0).to(tl.int64) * D
    wide = tl.load(x + row + at, mask=at < D, other=0.0).to(WIDE)
    normed = wide * (1.0 / tl.sqrt(tl.sum(wide * wide) / D + EPS))
    narrow = normed.to(x.dtype.element_ty).to(WIDE)
    scaled = narrow * tl.load(weight + at, mask=at < D, other=0.0).to(WIDE)
    tl.store(out + row + at, scaled.to(out.dtype.element_ty), mask=at < D)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    rows, size = x.shape
    out = torch.empty_like(x)
    padded = triton.next_power_of_2(size)
    _rms_norm[(rows,)](x, weight, out, eps, size, padded, wide_of(x.dtype), num_warps=8)
    return out


@triton.jit
def _silu_product(gate_up, out, SIZE: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + at, mask=inside, other=0.0).to(WIDE)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + at, mask=inside, other=0.0).to(WIDE)
    silu = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(WIDE)
    tl.store(out + row * SIZE + at, (up * silu).to(out.dtype.element_ty), mask=inside)


def silu_product(gate_up: Tensor) -> Tensor:
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    grid = (rows, triton.cdiv(size, 512))
    _silu_product[grid](gate_up, out, size, 512, wide_of(gate_up.dtype), num_warps=WARPS)
    return out


@triton.jit
def _quick_gelu(x, out, size, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    narrow = out.dtype.element_ty
    wide = tl.load(x + at, mask=at < size, other=0.0).to(WIDE)
    steep = (wide * 1.702).to(narrow).to(WIDE)
    share = (1.0 / (1.0 + tl.exp(-steep))).to(narrow).to(WIDE)
    tl.store(out + at, (wide * share).to(narrow), mask=at < size)


def quick_gelu(x: Tensor) -> Tensor:
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    grid = (triton.cdiv(x.numel(), 2048),)
    _quick_gelu[grid](x, out, x.numel(), 2048, wide_of(x.dtype), num_warps=WARPS)
    return out


def linear(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, residual=residual)
    if (tiles := tiles_for(x, weight)) is not None:
        return skinny(x, weight, residual=residual, tiles=tiles)
    return reference.linear(x, weight, residual)


def normed_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, norm=(norm, eps))
    return linear(rms_norm(x, norm, eps), weight)


def gated_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, norm=(norm, eps), gated=True)
    normed = rms_norm(x, norm, eps)
    if (tiles := tiles_for(x, weight)) is not None:
        return skinny(normed, weight, gated=True, tiles=tiles)
    return silu_product(reference.linear(normed, weight))


@triton.jit
def _rotate_and_store(
    qkv, cos, sin, keys, values, table, lengths, rotated, width,
    H: tl.constexpr, B: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
    HEADS: tl.constexpr, WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    last = tl.load(lengths + sequence) - 1
    block = tl.load(table + sequence * width + last // B).to(tl.int64)
    at = tl.arange(0, PADDED)[None, :]
    store = ((block * H + head) * B + last % B) * SIZE + at
    HALF: tl.constexpr = SIZE // 2
    other = tl.where(at < HALF, at + HALF, at - HALF)
    inside = (at < SIZE) & (head < H)
    sign = tl.where(at < HALF, -1.0, 1.0).to(WIDE)
    a = tl.load(cos + sequence * SIZE + at, mask=at < SIZE, other=0.0).to(WIDE)
    b = tl.load(sin + sequence * SIZE + at, mask=at < SIZE, other=0.0).to(WIDE)
    narrow = rotated.dtype.element_ty
    first = qkv + sequence * 3 * H * SIZE + head * SIZE
    # Each product is rounded, as torch does it operation by operation: with enable_fp_fusion the
    # compiler would make product and sum one operation of bfloat16, rounded once.
    x = tl.load(first + at, mask=inside, other=0.0).to(WIDE)
    y = tl.load(first + other, mask=inside, other=0.0).to(WIDE) * sign
    q = (x * a).to(narrow).to(WIDE) + (y * b).to(narrow).to(WIDE)
    tl.store(rotated + (sequence * H + head) * SIZE + at, q.to(narrow), mask=inside)
    first += H * SIZE
    x = tl.load(first + at, mask=inside, other=0.0).to(WIDE)
    y = tl.load(first + other, mask=inside, other=0.0).to(WIDE) * sign
    k = ((x * a).to(narrow).to(WIDE) + (y * b).to(narrow).to(WIDE)).to(narrow)
    if keys.dtype.element_ty == tl.float8e4nv:  # no conversion from float64
        k = k.to(tl.float32)
    tl.store(keys + store, k.to(keys.dtype.element_ty), mask=inside)
    v = tl.load(first + H * SIZE + at, mask=inside, other=0.0)
    if values.dtype.element_ty == tl.float8e4nv:
        v = v.to(tl.float32)
    tl.store(values + store, v.to(values.dtype.element_ty), mask=inside)


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, table: Tensor,
    lengths: Tensor,
) -> Tensor:  # fmt: skip
    rows, (heads, block_size, size) = len(qkv), keys.shape[1:]
    rotated, early = qkv.new_empty(rows, heads, size), starts_early(qkv.device)
    together = 1 if rows <= 32 else 8  # heads of a program: programs enough, or fewer of them
    _rotate_and_store[(rows, triton.cdiv(heads, together))](
        qkv, cos, sin, keys, values, table, lengths, rotated, table.stride(0),
        heads, block_size, size, triton.next_power_of_2(size), together, wide_of(qkv.dtype), early,
        num_warps=1 if together == 1 else WARPS, launch_pdl=early, enable_fp_fusion=False,
    )  # fmt: skip
    return rotated
