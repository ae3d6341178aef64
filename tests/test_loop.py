"""The thread that owns the engine, and those who wait on it."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import law
import micro
import pytest
import torch
from waiting import until

from phisight.engine import loop as loop_module
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.engine.request import Request, Token
from phisight.engine.scheduler import Scheduler
from phisight.errors import BudgetError
from phisight.model.phi3v import Crops, Phi3V
from phisight.params import SamplingParams


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


def asking(ids: list[int], max_tokens: int = 4) -> Request:
    return Request(ids, params=SamplingParams(max_tokens=max_tokens))


def rest(loop: EngineLoop, ticket: int) -> list[int]:
    tokens = []
    while (token := loop.next_token(ticket)) is not None:
        tokens.append(token.token_id)
    return tokens


def test_threads_are_served_side_by_side(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    prompts = [[i, i + 1, i + 2] for i in range(6)]
    expected = [rest(loop, loop.submit(asking(ids, 15))) for ids in prompts]
    answers: dict[int, list[int]] = {}

    def work(i: int) -> None:
        answers[i] = rest(loop, loop.submit(asking(prompts[i], 15)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answers[i] for i in range(6)] == expected
    assert loop.next_token(0) is None


def test_a_caller_who_does_not_look_holds_nobody_up(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    unread = loop.submit(asking([1, 2], 20))
    assert len(rest(loop, loop.submit(asking([3], 30)))) == 30
    assert len(rest(loop, unread)) == 20


def test_what_can_never_be_answered_is_refused_to_its_caller(small: Phi3V) -> None:
    with pytest.raises(BudgetError, match="context is 900"):
        EngineLoop(Engine(small)).submit(asking([1] * 900))


def test_abandoning_wakes_who_waits_and_frees(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(small)
    loop, holding = EngineLoop(engine), threading.Event()
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: [] if holding.wait(20) is None else step())
    ticket, got = loop.submit(asking([1], 800)), []
    thread = threading.Thread(target=lambda: got.append(loop.next_token(ticket)))
    thread.start()
    loop.abandon(ticket)
    thread.join(20)
    assert got == [None]
    holding.set()
    until(lambda: engine.is_idle)
    engine.scheduler.check()
    loop.abandon(ticket)
    loop.abandon(999)


@pytest.mark.parametrize("left", [False, True])
def test_an_end_wakes_all_who_wait(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    engine = Engine(small)
    loop, holding, waiting = EngineLoop(engine), threading.Event(), threading.Semaphore(0)
    step, wait = engine.step, loop_module._wait
    monkeypatch.setattr(engine, "step", lambda: [] if holding.wait(20) is None else step())
    monkeypatch.setattr(loop_module, "_wait", lambda queue: (waiting.release(), wait(queue))[1])
    ticket = loop.submit(asking([1], 1))
    threads = [threading.Thread(target=rest, args=(loop, ticket), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert waiting.acquire(timeout=20)
    if left:
        loop.abandon(ticket)
    holding.set()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_a_fault_of_the_engines_own_reaches_everyone(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = EngineLoop(Engine(small))
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "schedule", lambda self: 1 // 0)
        tickets = [loop.submit(asking([1])) for _ in range(2)]
        for ticket in tickets:
            with pytest.raises(RuntimeError, match="the engine failed: ZeroDivisionError"):
                loop.next_token(ticket)
    assert len(rest(loop, loop.submit(asking([1])))) == 4, "and it goes on"


def test_a_request_that_cannot_be_added_fails_alone(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    running = loop.submit(asking([1], 60))
    loop.next_token(running)
    broken = loop.submit(Request([2], [None]))  # type: ignore[list-item]
    with pytest.raises(AttributeError):
        loop.next_token(broken)
    assert len(rest(loop, running)) == 59


def test_pictures_are_encoded_between_steps(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    ticket = loop.submit(asking([1], 200))
    crops = Crops(torch.ones(2, 1), 1, 1, 5, b"one")
    image = loop.encode(crops)
    assert (image.num_tokens, image.encoder, image.key) == (5, small.mark, b"one")
    assert loop.encode(crops).features is image.features
    assert len(rest(loop, ticket)) == 200


def test_an_error_in_encoding_is_its_callers(small: Phi3V, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = EngineLoop(Engine(small))

    def short(pictures: object, saw: object) -> object:
        raise torch.OutOfMemoryError("0x1234")

    monkeypatch.setattr(small, "encode_images", short)
    with pytest.raises(BudgetError) as caught:
        loop.encode(Crops(torch.ones(2, 1), 1, 1, 5, b"two"))
    assert str(caught.value).startswith("no memory on cpu to encode 2 crops: use fewer pictures")
    until(lambda: loop._engine.images.num_needed == 0)


def test_the_thread_ends_when_there_is_no_work_and_comes_again(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_LINGER", 0.02)
    loop = EngineLoop(Engine(small))
    for _ in range(3):
        assert len(rest(loop, loop.submit(asking([1])))) == 4
        until(lambda: not loop._threads)


def test_a_dropped_loop_is_not_kept_by_its_thread(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    rest(loop, loop.submit(asking([1])))
    (thread,), gone = loop._threads, weakref.ref(loop)
    del loop
    until(lambda: gc.collect() >= 0 and gone() is None)
    assert not thread.is_alive(), "well before it would have ended by itself"


def test_many_come_and_go_at_random(small: Phi3V) -> None:
    """200 requests by 8 threads, a third left early: nothing hangs, nothing is left over."""
    engine = Engine(small)
    loop = EngineLoop(engine)
    done = []

    def work(number: int) -> None:
        for i in range(25):
            ticket = loop.submit(asking([number, i, 3], 1 + (number * i) % 9))
            token: Token | None = loop.next_token(ticket)
            if i % 3 == 0:
                loop.abandon(ticket)
            else:
                rest(loop, ticket)
            assert token is not None
            done.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert len(done) == 200
    until(lambda: engine.is_idle)
    engine.scheduler.check()
    assert engine.scheduler.pool.num_free == engine.shape.num_blocks
    assert not loop._outputs


def test_the_interpreter_ends_in_the_midst_of_an_answer() -> None:
    """A thread that came back from torch too late would abort the process."""
    script = (
        "import phisight, sys\n"
        "stream = phisight.load().stream('Hi', max_tokens=3000, ignore_eos=True)\n"
        "sys.stdout.write(next(stream))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
