"""The engine: `add` requests, `step` for tokens, `abort` what nobody waits for.

One request runs at a time, in order of arrival. The caller's thread does the work.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass

from phisight.engine.request import EngineTimings, FinishReason, Request, StepOutput
from phisight.engine.runner import SequenceRunner
from phisight.engine.sampling import Sampler
from phisight.errors import BudgetError
from phisight.model.phi3v import Phi3V


@dataclass
class _Waiting:
    request_id: int
    request: Request
    added_at: float


class _Running:
    def __init__(self, waiting: _Waiting, runner: SequenceRunner) -> None:
        self.request_id, self.request = waiting.request_id, waiting.request
        self.runner, self.sampler = runner, Sampler(waiting.request.params)
        self.num_generated = 0
        self.added_at, self.started_at = waiting.added_at, time.perf_counter()
        self.first_token_at = 0.0

    def timings(self) -> EngineTimings:
        return EngineTimings(
            queue=self.started_at - self.added_at,
            prefill=self.first_token_at - self.started_at,
            decode=time.perf_counter() - self.first_token_at,
        )


class Engine:
    """Not thread-safe: one thread calls it at a time."""

    def __init__(self, model: Phi3V) -> None:
        self._model, self._rope = model, model.rope()
        self._ids = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._running: _Running | None = None

    def add(self, request: Request) -> int:
        """Queue a request; its id. Raises BudgetError if its prompt leaves no room for an answer."""
        limit = self._model.config.max_positions
        if len(request.ids) >= limit:
            raise BudgetError(
                f"the prompt has {len(request.ids)} tokens and the model's context is {limit}: "
                "use fewer pictures, fewer crops (num_crops), or less text"
            )
        request_id = next(self._ids)
        self._waiting.append(_Waiting(request_id, request, time.perf_counter()))
        return request_id

    def step(self) -> list[StepOutput]:
        """The next token of the request in turn; empty when there is nothing to do."""
        if self._running is None:
            if not self._waiting:
                return []
            self._running = self._start(self._waiting.popleft())
        running = self._running
        try:
            token_id = running.sampler.pick(running.runner.logits())
        except BaseException:
            self._running = None  # a failed request must not block those after it
            raise
        running.num_generated += 1
        if running.num_generated == 1:
            running.first_token_at = time.perf_counter()
        running.runner.append(token_id)
        reason = self._finish_reason(running, token_id)
        if reason is None:
            return [StepOutput(running.request_id, token_id)]
        self._running = None
        return [StepOutput(running.request_id, token_id, reason, running.timings())]

    def abort(self, request_id: int) -> None:
        """Drop a request, waiting or running, and free its cache. Unknown ids are ignored."""
        if self._running is not None and self._running.request_id == request_id:
            self._running = None
        self._waiting = deque(w for w in self._waiting if w.request_id != request_id)

    def _start(self, waiting: _Waiting) -> _Running:
        request = waiting.request
        room = len(request.ids) + request.params.max_tokens
        capacity = min(room, self._model.config.max_positions)
        runner = SequenceRunner(self._model, self._rope, request.ids, request.images, capacity)
        return _Running(waiting, runner)

    def _finish_reason(self, running: _Running, token_id: int) -> FinishReason | None:
        if token_id in running.request.stop_ids:
            return FinishReason.STOP
        full = len(running.runner) >= self._model.config.max_positions
        if full or running.num_generated == running.request.params.max_tokens:
            return FinishReason.LENGTH
        return None
