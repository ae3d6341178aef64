"""Steps launched before the last one's tokens are read, case by case; mixes are in test_decoder."""

from collections.abc import Callable
from typing import Any

import law
import micro
import pytest
import torch
from test_engine_law import run

from phisight.engine import ahead
from phisight.engine import engine as engine_module
from phisight.engine.capacity import CacheShape
from phisight.engine.engine import Engine
from phisight.engine.graphs import Decoder
from phisight.engine.request import Request, Token
from phisight.kernels import steps_note
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig, SamplingParams


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


@pytest.fixture
def engine(small: Phi3V, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Whose steps are those of a GPU, in plain torch."""
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: None)
    engine = Engine(small, EngineConfig(fused=None), CacheShape(60, 4, small.dtype))
    assert engine.is_fused
    return engine


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each step had that was launched ahead."""
    rows: list[int] = []
    before = Decoder.next_step

    def next_step(self: Decoder, blocks: list[list[int]]) -> Any:
        rows.append(len(blocks))
        return before(self, blocks)

    monkeypatch.setattr(Decoder, "next_step", next_step)
    return rows


def asking(start: int, max_tokens: int, **options: Any) -> Request:
    return Request(range(start, start + 9), (), SamplingParams(max_tokens=max_tokens), **options)


def test_a_lone_answer_waits_for_its_first_two_tokens_alone(
    small: Phi3V, engine: Engine, launched: list[int]
) -> None:
    request = asking(30, 12)
    request_id = engine.add(request)
    assert run(engine)[request_id] == law.expected(small, request)
    assert launched == [1] * 10


def test_what_comes_after_a_stop_id_is_thrown_away(
    small: Phi3V, engine: Engine, launched: list[int]
) -> None:
    whole = law.expected(small, asking(30, 12))
    stop = next(i for i in range(4, 12) if whole[i] not in whole[:i])
    requests = [asking(30, 12, stop_ids=frozenset([whole[stop]])), asking(60, 20)]
    ids = [engine.add(request) for request in requests]
    tokens = run(engine)
    assert tokens[ids[0]] == whole[: stop + 1]
    assert tokens[ids[1]] == law.expected(small, requests[1])
    assert {1, 2} == set(launched)
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_one_that_comes_meanwhile_is_let_in_with_the_next_step(
    small: Phi3V, engine: Engine, launched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [asking(30, 14), asking(60, 6)]
    tokens: dict[int, list[int]] = {}
    ids = [engine.add(requests[0])]
    while len(tokens.get(ids[0], ())) < 6:
        for output in engine.step():
            assert isinstance(output.result, Token)
            tokens.setdefault(output.request_id, []).append(output.result.token_id)
    ids.append(engine.add(requests[1]))
    read: list[int] = []
    monkeypatch.setattr(engine._runner, "read", counting_slices(engine._runner.read, read))
    together = engine.step()
    assert [output.request_id for output in together] == ids
    assert read == [1], "what had been launched was not launched again"
    for output in together:
        assert isinstance(output.result, Token)
        tokens.setdefault(output.request_id, []).append(output.result.token_id)
    run(engine, tokens)
    for request_id, request in zip(ids, requests, strict=True):
        assert tokens[request_id] == law.expected(small, request)
    assert 1 in launched
    assert 2 in launched


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["next_step", "pick_plain"])
def test_a_step_that_breaks_while_another_is_under_way_costs_no_token(
    small: Phi3V,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: type[BaseException],
) -> None:
    requests = [asking(30, 12), asking(60, 12)]
    ids = [engine.add(request) for request in requests]
    owner: Any = Decoder if where == "next_step" else ahead
    monkeypatch.setattr(owner, where, breaking_once(getattr(owner, where), error))
    tokens: dict[int, list[int]] = {}
    broken = 0
    while not engine.is_idle:
        try:
            run(engine, tokens)
        except KeyboardInterrupt:
            broken += 1
    assert broken == (error is KeyboardInterrupt)
    for request_id, request in zip(ids, requests, strict=True):
        assert tokens[request_id] == law.expected(small, request)


def counting_slices(real: Callable[..., Any], counted: list[int]) -> Callable[..., Any]:
    def called(slices: list[Any], new_blocks: list[int]) -> Any:
        counted.append(len(slices))
        return real(slices, new_blocks)

    return called


def breaking_once(real: Callable[..., Any], error: type[BaseException]) -> Callable[..., Any]:
    """At the fifth call."""
    calls = 0

    def called(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error("broken")
        return real(*given)

    return called


def test_how_steps_run_is_said_where_there_is_a_choice() -> None:
    assert steps_note(torch.device("cpu"), "cpu runs no Triton kernels") == ""
    assert steps_note(torch.device("cuda"), None) == "steps in fused kernels"
    assert steps_note(torch.device("cuda"), "no compiler") == "no fused kernels: no compiler"
