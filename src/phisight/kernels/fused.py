"""The operations of a decode step as Triton kernels; `reference` says what they compute.

A step of one token is bound by memory traffic and by the number of kernels: each costs some 2 us
beyond its bytes. Numbers that are no integers are constants, since Triton would make float32 of
them. Tensors are contiguous; dimensions as in `reference`.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from phisight.kernels import reference
from phisight.kernels.streamed import starts_early, stream, worth_streaming

WARPS = 4
PROGRAMS = 1024  # of the attention; 512 take 18 % longer at batch 1 on an H100, 2048 3 %
MOST_SPLITS = 32


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
    _rms_norm[(rows,)](x, weight, out, eps, size, padded, _wide(x.dtype), num_warps=8)
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
    _silu_product[grid](gate_up, out, size, 512, _wide(gate_up.dtype), num_warps=WARPS)
    return out


def linear(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, residual=residual)
    return reference.linear(x, weight, residual)


def normed_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, norm=(norm, eps))
    return reference.linear(rms_norm(x, norm, eps), weight)


def gated_linear(x: Tensor, norm: Tensor, eps: float, weight: Tensor) -> Tensor:
    if worth_streaming(x, weight):
        return stream(x, weight, norm=(norm, eps), gated=True)
    return silu_product(reference.linear(rms_norm(x, norm, eps), weight))


@triton.jit
def _rotate_and_store(
    qkv, cos, sin, keys, values, table, lengths, rotated, width,
    H: tl.constexpr, B: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    last = tl.load(lengths + sequence) - 1
    block = tl.load(table + sequence * width + last // B).to(tl.int64)
    store = ((block * H + head) * B + last % B) * SIZE
    HALF: tl.constexpr = SIZE // 2
    at = tl.arange(0, PADDED)
    inside, other = at < SIZE, tl.where(at < HALF, at + HALF, at - HALF)
    sign = tl.where(at < HALF, -1.0, 1.0).to(WIDE)
    a = tl.load(cos + sequence * SIZE + at, mask=inside, other=0.0).to(WIDE)
    b = tl.load(sin + sequence * SIZE + at, mask=inside, other=0.0).to(WIDE)
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
    tl.store(keys + store + at, k.to(keys.dtype.element_ty), mask=inside)
    v = tl.load(first + H * SIZE + at, mask=inside, other=0.0)
    if values.dtype.element_ty == tl.float8e4nv:
        v = v.to(tl.float32)
    tl.store(values + store + at, v.to(values.dtype.element_ty), mask=inside)


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, table: Tensor,
    lengths: Tensor,
) -> Tensor:  # fmt: skip
    rows, (heads, block_size, size) = len(qkv), keys.shape[1:]
    rotated, early = qkv.new_empty(rows, heads, size), starts_early(qkv.device)
    _rotate_and_store[(rows, heads)](
        qkv, cos, sin, keys, values, table, lengths, rotated, table.stride(0),
        heads, block_size, size, triton.next_power_of_2(size), _wide(qkv.dtype), early,
        num_warps=1, launch_pdl=early, enable_fp_fusion=False,
    )  # fmt: skip
    return rotated


@triton.jit
def _attend_part(
    q, keys, values, table, lengths, sums, tops, totals, width,
    SCALE: tl.constexpr, H: tl.constexpr, B: tl.constexpr, SIZE: tl.constexpr,
    PADDED: tl.constexpr, TOKENS: tl.constexpr, SPLITS: tl.constexpr, WIDE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One head of one sequence over one part of its blocks: the sum, its maximum and its weight."""
    sequence, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    length = tl.load(lengths + sequence)
    blocks = (length + B - 1) // B
    each = (blocks + SPLITS - 1) // SPLITS
    at, token = tl.arange(0, PADDED), tl.arange(0, TOKENS)  # B, to a power of two
    inside = (at < SIZE)[None, :]
    query = tl.load(q + (sequence * H + head) * SIZE + at, mask=at < SIZE, other=0.0)
    query = query.to(WIDE) * SCALE
    top = tl.full((), float("-inf"), WIDE)
    total = tl.full((), 0.0, WIDE)
    mixed = tl.zeros((PADDED,), WIDE)
    for i in range(part * each, tl.minimum(part * each + each, blocks)):
        block = tl.load(table + sequence * width + i).to(tl.int64)
        place = ((block * H + head) * B + token)[:, None] * SIZE + at[None, :]
        stored = (token < B) & (i * B + token < length)
        mask = stored[:, None] & inside
        k = tl.load(keys + place, mask=mask, other=0.0)
        v = tl.load(values + place, mask=mask, other=0.0)
        if keys.dtype.element_ty == tl.float8e4nv:
            k, v = k.to(tl.float32), v.to(tl.float32)
        k, v = k.to(WIDE), v.to(WIDE)
        scores = tl.where(stored, tl.sum(k * query[None, :], 1), float("-inf"))
        higher = tl.maximum(top, tl.max(scores))
        weights = tl.exp(scores - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weights)
        mixed = mixed * shrink + tl.sum(weights[:, None] * v, 0)
        top = higher
    row = (sequence * H + head) * SPLITS + part
    tl.store(sums + row * PADDED + at, mixed)
    tl.store(tops + row, top)
    tl.store(totals + row, total)


@triton.jit
def _join_parts(
    sums, tops, totals, out,
    SIZE: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row, at, part = tl.program_id(0), tl.arange(0, PADDED), tl.arange(0, SPLITS)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    top = tl.load(tops + row * SPLITS + part)
    share = tl.exp(top - tl.max(top))  # of an empty part 0
    total = tl.sum(share * tl.load(totals + row * SPLITS + part))
    mixed = tl.load(sums + (row * SPLITS + part)[:, None] * PADDED + at[None, :])
    joined = tl.sum(mixed * share[:, None], 0) / total
    tl.store(out + row * SIZE + at, joined.to(out.dtype.element_ty), mask=at < SIZE)


def attend_blocks(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    (rows, heads, size), block_size = q.shape, keys.shape[2]
    padded = triton.next_power_of_2(size)
    splits = triton.next_power_of_2(max(1, min(MOST_SPLITS, PROGRAMS // (rows * heads))))
    wide, early = reference.wide_dtype(q.dtype), starts_early(q.device)
    sums = torch.empty(rows, heads, splits, padded, dtype=wide, device=q.device)
    tops, totals = torch.empty(2, rows, heads, splits, dtype=wide, device=q.device)
    _attend_part[(rows, heads, splits)](
        q, keys, values, table, lengths, sums, tops, totals, table.stride(0), size**-0.5,
        heads, block_size, size, padded, triton.next_power_of_2(block_size), splits,
        _wide(q.dtype), early,
        num_warps=WARPS, launch_pdl=early,
    )  # fmt: skip
    out = torch.empty_like(q)
    _join_parts[(rows * heads,)](
        sums, tops, totals, out, size, padded, splits, early, num_warps=WARPS, launch_pdl=early
    )
    return out


@functools.cache
def _wide(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
