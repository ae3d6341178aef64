"""Keys and values of all sequences, in blocks.

Owns their layout, (layers, blocks, H, B, d): a block of one layer is whole, and each head's part of
it too, so that blocks which lie side by side are read in place. Every step's keys and values are
written before any are read.

Dimensions: T tokens of a step, H heads, B tokens a block, d head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from phisight.config import ModelConfig
from phisight.kernels import native_attention
from phisight.kernels.dense import widest
from phisight.kernels.paged import Pages, attend_pages, read_pages, runs_of, write_pages
from phisight.model.decoder import Attend


class Part(NamedTuple):
    """Consecutive tokens of one sequence in a step: `length` after `stored` earlier ones."""

    blocks: Sequence[int]
    stored: int
    length: int


class PagedCache:
    """`dtype` is what is stored: the model's, or float8_e4m3fn."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.block_size = block_size
        shape = (config.num_layers, num_blocks, config.num_heads, block_size, config.head_dim)
        # Not zeroed: main memory that is never written is never taken from the system.
        self.keys, self.values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero new blocks: what lies beyond the stored tokens is multiplied by weights of zero,
        which gives NaN if it is no number."""
        for run in runs_of(blocks):  # slices: an index takes 4 times as long on the CPU
            for store in (self.keys, self.values):
                store[:, run].zero_()

    def expected(self, count: int) -> Tensor:
        """What `copied` gives for so many tokens, in shape and dtype alone."""
        layers, _, heads, _, head_dim = self.keys.shape
        dtype = torch.uint8 if self.keys.dtype.itemsize == 1 else self.keys.dtype
        return torch.empty(2, layers, heads, count, head_dim, dtype=dtype, device="meta")

    def copied(self, block: int, count: int) -> Tensor:
        """(2, layers, H, count, d): keys and values of a block's first tokens, on the CPU; float8
        as bytes."""
        both = [store[:, block, :, :count] for store in (self.keys, self.values)]
        return torch.stack([x.view(self.expected(0).dtype) for x in both]).cpu()

    def fill(self, block: int, both: Tensor) -> None:
        """Put into a block what `copied` gave; its other tokens are zero."""
        count = both.shape[3]
        for store, kept in zip((self.keys, self.values), both, strict=True):
            part = store.view(both.dtype)[:, block]
            part[:, :, :count] = kept
            part[:, :, count:] = 0

    def attention(self, parts: Sequence[Part]) -> Attend:
        """What the decoder layers call in a step that consists of these parts, in this order."""
        device, size = self.keys.device, self.block_size
        rows, chunks = [], []  # places in the step: of single tokens, and of longer parts
        blocks, offsets, start = [], [], 0
        for part in parts:
            for position in range(part.stored, part.stored + part.length):
                blocks.append(part.blocks[position // size])
                offsets.append(position % size)
            stop = start + part.length
            if part.length == 1:
                rows.append((start, part))
            else:
                used = part.blocks[: -(-(part.stored + part.length) // size)]
                mask, at_blocks = _mask(part, device), torch.tensor(used, device=device)
                chunks.append((slice(start, stop), part, mask, at_blocks))
            start = stop
        at = torch.tensor([blocks, offsets], device=device)
        index = torch.tensor([row for row, _ in rows], device=device)
        pages = Pages.of([(part.blocks, part.stored + 1) for _, part in rows], self.keys[0])
        only_rows = not chunks

        def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            write_pages(keys, at[0], at[1], k)
            write_pages(values, at[0], at[1], v)
            if only_rows:
                return attend_pages(q, keys, values, pages)
            mixed = torch.empty_like(q)
            if rows:
                mixed[index] = attend_pages(q[index], keys, values, pages)
            for place, part, mask, at_blocks in chunks:
                total = part.stored + part.length
                if native_attention.can_mix(q[place], keys, values):
                    mixed[place] = native_attention.mix_pages(
                        q[place], keys, values, at_blocks, total
                    )
                    continue
                if part.stored == 0:  # all there is to see is at hand
                    seen = [x[place].transpose(0, 1) for x in (k, v)]
                else:
                    seen = [
                        read_pages(store, at_blocks, total, q.dtype) for store in (keys, values)
                    ]
                mixed[place] = _attend_chunk(q[place], seen[0], seen[1], mask)
            return mixed

        return attend

    def reading(self, parts: Sequence[Part]) -> Callable[[Tensor, int], Tensor]:
        """As `attention`, of (T, H, d) queries and a layer whose keys and values are stored.

        Rows of parts of one token are left for others to fill.
        """
        device, size = self.keys.device, self.block_size
        places: list[tuple[slice, int, Tensor | None, Tensor | slice]] = []
        start = 0
        for part in parts:
            stop, total = start + part.length, part.stored + part.length
            if part.length > 1:
                used = part.blocks[: -(-total // size)]
                runs = runs_of(used)
                at = runs[0] if len(runs) == 1 else torch.tensor(used, device=device)
                places.append((slice(start, stop), total, _mask(part, device), at))
            start = stop

        def chunk(
            q: Tensor, layer: int, total: int, mask: Tensor | None, at: Tensor | slice
        ) -> Tensor:
            stores = self.keys[layer], self.values[layer]
            keys, values = (read_pages(store, at, total, q.dtype) for store in stores)
            return _attend_chunk(q, keys, values, mask)

        def mix(q: Tensor, layer: int) -> Tensor:
            if len(parts) == len(places) == 1:  # there is nothing to put it beside
                return chunk(q, layer, *places[0][1:])
            mixed = torch.empty_like(q)
            for place, total, mask, at in places:
                mixed[place] = chunk(q[place], layer, total, mask, at)
            return mixed

        return mix


def _attend_chunk(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(length, H, d) queries over (H, total, d); without a mask tokens see those before them."""
    wide, keys, values = widest(q.transpose(0, 1), keys, values)
    mixed = functional.scaled_dot_product_attention(
        wide[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None
    )
    return mixed[0].transpose(0, 1).to(q.dtype)


def _mask(part: Part, device: torch.device) -> Tensor | None:
    """(length, stored + length), True where a token of the part sees one of the sequence."""
    if part.stored == 0:
        return None
    total = part.stored + part.length
    ones = torch.ones(part.length, total, dtype=torch.bool, device=device)
    return ones.tril(diagonal=part.stored)


def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Keys and values of a block in all layers."""
    return 2 * config.num_layers * config.hidden_size * block_size * dtype.itemsize
