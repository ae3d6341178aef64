"""Steps without the modules' many small kernels: an order of operations of their own.

Owns that order, and on CUDA the graphs of small steps: one for each of a few sizes, captured when
first used, all over the same `inputs`, from which everything else follows on the device. Keys and
values of all rows are written before any are read, so that a row may follow another of the same
sequence.

Dimensions: S rows, padded to a size; M blocks of the longest context.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from phisight.engine.cache import PagedCache, Part
from phisight.engine.inputs import Inputs, Row
from phisight.engine.sampling import likeliest
from phisight.kernels import operations
from phisight.model.decoder import DecoderLayer, widened
from phisight.model.phi3v import Phi3V
from phisight.model.rope import Rotation

_CAPTURING = threading.Lock()  # torch has one capture at a time in a process
_IDLE: dict[torch.device, list[torch.cuda.Stream]] = {}  # of decoders that are no more
Mix = Callable[[Tensor, int], Tensor]  # (S, H, d) queries of a layer to what they see
LEAST = 32  # rows that there is room for: a short question about what has been read


class Step:
    """What a step has computed, or is about to.

    `logits` (S, V) after each row, and `plain`, `likeliest` of them, are good until the next step.
    """

    def __init__(
        self, logits: Tensor, plain: Tensor, told: Tensor, done: torch.cuda.Event | None
    ) -> None:
        self.logits, self.plain = logits, plain
        self._told, self._done = told, done

    def told(self) -> Tensor:
        """`plain` on the host; waits for it. Good until the step after the next."""
        if self._done is not None:
            self._done.synchronize()
        return self._told


class Decoder:
    """Steps of up to `most` rows, or LEAST. `spare` is a block that no sequence holds: what rows
    without a sequence write goes there."""

    def __init__(self, model: Phi3V, cache: PagedCache, most: int, *, spare: int) -> None:
        self._model, self._cache, self._spare = model, cache, spare
        self._rope, self._operations = model.rope(), operations(model.device)
        on_cuda = model.device.type == "cuda"
        self._sizes = sizes_up_to(max(most, LEAST))
        self.most = most = self._sizes[-1]
        features = torch.zeros(
            most, model.config.hidden_size, dtype=model.dtype, device=model.device
        )
        width = -(-model.config.max_positions // cache.block_size)
        self._inputs = Inputs(most, width, spare, features)
        # Two, since one is read while the next step writes the other. Flat, since a copy to a part
        # of rows would go by way of other memory, and wait for it.
        self._told = [torch.zeros(3 * most, dtype=torch.int64, pin_memory=on_cuda) for _ in "ab"]
        self._done = [torch.cuda.Event() if on_cuda else None for _ in range(2)]
        self._beside = idle_stream(self, model.device) if on_cuda else None
        self._graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> Step:
        """Store every token's keys and values, and compute what comes after each.

        At most `most` rows.
        """
        size = next(size for size in self._sizes if size >= len(rows))
        together = len(rows) > 1 and all(row.blocks is rows[0].blocks for row in rows)
        if self._beside is not None and (size, together) not in self._graphs:
            self._inputs.put((), size)  # what runs while it is captured touches no sequence
            self._graphs[size, together] = self._captured(size, together)
        self._inputs.put(rows, size)
        return self._launched(len(rows), size, together)

    @torch.inference_mode()
    def next_step(self, blocks: Sequence[Sequence[int]]) -> Step:
        """The step after the last one, its rows each followed by its likeliest token.

        Those ids need not have been read. `blocks` are the rows', with room for a token more; no
        two are one sequence's.
        """
        self._inputs.extend(blocks)
        size = next(size for size in self._sizes if size >= len(blocks))
        return self._launched(len(blocks), size, False)

    def _launched(self, count: int, size: int, together: bool) -> Step:
        """`together`: the rows are all of one sequence, and share what they read of it."""
        if self._beside is None:
            logits, plain = self._run(size, together)
        else:
            graph, logits, plain = self._graphs[size, together]
            graph.replay()
        self._told.reverse()
        self._done.reverse()
        told, done = self._told[0][: 3 * size].view(3, size), self._done[0]
        told.copy_(plain, non_blocking=True)
        if done is not None:
            done.record()
        return Step(logits[:count], plain[:, :count], told[:, :count], done)

    def _captured(self, size: int, together: bool) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """A graph of the step at one batch size, and where its results will be."""
        here, beside = torch.cuda.current_stream(), self._beside
        assert beside is not None
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self._run(size, together)  # kernels are compiled, libraries set up outside the capture
        here.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        pool = next((graph.pool() for graph, *_ in self._graphs.values()), None)
        # The outer `stream` goes back to this one even where a capture that broke does not.
        with (
            _CAPTURING,
            _without_collection(),
            torch.cuda.stream(here),
            torch.cuda.graph(graph, pool, beside, capture_error_mode="thread_local"),
        ):
            logits, plain = self._run(size, together)
        return graph, logits, plain

    def _run(self, size: int, together: bool) -> tuple[Tensor, Tensor]:
        model, run = self._model, self._operations
        ids, lengths, is_long = self._inputs.rows(size)
        table = self._inputs.table[:size]
        written = model.model.embed_tokens(ids.clamp(min=0))  # (S, D)
        x = torch.where((ids < 0)[:, None], self._inputs.features[:size], written)
        angles = self._rope.rotation_at((lengths - 1)[:, None], is_long.bool(), x.dtype)
        cos, sin = angles.cos[:, 0].contiguous(), angles.sin[:, 0].contiguous()  # (S, d)
        mix = partial(self._attend_rows, table=table, lengths=lengths)
        if together:
            mix = partial(self._attend_sequence, table=table[0], lengths=lengths)
        x = self._layers(x, cos, sin, table, lengths, mix)
        norm = model.model.norm
        logits = widened(run.normed_linear(x, norm.weight, norm.eps, model.lm_head.weight))
        plain = likeliest(logits, logits)
        self._inputs.follow(plain[2])
        return logits, plain

    def _attend_rows(self, q: Tensor, number: int, *, table: Tensor, lengths: Tensor) -> Tensor:
        keys, values = self._cache.keys[number], self._cache.values[number]
        mixed: Tensor = self._operations.attend_blocks(q, keys, values, table, lengths)
        return mixed

    def _attend_sequence(self, q: Tensor, number: int, *, table: Tensor, lengths: Tensor) -> Tensor:
        keys, values = self._cache.keys[number], self._cache.values[number]
        mixed: Tensor = self._operations.attend_sequence(q, keys, values, table, lengths)
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


def idle_stream(owner: object, device: torch.device) -> torch.cuda.Stream:
    """A stream for `owner` while it lives, then for the next: for each stream that it ever computed
    on, cuBLAS keeps memory to work in, on Hopper 32 MiB. Not one stream for all: graphs of two
    decoders may run at a time, and would share that memory."""
    idle = _IDLE.setdefault(device, [])
    try:
        stream = idle.pop()
    except IndexError:
        stream = torch.cuda.Stream(device)
    weakref.finalize(owner, idle.append, stream).atexit = False
    return stream


@contextmanager
def _without_collection() -> Iterator[None]:
    """A dead engine that the garbage collector finds during a capture would take its graphs and
    pinned memory down with calls that a capture forbids; torch collects before one no more."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def sizes_up_to(most: int) -> list[int]:
    """Powers of two, up to one that holds `most`."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(2 * sizes[-1])
    return sizes
