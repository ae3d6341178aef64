"""The engine: `add` requests, `step` for tokens, `abort` what nobody waits for.

One request runs at a time, in order of arrival. Not thread-safe: `loop` sees to that.
"""

from __future__ import annotations

import itertools
import time
from collections import deque

import torch

from phisight.engine.request import Finish, FinishReason, Request, StepOutput
from phisight.engine.runner import SequenceRunner
from phisight.engine.sampling import Sampler
from phisight.errors import BudgetError
from phisight.model.phi3v import Phi3V


class _Job:
    """A request with its id and, once started, its sequence."""

    def __init__(self, request_id: int, request: Request) -> None:
        self.request_id, self.request = request_id, request
        self.sampler = Sampler(request.params)
        self.runner: SequenceRunner | None = None
        self.num_generated = 0
        self.added_at = self.started_at = self.first_token_at = time.perf_counter()


class Engine:
    def __init__(self, model: Phi3V) -> None:
        self._model, self._rope = model, model.rope()
        self._next_id = itertools.count()
        self._jobs: deque[_Job] = deque()  # the first one is running or next to run

    def check_fits(self, num_tokens: int) -> None:
        """Raise BudgetError if a prompt of so many tokens leaves no room for an answer."""
        limit = self._model.config.max_positions
        if num_tokens >= limit:
            raise BudgetError(
                f"the prompt has {num_tokens} tokens and the model's context is {limit}: "
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
            token_id = self._next_token(job)
        except BudgetError as error:
            self.abort(job.request_id)
            return [StepOutput(job.request_id, error=error)]
        except torch.OutOfMemoryError:
            self.abort(job.request_id)
            no_memory = BudgetError(
                f"the device ran out of memory on a request of {len(job.request.ids)} tokens: "
                "use fewer pictures or fewer crops (num_crops)"
            )
            return [StepOutput(job.request_id, error=no_memory)]
        except BaseException:
            self.abort(job.request_id)  # a failed request must not block those after it
            raise
        finish = self._finish(job, token_id)
        if finish is not None:
            self.abort(job.request_id)
        return [StepOutput(job.request_id, token_id, finish)]

    def abort(self, request_id: int) -> None:
        """Drop a request, waiting or running, and free its cache. Unknown ids are ignored."""
        self._jobs = deque(job for job in self._jobs if job.request_id != request_id)

    def _next_token(self, job: _Job) -> int:
        if job.runner is None:
            job.started_at = time.perf_counter()
            request, limit = job.request, self._model.config.max_positions
            capacity = min(len(request.ids) + request.params.max_tokens, limit)
            job.runner = SequenceRunner(
                self._model, self._rope, request.ids, request.images, capacity
            )
        token_id = job.sampler.pick(job.runner.logits())
        job.runner.append(token_id)
        job.num_generated += 1
        if job.num_generated == 1:
            job.first_token_at = time.perf_counter()
        return token_id

    def _finish(self, job: _Job, token_id: int) -> Finish | None:
        assert job.runner is not None
        if token_id in job.request.stop_ids:
            reason = FinishReason.STOP
        elif (
            job.num_generated == job.request.params.max_tokens
            or len(job.runner) >= self._model.config.max_positions
        ):
            reason = FinishReason.LENGTH
        else:
            return None
        return Finish(
            reason,
            queue=job.started_at - job.added_at,
            prefill=job.first_token_at - job.started_at,
            decode=time.perf_counter() - job.first_token_at,
        )
