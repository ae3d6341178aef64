"""Ids, lengths and block tables of a step's rows, at addresses on the device that never change.

Owns their copies on the host. A step can be followed by another before its ids are known: they
become the next one's inputs on the device, and only blocks that are new come from the host.

Dimensions: S rows; M blocks of the longest context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Row(NamedTuple):
    """A token to be read, the last of `length` ones of its sequence.

    An image token's id is negative and `feature`, (D,), is what stands in its place.
    """

    token_id: int
    length: int
    is_long: bool
    blocks: Sequence[int]
    feature: Tensor | None = None


class Inputs:
    """Of up to `most` rows. `spare` is a block that no sequence holds."""

    def __init__(self, most: int, width: int, spare: int, features: Tensor) -> None:
        device = features.device
        on_cuda = device.type == "cuda"
        self._spare = spare
        # A copy on the host of what is on the device; pinned, so that copying waits for nothing.
        self._host = torch.zeros(4, most, dtype=torch.int32, pin_memory=on_cuda)
        self._host_table = torch.full((most, width), spare, dtype=torch.int32, pin_memory=on_cuda)
        self._numbers = self._host.to(device)  # ids, lengths, whether long, whether a sequence's
        self.table = self._host_table.to(device)
        self.features = features  # (most, D), what stands in the place of image tokens
        self._held: list[list[int]] = [[] for _ in range(most)]  # blocks of each row's table
        self._copied = torch.cuda.Event() if on_cuda else None

    def rows(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(S,) ids, lengths and whether the long factors are taken, of the first rows."""
        ids, lengths, is_long, _ = (row[:size] for row in self._numbers)
        return ids, lengths, is_long

    def put(self, rows: Sequence[Row], size: int) -> None:
        """The first rows, and others without a sequence up to `size`."""
        self._wait()
        rest = size - len(rows)
        self._host[:, :size] = torch.tensor(
            [
                [row.token_id for row in rows] + [0] * rest,
                [row.length for row in rows] + [1] * rest,
                [int(row.is_long) for row in rows] + [0] * rest,
                [1] * len(rows) + [0] * rest,
            ],
            dtype=torch.int32,
        )
        self._numbers.copy_(self._host, non_blocking=True)  # a part of it is not contiguous
        for i in range(size):
            self._hold(i, list(rows[i].blocks) if i < len(rows) else [self._spare])
        self._mark()
        features = {i: row.feature for i, row in enumerate(rows) if row.feature is not None}
        if features:
            at = torch.tensor(list(features), device=self.features.device)
            self.features[at] = torch.stack(list(features.values())).to(self.features)

    def follow(self, token_ids: Tensor) -> None:
        """Make (S,) ids those of the next step's rows, each a token longer; part of a graph."""
        size = len(token_ids)
        self._numbers[0, :size].copy_(token_ids)
        # A row without a sequence stays at one token: its table names no block but the spare one.
        self._numbers[1, :size].add_(self._numbers[3, :size])

    def extend(self, blocks: Sequence[Sequence[int]]) -> None:
        """The blocks of the rows that the last `put` told of, where they have more now."""
        if any(list(now) != held for now, held in zip(blocks, self._held, strict=False)):
            self._wait()
            for i, now in enumerate(blocks):
                self._hold(i, list(now))
            self._mark()

    def _hold(self, row: int, blocks: list[int]) -> None:
        if blocks != self._held[row]:
            part = (row, slice(0, len(blocks)))
            self._host_table[part] = torch.tensor(blocks, dtype=torch.int32)
            self.table[part].copy_(self._host_table[part], non_blocking=True)
            self._held[row] = blocks

    def _wait(self) -> None:
        """Until what was copied last has left the host: a step that gives no token ends unseen."""
        if self._copied is not None:
            self._copied.synchronize()

    def _mark(self) -> None:
        if self._copied is not None:
            self._copied.record()
