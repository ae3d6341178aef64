"""The engine: `add` requests, `step` for tokens, `abort` what nobody waits for.

One request runs at a time, in order of arrival. Not thread-safe: `loop` sees to that.
"""

from __future__ import annotations

import itertools
import time
from collections import deque

from phisight.engine.request import EngineTimes, FinishReason, Request, StepOutput, Token
from phisight.engine.runner import SequenceRunner
from phisight.engine.sampling import Sampler, logprobs
from phisight.errors import BudgetError
from phisight.model.memory import free_bytes, is_out_of_memory
from phisight.model.phi3v import Phi3V


class _Job:
    """A request with its id and, once started, its sequence and the seconds spent on it."""

    def __init__(self, request_id: int, request: Request) -> None:
        self.request_id, self.request = request_id, request
        self.sampler = Sampler(request.params, request.ids)
        self.runner: SequenceRunner | None = None
        self.num_generated = 0
        self.added_at = time.perf_counter()
        self.queued = self.prefill = self.decode = 0.0


class Engine:
    def __init__(self, model: Phi3V) -> None:
        self._model, self._rope = model, model.rope()
        self._next_id = itertools.count()
        self._jobs: deque[_Job] = deque()  # the first one is running or next to run

    def check_fits(self, num_tokens: int) -> None:
        """Raise BudgetError if a prompt of so many tokens leaves no room for an answer.

        Room in the context, and in the memory that is free now: an operating system may end a
        process that asks for more, rather than say no.
        """
        limit = self._model.config.max_positions
        if num_tokens >= limit:
            raise BudgetError(
                f"the prompt has {num_tokens} tokens and the model's context is {limit}: "
                "use fewer pictures, fewer crops (num_crops), or less text"
            )
        needed, free = self._model.bytes_to_read(num_tokens), free_bytes(self._model.device)
        if needed > free:
            raise BudgetError(
                f"reading {num_tokens} tokens takes {needed / 2**30:.2f} GiB of memory and "
                f"{self._model.device} has {free / 2**30:.2f} GiB free: "
                "use fewer pictures, fewer crops (num_crops), or less text"
            )

    def add(self, request: Request) -> int:
        """Queue a request; its id. Raises BudgetError if it can never be answered."""
        self.check_fits(len(request.ids))
        job = _Job(next(self._next_id), request)
        self._jobs.append(job)
        return job.request_id

    def step(self) -> list[StepOutput]:
        """The next token of the request in turn; empty when there is nothing to do."""
        if not self._jobs:
            return []
        job = self._jobs[0]
        try:
            token = self._next_token(job)
        except Exception as error:  # the request's own failure: its owner gets it, others go on
            self.abort(job.request_id)
            return [StepOutput(job.request_id, self._as_budget(job, error))]
        if token.finish is not None:
            self.abort(job.request_id)
        return [StepOutput(job.request_id, token)]

    def abort(self, request_id: int) -> None:
        """Drop a request, waiting or running, and free its cache. Unknown ids are ignored."""
        for job in [job for job in self._jobs if job.request_id == request_id]:
            self._jobs.remove(job)

    def _as_budget(self, job: _Job, error: Exception) -> Exception:
        if not is_out_of_memory(error):
            return error
        tokens = len(job.request.ids) + job.num_generated
        gib = tokens * self._model.bytes_per_token_cached() / 2**30
        return BudgetError(
            f"no memory on {self._model.device} for {tokens} tokens, whose cache takes "
            f"{gib:.2f} GiB: use fewer pictures, fewer crops (num_crops), or a smaller max_tokens"
        )

    def _next_token(self, job: _Job) -> Token:
        began = time.perf_counter()
        if job.runner is None:
            job.queued = began - job.added_at
            request = job.request
            job.runner = SequenceRunner(self._model, self._rope, request.ids, request.images)
        logits = job.runner.logits()
        token_id = job.sampler.pick(logits)
        num_top = job.request.params.logprobs
        likely = None if num_top is None else logprobs(logits, token_id, num_top)
        job.runner.append(token_id)
        job.num_generated += 1
        spent = time.perf_counter() - began
        if job.num_generated == 1:
            job.prefill = spent
        else:
            job.decode += spent
        times = EngineTimes(job.queued, job.prefill, job.decode)
        return Token(token_id, times, self._finish(job, token_id), likely)

    def _finish(self, job: _Job, token_id: int) -> FinishReason | None:
        assert job.runner is not None
        if token_id in job.request.stop_ids:
            return FinishReason.STOP
        if (
            job.num_generated == job.request.params.max_tokens
            or len(job.runner) >= self._model.config.max_positions
        ):
            return FinishReason.LENGTH
        return None
