"""The one thread that owns the engine; others submit, wait for tokens, and abandon.

The thread is there while there is work, and a little longer. Knows nothing of what tokens mean.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from phisight.engine.engine import Engine
from phisight.engine.request import Progress, Request, StepOutput, Token
from phisight.model.phi3v import Crops, EncodedImage

_LINGER = 2.0  # seconds without work after which the thread ends; starting one takes under 1 ms
_PATIENCE = 0.5  # seconds of one wait: a wait without end cannot be interrupted on every system

T = TypeVar("T")
Command = Callable[[], None]
Output = StepOutput | None  # None wakes whoever waits for an abandoned request


class EngineLoop:
    """Thread-safe access to one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tickets = itertools.count()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._outputs: dict[int, queue.SimpleQueue[Output]] = {}  # by ticket
        self._threads: list[threading.Thread] = []  # the one there is, if there is one
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        # The thread's own.
        self._by_ticket: dict[int, int] = {}  # to the engine's id
        self._by_id: dict[int, int] = {}
        # When nobody holds the loop any more, and when the interpreter ends: a thread that came
        # back from torch after that would abort the process.
        weakref.finalize(self, _end, self._stopping, self._commands, self._threads)

    @property
    def max_batch(self) -> int:
        """Requests that run at once."""
        return self._engine.config.max_batch

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache."""
        return self._engine.shape.num_tokens * self.bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        """Memory of the cache that a token takes."""
        return self._engine.bytes_per_token

    def check_fits(self, num_tokens: int, max_tokens: int) -> None:
        """Raise BudgetError if a prompt of so many tokens and its answer can never be held."""
        self._engine.check_fits(num_tokens, max_tokens)

    def submit(self, request: Request) -> int:
        """Queue a request; its ticket. Raises BudgetError if it can never be answered."""
        self.check_fits(len(request.ids), request.params.max_tokens)
        ticket = next(self._tickets)
        self._outputs[ticket] = queue.SimpleQueue()
        self._order(lambda: self._add(ticket, request))
        return ticket

    def encode(self, crops: Crops) -> EncodedImage:
        """A picture's image tokens, between two steps. Raises BudgetError."""
        reply: queue.SimpleQueue[EncodedImage | Exception] = queue.SimpleQueue()

        def run() -> None:
            try:
                reply.put(self._engine.encode(crops))
            except Exception as error:
                reply.put(error)

        self._order(run)
        image = _wait(reply)
        if isinstance(image, Exception):
            raise image
        return image

    def next_token(self, ticket: int) -> Token | None:
        """The request's next token; None once it has ended. Raises what ended it early."""
        outputs = self._outputs.get(ticket)
        output = None if outputs is None else _wait(outputs)
        if outputs is not None and (output is None or output.is_last):
            self._outputs.pop(ticket, None)
            outputs.put(None)  # another thread may wait for the same
        if output is None:
            return None
        if isinstance(output.result, Exception):
            raise output.result
        return output.result

    def progress(self, ticket: int) -> Progress | None:
        """How far the request is; None before the engine has it, and when it has ended."""
        request_id = self._by_ticket.get(ticket)
        return None if request_id is None else self._engine.progress(request_id)

    def abandon(self, ticket: int) -> None:
        """Forget a request and free what it holds; harmless once it has ended.

        Never waits: the garbage collector may be the caller, in any thread.
        """
        outputs = self._outputs.pop(ticket, None)
        if outputs is not None:
            outputs.put(None)
            self._commands.put(lambda: self._abort(ticket))

    def _order(self, command: Command) -> None:
        """Have the thread do this between two steps."""
        self._commands.put(command)
        with self._starting:
            if not any(thread.is_alive() for thread in self._threads):
                thread = threading.Thread(
                    target=_serve,
                    args=(weakref.ref(self), self._commands),
                    name="phisight-engine",
                    daemon=True,
                )
                self._threads[:] = [thread]
                thread.start()

    # What follows runs in the thread.

    def _work(self) -> None:
        """Steps, and commands between them, as long as somebody waits: what an engine that failed
        may still hold is computed for nobody."""
        while self._by_id and not self._stopping.is_set():
            for output in self._engine.step():
                ticket = self._by_id.get(output.request_id)
                if ticket is None:
                    continue
                if output.is_last:
                    del self._by_id[output.request_id], self._by_ticket[ticket]
                if (outputs := self._outputs.get(ticket)) is not None:
                    outputs.put(output)
            while not self._commands.empty():
                self._commands.get()()

    def _fail(self, error: BaseException) -> None:
        """A fault of the engine's own: nobody is left waiting."""
        for request_id, ticket in list(self._by_id.items()):
            if (outputs := self._outputs.get(ticket)) is not None:
                failure = RuntimeError(f"the engine failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                outputs.put(StepOutput(request_id, failure))
            with contextlib.suppress(Exception):  # a second fault, and others are still waiting
                self._abort(ticket)

    def _leave(self) -> bool:
        """Whether the thread may end: nobody has ordered anything meanwhile."""
        with self._starting:
            if not self._commands.empty():
                return False
            self._threads.clear()
            return True

    def _add(self, ticket: int, request: Request) -> None:
        if (outputs := self._outputs.get(ticket)) is None:
            return  # abandoned before it got here
        try:
            request_id = self._engine.add(request)
        except Exception as error:  # its own fault, and the engine has nothing of it
            outputs.put(StepOutput(-1, error))
            return
        self._by_ticket[ticket], self._by_id[request_id] = request_id, ticket

    def _abort(self, ticket: int) -> None:
        request_id = self._by_ticket.pop(ticket, None)
        if request_id is not None:
            del self._by_id[request_id]
            self._engine.abort(request_id)


def _serve(reference: weakref.ref[EngineLoop], commands: queue.SimpleQueue[Command]) -> None:
    """The thread. While it waits it keeps neither the loop nor its model alive."""
    ready = False
    while True:
        try:
            command = commands.get(timeout=_LINGER)
        except queue.Empty:
            command = None
        loop = reference()
        if loop is None or loop._stopping.is_set() or (command is None and loop._leave()):
            return
        try:
            if not ready:
                loop._engine.take_thread()
                ready = True
            if command is not None:
                command()
            loop._work()
        except BaseException as error:
            loop._fail(error)
        del loop, command


def _end(
    stopping: threading.Event,
    commands: queue.SimpleQueue[Command],
    threads: list[threading.Thread],
) -> None:
    """Have the thread end after its step, and wait for that."""
    stopping.set()
    commands.put(lambda: None)  # it may be waiting
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _wait(outputs: queue.SimpleQueue[T]) -> T:
    while True:
        try:
            return outputs.get(timeout=_PATIENCE)
        except queue.Empty:
            continue
