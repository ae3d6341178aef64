"""Attention of a step's rows over keys and values in blocks, as Triton kernels.

The context is split among programs, whose sums are joined by a second kernel. Dimensions as in
`reference`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from phisight.kernels import reference
from phisight.kernels.streamed import starts_early

# Measured on an H100 at 2,588 tokens and 32 heads of 96: 17 us at batch 1 and 348 at 32, where the
# bytes alone take 11 and 339. Tokens whose keys and values a program has at hand at once, how many
# times that is under way where the context is split and where it is not, and warps.
TOKENS, STAGES, WARPS = 16, (3, 2), 2
PROGRAMS, MOST_SPLITS = 512, 32
# The same of rows that share a sequence: 29 us for 32 of them, 241 if each reads for itself.
SHARED_TOKENS, SHARED_STAGES, SHARED_WARPS, SHARED_PROGRAMS = 32, 3, 4, 512
MOST_SHARING = 32


@triton.jit
def _attend_part(
    q, keys, values, table, lengths, sums, tops, totals, width,
    SCALE: tl.constexpr, H: tl.constexpr, B: tl.constexpr, SIZE: tl.constexpr,
    PADDED: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr, SPLITS: tl.constexpr,
    WIDE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One head of one sequence over one part of its tokens: the sum, its maximum and its weight.

    Each of TOKENS places keeps a sum, a maximum and a weight of its own until the end, since what
    is summed over places has threads wait for each other; STAGES tiles are under way at once.
    """
    sequence, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    at, place = tl.arange(0, PADDED), tl.arange(0, TOKENS)
    inside = (at < SIZE)[None, :]
    row = table + sequence * width
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    length = tl.load(lengths + sequence)
    each = tl.cdiv(tl.cdiv(length, SPLITS), TOKENS) * TOKENS
    start = part * each
    stop = tl.minimum(start + each, length)
    query = tl.load(q + (sequence * H + head) * SIZE + at, mask=at < SIZE, other=0.0)
    query = query.to(WIDE) * SCALE
    top = tl.full((TOKENS,), -1e30, WIDE)  # no infinity, whose difference is no number
    total = tl.zeros((TOKENS,), WIDE)
    mixed = tl.zeros((TOKENS, PADDED), WIDE)
    for first in tl.range(start, stop, TOKENS, num_stages=STAGES):
        token = first + place
        stored = token < stop
        block = tl.load(row + token // B, mask=stored, other=0).to(tl.int64)
        lines = ((block * H + head) * B + token % B)[:, None] * SIZE + at[None, :]
        k = tl.load(keys + lines, mask=stored[:, None] & inside, other=0.0)
        v = tl.load(values + lines, mask=stored[:, None] & inside, other=0.0)
        if keys.dtype.element_ty == tl.float8e4nv:
            k, v = k.to(tl.float32), v.to(tl.float32)
        scores = tl.where(stored, tl.sum(k.to(WIDE) * query[None, :], 1), -1e30)
        higher = tl.maximum(top, scores)
        weights = tl.where(stored, tl.exp(scores - higher), 0.0)
        shrink = tl.exp(top - higher)
        total = total * shrink + weights
        mixed = mixed * shrink[:, None] + weights[:, None] * v.to(WIDE)
        top = higher
    highest = tl.max(top)
    share = tl.exp(top - highest)
    result = (sequence * H + head) * SPLITS + part
    tl.store(sums + result * PADDED + at, tl.sum(mixed * share[:, None], 0))
    tl.store(tops + result, highest)
    tl.store(totals + result, tl.sum(total * share))


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
        heads, block_size, size, padded, TOKENS, STAGES[splits == 1], splits, wide_of(q.dtype),
        early, num_warps=WARPS, launch_pdl=early,
    )  # fmt: skip
    out = torch.empty_like(q)
    _join_parts[(rows * heads,)](
        sums, tops, totals, out, size, padded, splits, early, num_warps=4, launch_pdl=early
    )
    return out


@triton.jit
def _attend_sequence_part(
    q, keys, values, table, lengths, sums, tops, totals, rows,
    SCALE: tl.constexpr, H: tl.constexpr, B: tl.constexpr, SIZE: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, STAGES: tl.constexpr,
    SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One head of all rows over one part of the sequence's tokens."""
    head, part = tl.program_id(0), tl.program_id(1)
    at, place, row = tl.arange(0, PADDED), tl.arange(0, TOKENS), tl.arange(0, ROWS)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    length = tl.load(lengths + row, mask=row < rows, other=0)
    each = tl.cdiv(tl.cdiv(tl.max(length), SPLITS), TOKENS) * TOKENS
    start = part * each
    stop = tl.minimum(start + each, tl.max(length))
    line = (row[:, None] * H + head) * SIZE + at[None, :]
    there = (row < rows)[:, None] & (at < SIZE)[None, :]
    query = tl.load(q + line, mask=there, other=0.0)
    top = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, PADDED), tl.float32)
    for first in tl.range(start, stop, TOKENS, num_stages=STAGES):
        token = first + place
        stored = token < stop
        block = tl.load(table + token // B, mask=stored, other=0).to(tl.int64)
        lines = ((block * H + head) * B + token % B)[:, None] * SIZE + at[None, :]
        inside = stored[:, None] & (at < SIZE)[None, :]
        k = tl.load(keys + lines, mask=inside, other=0.0).to(query.dtype)
        v = tl.load(values + lines, mask=inside, other=0.0).to(query.dtype)
        seen = token[None, :] < tl.minimum(length, stop)[:, None]
        scores = tl.where(seen, tl.dot(query, tl.trans(k)) * SCALE, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(query.dtype), v, mixed * shrink[:, None])
        top = higher
    result = (row * H + head) * SPLITS + part
    tl.store(sums + result[:, None] * PADDED + at[None, :], mixed, mask=(row < rows)[:, None])
    tl.store(tops + result, top, mask=row < rows)
    tl.store(totals + result, total, mask=row < rows)


def attend_sequence(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    (rows, heads, size), block_size = q.shape, keys.shape[2]
    if q.dtype not in (torch.bfloat16, torch.float16) or rows > MOST_SHARING:
        return attend_blocks(q, keys, values, table.expand(rows, -1).contiguous(), lengths)
    padded, early = max(16, triton.next_power_of_2(size)), starts_early(q.device)
    splits = triton.next_power_of_2(max(1, SHARED_PROGRAMS // heads))
    sums = torch.empty(rows, heads, splits, padded, dtype=torch.float32, device=q.device)
    tops, totals = torch.empty(2, rows, heads, splits, dtype=torch.float32, device=q.device)
    _attend_sequence_part[(heads, splits)](
        q, keys, values, table, lengths, sums, tops, totals, rows, size**-0.5,
        heads, block_size, size, padded, 16 if rows <= 16 else 32, SHARED_TOKENS, SHARED_STAGES,
        splits, early, num_warps=SHARED_WARPS, launch_pdl=early,
    )  # fmt: skip
    out = torch.empty_like(q)
    _join_parts[(rows * heads,)](
        sums, tops, totals, out, size, padded, splits, early, num_warps=4, launch_pdl=early
    )
    return out


def wide_of(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
