"""Attention of one query per sequence over keys and values that lie in blocks.

Dimensions: S sequences, H heads, d head size, N blocks, B tokens a block, M most blocks of any
sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phisight.kernels import native_attention
from phisight.kernels.dense import widens

# A run of neighbouring blocks is read where it lies if it has more bytes than can be copied while
# one more run is gone through: 80 us on two cores of an EPYC. Eight sequences of nano, 150
# tokens each: 1.77 ms one after the other, 0.62 gathered; of the full size, 800 tokens, 7.9 and 62.
RUN_WORTH = 400_000


class Pages(NamedTuple):
    """Where each sequence's tokens lie."""

    parts: tuple[tuple[slice | Tensor, ...], ...]  # on CPU, a sequence's blocks as they are read
    stored: tuple[int, ...]
    table: Tensor  # (S, M) blocks; beyond a sequence's last, any block that can be read
    beyond: Tensor  # (S, 1, M * B), True where nothing of the sequence is stored

    @classmethod
    def of(cls, sequences: Sequence[tuple[Sequence[int], int]], store: Tensor) -> Pages:
        """From each sequence's blocks of a store, and how many tokens are stored in them."""
        block_size, device = store.shape[2], store.device
        used = [blocks[: -(-stored // block_size)] for blocks, stored in sequences]
        stored = tuple(stored for _, stored in sequences)
        most = max(map(len, used), default=0)
        rows = [[*blocks, *[blocks[0]] * (most - len(blocks))] for blocks in used]
        table = torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(used), most)
        lengths = torch.tensor(stored, dtype=torch.int64, device=device)
        beyond = torch.arange(most * block_size, device=device) >= lengths[:, None, None]
        worth = -(-RUN_WORTH // _block_bytes(store))
        parts = [parts_of(blocks, worth) for blocks in used] if device.type == "cpu" else []
        return cls(tuple(parts), stored, table, beyond)


def write_pages(store: Tensor, blocks: Tensor, offsets: Tensor, x: Tensor) -> None:
    """Put (T, H, d) into an (N, H, B, d) store at T blocks and the places in them."""
    x = x.to(store.dtype)
    if native_attention.can_write(store, blocks, x):
        native_attention.write(store, blocks, offsets, x)
        return
    if store.dtype.itemsize == 1:  # float8 has no indexed write
        store, x = store.view(torch.uint8), x.view(torch.uint8)
    store[blocks, :, offsets] = x


def read_pages(store: Tensor, blocks: Tensor | slice, stored: int, dtype: torch.dtype) -> Tensor:
    """(H, stored, d): a sequence's keys or values out of its blocks, to be read alone. A slice, of
    blocks that lie side by side, saves the copy that an index takes."""
    return gathered(store, blocks, dtype).transpose(0, 1).flatten(1, 2)[:, :stored]


def attend_pages(q: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """(S, H, d) queries over each sequence's stored tokens of (N, H, B, d) stores to (S, H, d).

    Softmax in float32 or wider. What lies beyond the stored tokens must be finite.
    """
    if native_attention.can_attend(q, keys):
        return native_attention.attend(q, keys, values, pages.table, pages.stored)
    if widens(q):
        return attend_pages(q.float(), keys, values, pages).to(q.dtype)
    padded = pages.table.shape[1] * _block_bytes(keys)  # a sequence, as gathered
    if q.device.type == "cpu" and padded >= RUN_WORTH:
        return attend_pages_in_place(q, keys, values, pages)
    return attend_pages_gathered(q, keys, values, pages)


def attend_pages_gathered(q: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """All sequences at once, on any device; copies what is read. The definition of the others."""
    heads, head_dim = q.shape[1:]
    # (S, M, H, B, d) to (S * H, M * B, d)
    k, v = (
        gathered(store, pages.table, q.dtype).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        for store in (keys, values)
    )
    # Products rather than scaled_dot_product_attention: on an H200 its split kernel rounds
    # differently from run to run, so that a seed would not repeat its answer.
    scores = torch.bmm((q * head_dim**-0.5).flatten(0, 1)[:, None], k.transpose(1, 2))
    scores = scores.view(len(q), heads, -1).masked_fill(pages.beyond, -torch.inf)
    weights = scores.softmax(-1, dtype=_wide(q.dtype)).to(q.dtype)
    return torch.bmm(weights.flatten(0, 1)[:, None], v).view(-1, heads, head_dim)


def attend_pages_in_place(q: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """One sequence after the other, long runs of neighbouring blocks read where they lie."""
    queries = (q * q.shape[-1] ** -0.5)[:, :, None]  # (S, H, 1, d)
    return torch.stack(
        [
            _attend_parts(query, keys, values, parts, stored)
            for query, parts, stored in zip(queries, pages.parts, pages.stored, strict=True)
        ]
    )


def _attend_parts(
    q: Tensor, keys: Tensor, values: Tensor, parts: tuple[slice | Tensor, ...], stored: int
) -> Tensor:
    """(H, 1, d) scaled queries over one sequence to (H, d)."""
    heads, size = keys.shape[1:3]
    k = [gathered(keys, part, q.dtype).flatten(0, 1) for part in parts]
    v = [gathered(values, part, q.dtype).flatten(0, 1) for part in parts]
    # The query on the left: keys @ q takes oneDNN 1.3 times as long in bfloat16, 2 in float32.
    # (blocks * H, 1, B) each, as one (blocks, H, B)
    scores = [torch.bmm(q.repeat(len(part) // heads, 1, 1), part.transpose(1, 2)) for part in k]
    joined = (scores[0] if len(scores) == 1 else torch.cat(scores)).view(-1, heads, size)
    by_head = joined.transpose(0, 1).flatten(1)  # (H, blocks * B), a copy unless one block
    by_head[:, stored:] = -torch.inf
    weights = by_head.softmax(-1, dtype=_wide(q.dtype)).to(q.dtype)
    weights = weights.view(heads, -1, size).transpose(0, 1).reshape(-1, 1, size)
    mixed, at = None, 0
    for part in v:
        # Blocks are added in float32: rounded to bfloat16 in between, each would add its error.
        part_sum = torch.bmm(weights[at : at + len(part)], part).view(-1, heads, part.shape[-1])
        part_sum = part_sum.sum(0, dtype=_wide(q.dtype))  # (H, d)
        mixed = part_sum if mixed is None else mixed + part_sum
        at += len(part)
    assert mixed is not None, "a sequence has at least one token"
    return mixed.to(q.dtype)


def gathered(store: Tensor, blocks: slice | Tensor, dtype: torch.dtype) -> Tensor:
    """store[blocks] in a dtype to compute with."""
    if store.dtype.itemsize == 1:
        return store.view(torch.uint8)[blocks].view(store.dtype).to(dtype)
    return store[blocks].to(dtype)


def _block_bytes(store: Tensor) -> int:
    return 2 * store[0].nbytes


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def runs_of(blocks: Sequence[int]) -> list[slice]:
    """Neighbouring blocks as one."""
    runs: list[slice] = []
    for block in blocks:
        if runs and block == runs[-1].stop:
            runs[-1] = slice(runs[-1].start, block + 1)
        else:
            runs.append(slice(block, block + 1))
    return runs


def parts_of(blocks: Sequence[int], worth: int) -> tuple[slice | Tensor, ...]:
    """Runs of at least `worth` blocks as they are, if there are several shorter ones these
    together as an index. The last block comes last."""
    runs = runs_of(blocks)
    short = [run for run in runs if run.stop - run.start < worth]
    if len(short) < 2:
        return tuple(runs)
    parts: list[slice | Tensor] = [run for run in runs if run not in short]
    copied = torch.tensor([block for run in short for block in range(run.start, run.stop)])
    parts.insert(len(parts) if runs[-1] in short else 0, copied)
    return tuple(parts)
