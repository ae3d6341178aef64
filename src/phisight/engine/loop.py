"""Who steps the engine when several callers wait on it.

Callers take turns under one lock: whoever needs a token steps the engine until its own arrives, and
leaves the others' tokens where they will look. Knows nothing of what the tokens mean.
"""

from __future__ import annotations

import threading
from collections import deque

from phisight.engine.engine import Engine
from phisight.engine.request import Request, StepOutput, Token


class EngineLoop:
    """Thread-safe access to one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Re-entrant: a dropped stream is abandoned by the garbage collector, which may run
        # inside a step of the same thread.
        self._lock = threading.RLock()
        self._outputs: dict[int, deque[StepOutput]] = {}

    def check_fits(self, num_tokens: int) -> None:
        """Raise BudgetError if a prompt of so many tokens can never be answered."""
        self._engine.check_fits(num_tokens)

    def submit(self, request: Request) -> int:
        """Queue a request; its id. Raises BudgetError if it can never be answered."""
        with self._lock:
            request_id = self._engine.add(request)
            self._outputs[request_id] = deque()
            return request_id

    def next_token(self, request_id: int) -> Token | None:
        """The request's next token; None once it has ended. Raises what ended it early."""
        with self._lock:
            if request_id not in self._outputs:
                return None
            while not self._outputs[request_id]:
                outputs = self._engine.step()
                if not outputs:
                    raise RuntimeError(f"the engine lost request {request_id}")
                for output in outputs:
                    if output.request_id in self._outputs:
                        self._outputs[output.request_id].append(output)
            output = self._outputs[request_id].popleft()
            if output.is_last:
                del self._outputs[request_id]
            if isinstance(output.result, Exception):
                raise output.result
            return output.result

    def abandon(self, request_id: int) -> None:
        """Forget a request and free what it holds; harmless once it has ended."""
        with self._lock:
            self._outputs.pop(request_id, None)
            self._engine.abort(request_id)
