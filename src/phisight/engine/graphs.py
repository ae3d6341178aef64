"""Steps without the modules' many small kernels: an order of operations of their own.

Owns that order, and on CUDA the graphs of small steps: one for each of a few sizes, captured when
first used, all over the same buffers. Ids, lengths and block tables are put into
those; everything else follows from them on the device. Keys and values of all rows are written
before any are read, so that a row may follow another of the same sequence.

Dimensions: S rows, padded to a size; M blocks of the longest context.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from phisight.engine.cache import PagedCache, Part
from phisight.engine.sampling import likeliest
from phisight.kernels import operations
from phisight.model.decoder import DecoderLayer, widened
from phisight.model.phi3v import Phi3V
from phisight.model.rope import Rotation

_CAPTURING = threading.Lock()  # torch has one capture at a time in a process
Mix = Callable[[Tensor, int], Tensor]  # (S, H, d) queries of a layer to what they see
LEAST = 32  # rows that there is room for: a short question about what has been read


class Row(NamedTuple):
    """A token to be read, the last of `length` ones of its sequence.

    An image token's id is negative and `feature`, (D,), is what stands in its place.
    """

    token_id: int
    length: int
    is_long: bool
    blocks: Sequence[int]
    feature: Tensor | None = None


class Decoder:
    """Steps of up to `most` rows, or LEAST. `spare` is a block that no sequence holds: what rows
    without a sequence write goes there."""

    def __init__(self, model: Phi3V, cache: PagedCache, most: int, *, spare: int) -> None:
        self._model, self._cache, self._spare = model, cache, spare
        self._rope, self._operations = model.rope(), operations(model.device)
        on_cuda = model.device.type == "cuda"
        self._sizes = sizes_up_to(max(most, LEAST))
        self.most = most = self._sizes[-1]
        width = -(-model.config.max_positions // cache.block_size)
        # A copy on the host of what is on the device; pinned, so that copying waits for nothing.
        self._host = torch.zeros(3, most, dtype=torch.int32, pin_memory=on_cuda)
        self._host_table = torch.full((most, width), spare, dtype=torch.int32, pin_memory=on_cuda)
        self._inputs = self._host.to(model.device)  # ids, lengths, whether long
        self._table = self._host_table.to(model.device)
        width = model.config.hidden_size
        self._features = torch.zeros(most, width, dtype=model.dtype, device=model.device)
        self._held: list[list[int]] = [[] for _ in range(most)]  # blocks of each row's table
        self._copied = torch.cuda.Event() if on_cuda else None
        self._beside = torch.cuda.Stream(model.device) if on_cuda else None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Store every token's keys and values; (S, V) logits after each, and `likeliest` of them.

        Good until the next step. At most `most` rows.
        """
        count = len(rows)
        size = next(size for size in self._sizes if size >= count)
        self._put(rows, size)
        if self._model.device.type != "cuda":
            logits, plain = self._run(size)
        else:
            if size not in self._graphs:
                self._graphs[size] = self._captured(size)
            graph, logits, plain = self._graphs[size]
            graph.replay()
        return logits[:count], plain[:, :count]

    def _put(self, rows: Sequence[Row], size: int) -> None:
        if self._copied is not None:
            self._copied.synchronize()  # a step that gives no token ends unseen
        rest = size - len(rows)
        ids = [row.token_id for row in rows] + [0] * rest
        lengths = [row.length for row in rows] + [1] * rest
        are_long = [int(row.is_long) for row in rows] + [0] * rest
        self._host[:, :size] = torch.tensor([ids, lengths, are_long], dtype=torch.int32)
        self._inputs.copy_(self._host, non_blocking=True)  # whole: a part of it is not contiguous
        for i in range(size):
            blocks = list(rows[i].blocks) if i < len(rows) else [self._spare]
            if blocks != self._held[i]:
                part = (i, slice(0, len(blocks)))
                self._host_table[part] = torch.tensor(blocks, dtype=torch.int32)
                self._table[part].copy_(self._host_table[part], non_blocking=True)
                self._held[i] = blocks
        if self._copied is not None:
            self._copied.record()
        features = {i: row.feature for i, row in enumerate(rows) if row.feature is not None}
        if features:
            at = torch.tensor(list(features), device=self._features.device)
            self._features[at] = torch.stack(list(features.values())).to(self._features)

    def _captured(self, size: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """A graph of the step at one batch size, and where its results will be."""
        here, beside = torch.cuda.current_stream(), self._beside
        assert beside is not None
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self._run(size)  # kernels are compiled and libraries set up outside the capture
        here.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        pool = next((graph.pool() for graph, *_ in self._graphs.values()), None)
        # The outer `stream` goes back to this one even where a capture that broke does not.
        with (
            _CAPTURING,
            torch.cuda.stream(here),
            torch.cuda.graph(graph, pool, beside, capture_error_mode="thread_local"),
        ):
            logits, plain = self._run(size)
        return graph, logits, plain

    def _run(self, size: int) -> tuple[Tensor, Tensor]:
        model, run = self._model, self._operations
        ids, lengths, is_long = (row[:size] for row in self._inputs)
        table = self._table[:size]
        written = model.model.embed_tokens(ids.clamp(min=0))  # (S, D)
        x = torch.where((ids < 0)[:, None], self._features[:size], written)
        angles = self._rope.rotation_at((lengths - 1)[:, None], is_long.bool(), x.dtype)
        cos, sin = angles.cos[:, 0].contiguous(), angles.sin[:, 0].contiguous()  # (S, d)
        mix = partial(self._attend_rows, table=table, lengths=lengths)
        x = self._layers(x, cos, sin, table, lengths, mix)
        norm = model.model.norm
        logits = widened(run.normed_linear(x, norm.weight, norm.eps, model.lm_head.weight))
        return logits, likeliest(logits, logits)

    def _attend_rows(self, q: Tensor, number: int, *, table: Tensor, lengths: Tensor) -> Tensor:
        keys, values = self._cache.keys[number], self._cache.values[number]
        mixed: Tensor = self._operations.attend_blocks(q, keys, values, table, lengths)
        return mixed

    @torch.inference_mode()
    def read(self, x: Tensor, rotation: Rotation, parts: Sequence[Part]) -> Tensor:
        """(T, D) embeddings of parts of prompts, of any length, to (T, D) hidden states.

        No graph: what is long is bound by arithmetic.
        """
        device, norm = x.device, self._model.model.norm
        widest = max(len(part.blocks) for part in parts)
        tables = [[*part.blocks, *[self._spare] * (widest - len(part.blocks))] for part in parts]
        counts = torch.tensor([part.length for part in parts], device=device)
        owners = torch.arange(len(parts), device=device).repeat_interleave(
            counts, output_size=len(x)
        )
        table = torch.tensor(tables, dtype=torch.int32, device=device)[owners]
        lengths = torch.tensor(
            [n for part in parts for n in range(part.stored + 1, part.stored + part.length + 1)],
            dtype=torch.int32, device=device,
        )  # fmt: skip
        chunks = self._cache.reading(parts)
        single = torch.tensor([part.length == 1 for part in parts], device=device)
        alone = single[owners].nonzero()[:, 0]
        rows = {"table": table[alone], "lengths": lengths[alone]}

        def mix(q: Tensor, number: int) -> Tensor:
            mixed = chunks(q, number)
            if len(alone):
                mixed[alone] = self._attend_rows(q[alone], number, **rows)
            return mixed

        x = self._layers(
            x, rotation.cos.contiguous(), rotation.sin.contiguous(), table, lengths, mix
        )
        hidden: Tensor = self._operations.rms_norm(x, norm.weight, norm.eps)
        return hidden

    def _layers(
        self, x: Tensor, cos: Tensor, sin: Tensor, table: Tensor, lengths: Tensor, mix: Mix
    ) -> Tensor:
        run, cache = self._operations, self._cache
        for number, layer in enumerate(self._model.model.layers):
            assert isinstance(layer, DecoderLayer)
            keys, values = cache.keys[number], cache.values[number]
            attention, mlp = layer.self_attn, layer.mlp
            norm = layer.input_layernorm
            qkv = run.normed_linear(x, norm.weight, norm.eps, attention.qkv_proj.weight)
            q = run.rotate_and_store(qkv, cos, sin, keys, values, table, lengths)
            x = run.linear(mix(q, number).flatten(1), attention.o_proj.weight, x)
            norm = layer.post_attention_layernorm
            gated = run.gated_linear(x, norm.weight, norm.eps, mlp.gate_up_proj.weight)
            x = run.linear(gated, mlp.down_proj.weight, x)
        return x


def sizes_up_to(most: int) -> list[int]:
    """Powers of two, up to one that holds `most`."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(2 * sizes[-1])
    return sizes
