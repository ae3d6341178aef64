"""`model.engine`: whether a call of `generate` is the engine's or transformers', and why.

Owns the engine over the model's own modules: its weights are the model's, and nothing that was
computed with them is found again in a later call, since by then they may be others.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phisight.engine.cache import bytes_per_block
from phisight.engine.capacity import cache_shape
from phisight.engine.engine import Engine, runs_fused
from phisight.engine.request import Request
from phisight.errors import BudgetError, DeviceError
from phisight.hf.eligible import Call, NotEligibleError, check_call, check_model
from phisight.hf.writing import requests_of, write
from phisight.model.memory import free_bytes, is_out_of_memory
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig

_log = logging.getLogger("phisight.hf")
_BLOCK = 32  # tokens that room for a row is rounded up to, and one block for where they begin
_LEAST = 4096  # tokens that an engine which is kept has room for, and 32 rows
_SHARE = 0.8  # of the free memory
_MOST_ROWS = 256


class _Standing(NamedTuple):
    """An engine with CUDA graphs, which take long to make, and the weights these read."""

    engine: Engine
    weights: list[Any]
    room: int
    rows: int


class EngineRoute:
    """`enabled=False` leaves every call to transformers; `fused` is the engine's option.

    Where steps are not fused an engine and its cache live for one call. Where they are, both are
    kept for the next ones: until `train()`, `free()`, the model is moved or cast, or a call that
    needs more room or finds weights replaced. `taken` says who answered the last call.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.enabled, self.fused = True, EngineConfig().fused
        self._made_of = [type(module) for module in modules]
        self._start()

    def _start(self) -> None:
        self.taken = "nobody yet"
        self._told: set[str] = set()
        self._busy = threading.Lock()
        self._kept: _Standing | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies of the model: they begin without an engine."""
        return {name: getattr(self, name) for name in ("enabled", "fused", "_made_of")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def free(self) -> None:
        """Let go of an engine that was kept for the next call, and of its memory."""
        self._kept = None

    def begin(self) -> None:
        """A call begins; most other ways of generating than greedy and sampled never get to
        `answer`."""
        self.taken = "transformers: another way than greedy or sampled"

    def answer(self, model: Any, call: Call) -> Tensor | None:
        """The (B, T + new) ids of a call, or None: then transformers is to answer it."""
        if not self._busy.acquire(blocking=False):
            self._tell("transformers: the engine is answering another call")
            return None
        try:
            if not self.enabled:
                raise NotEligibleError("engine.enabled is False")
            check_model(model, self._made_of)
            check_call(call, model.structure.max_positions)
            requests = requests_of(call)
            with _on(model.device):
                engine = self._engine(model, requests)
                self._tell("the engine")
                try:
                    return write(engine, requests, call)
                finally:
                    engine.forget()
        except NotEligibleError as reason:
            self._tell(f"transformers: {reason}")
            return None
        finally:
            self._busy.release()

    def _tell(self, taken: str) -> None:
        self.taken = taken
        if taken not in self._told:
            self._told.add(taken)
            _log.info("generate is answered by %s", taken)

    def _engine(self, model: Any, requests: Sequence[Request]) -> Engine:
        """With room for these requests, or as many as fit; NotEligibleError if one never does."""
        room = sum(len(r.ids) + r.params.max_tokens + 2 * _BLOCK for r in requests)
        rows = min(len(requests), _MOST_ROWS)
        weights = [(w.data_ptr(), w.dtype, w.device, w.shape) for w in model.parameters()]
        is_fused = runs_fused(self.fused, model.device)
        kept, self._kept = self._kept, None
        if (
            kept is None
            or not is_fused
            or kept.weights != weights
            or room > kept.room
            or rows > kept.rows
        ):
            kept = None  # before another one is made
            if is_fused:
                room, rows = max(room, _LEAST), max(rows, 32)
            kept = _Standing(self._made(model, room, rows), weights, room, rows)
        try:
            for request in requests:
                kept.engine.check_fits(len(request.ids), request.params.max_tokens)
        except BudgetError as error:
            raise NotEligibleError(str(error)) from None
        if is_fused:
            self._kept = kept
        return kept.engine

    def _made(self, model: Any, room: int, rows: int) -> Engine:
        network = Phi3V(model.structure, model.model, model.lm_head)
        needed = room * bytes_per_block(network.config, 1, network.dtype)
        memory = min(needed, int(_SHARE * free_bytes(network.device))) / 2**30
        config = EngineConfig(max_batch=rows, kv_memory=memory, image_memory=0, fused=self.fused)
        try:
            return Engine(network, config, cache_shape(network, config))
        except (BudgetError, DeviceError) as error:
            raise NotEligibleError(str(error)) from None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise NotEligibleError(f"no memory for a cache of {memory:.2f} GiB") from None


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels and graphs go by the thread's device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
