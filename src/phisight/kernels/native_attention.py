"""Attention in the compiled kernels of `native`.

Dimensions: N sequences, T queries of each, S keys, H heads, d head size, B tokens a block.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from phisight.kernels.native import at, best_way, built, is_built
from phisight.kernels.reached import is_plain
from phisight.kernels.ways import Way


def attend(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, stored: Sequence[int]) -> Tensor:
    """(N, H, d) queries over bfloat16 stores (blocks, H, B, d), as `paged.attend_pages`."""
    count, heads, size = q.shape
    scaled = (q.float() * size**-0.5).contiguous()
    lengths = torch.tensor(stored, dtype=torch.int64)
    out = torch.empty(count, heads, size)
    failed = built().phisight_attend(
        *map(at, (scaled, keys, values, table, lengths, out)),
        *map(ctypes.c_int64, (count, heads, size, keys.shape[2], table.shape[1])),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("no memory for the scores of a sequence's tokens")
    return out.to(q.dtype)


def can_attend(q: Tensor, keys: Tensor) -> bool:
    """Whether `attend` takes these."""
    known = is_plain(q, keys) and keys.dtype == torch.bfloat16 == q.dtype
    return known and q.shape[-1] % 16 == 0 and q.shape[-1] <= 256 and is_built()


def write(store: Tensor, blocks: Tensor, offsets: Tensor, x: Tensor) -> None:
    """Put (T, H, d) into a (blocks, H, B, d) store, as `paged.write_pages`."""
    heads, block, size = store.shape[1:]
    built().phisight_write(
        *map(at, (store, blocks, offsets, x)),
        *map(ctypes.c_int64, (len(x), x.stride(0), heads, block, size)),
        torch.get_num_threads(),
    )


def can_write(store: Tensor, blocks: Tensor, x: Tensor) -> bool:
    """Whether `write` takes these."""
    if torch.is_grad_enabled() or not is_plain(store, blocks, x):
        return False
    known = store.dtype == torch.bfloat16 and store.is_contiguous() and blocks.dtype == torch.int64
    return known and x.stride()[1:] == (store.shape[-1], 1) and is_built()


def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, T, H, d) queries, all over all (N, S, H, d) keys and values, to (N, T, H, d)."""
    return _mix(q, k, v, None, k.shape[1], k.stride()[:3], causal=False)


def mix_pages(q: Tensor, keys: Tensor, values: Tensor, blocks: Tensor, total: int) -> Tensor:
    """(T, H, d) queries, the last of a sequence of `total` tokens stored in (blocks, H, B, d), each
    over those up to itself, to (T, H, d). `blocks` is int64."""
    between, head, token, _ = keys.stride()
    strides = (0, token, head, keys.shape[2], between)
    return _mix(q[None], keys, values, blocks, total, strides, causal=True)[0]


def can_mix(q: Tensor, *stores: Tensor) -> bool:
    """Whether `mix` and `mix_pages` take these: bfloat16, on a machine with tile registers."""
    if not is_plain(q, *stores) or any(x.dtype != torch.bfloat16 for x in (q, *stores)):
        return False
    if any(x.stride(-1) != 1 for x in (q, *stores)) or stores[0].stride() != stores[-1].stride():
        return False
    return q.shape[-1] % 32 == 0 and q.shape[-1] <= 256 and is_built() and best_way() == Way.TILES


def _mix(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor | None, total: int, strides: tuple[int, ...],
    *, causal: bool,
) -> Tensor:  # fmt: skip
    count, queries, heads, size = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    numbers = (count, heads, queries, total, size, causal, *q.stride()[:3], *strides, 0, 0)
    shape = (ctypes.c_int64 * 14)(*numbers[:14])  # `Shape` of c/mix.c
    if built().phisight_mix(*map(at, (q, k, v, blocks, out)), shape, torch.get_num_threads()):
        raise MemoryError("no memory for a head's keys and values")
    return out
