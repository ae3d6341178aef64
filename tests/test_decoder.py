"""Decode steps of their own against the engine's law, on the CPU without graphs.

`test_gpu` runs the same with kernels and graphs.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import law
import micro
import pytest
import torch

from phisight.engine import engine as engine_module
from phisight.engine import graphs
from phisight.engine.cache import PagedCache
from phisight.engine.graphs import Decoder, sizes_up_to
from phisight.engine.inputs import Row
from phisight.model.phi3v import Phi3V


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


def test_a_stream_is_one_decoder_s_at_a_time_and_then_the_next_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory that cuBLAS keeps for each stays until a program's end."""

    class Owner:
        pass

    made = []
    monkeypatch.setattr(graphs, "_IDLE", {})
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    device, other = torch.device("cuda:0"), torch.device("cuda:1")
    first, second = Owner(), Owner()
    streams = [graphs.idle_stream(first, device), graphs.idle_stream(second, device)]
    assert streams[0] is not streams[1]
    del second
    third, fourth, fifth = Owner(), Owner(), Owner()
    assert graphs.idle_stream(third, device) is streams[1]
    assert graphs.idle_stream(fourth, device) not in streams
    assert graphs.idle_stream(fifth, other) not in streams
    assert made == [device, device, device, other]


@pytest.mark.parametrize("first", range(0, 40, 10))
@pytest.mark.parametrize(("least", "name", "times"), [(1, "read", 20), (32, "step", 50)])
def test_law_on_random_mixes(
    small: Phi3V, first: int, least: int, name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for few rows, most of what is not one token a sequence is read without a graph."""
    used = Counter()
    for method in (Decoder.step, Decoder.next_step, Decoder.read):
        monkeypatch.setattr(Decoder, method.__name__, counting(method, used))
    monkeypatch.setattr(graphs, "LEAST", least)
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: None)
    for seed in range(first, first + 10):
        law.run(small, seed, fused=True)
    assert used[name] > times


@pytest.mark.parametrize("first", range(0, 20, 10))
def test_law_where_steps_are_launched_ahead(
    small: Phi3V, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last one's tokens are read: requests come, end, are cancelled and cross the
    border meanwhile, and blocks run out."""
    used = Counter()
    for owner, name in ((Decoder, "next_step"), (engine_module.Engine, "step")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), used))
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: None)
    totals = [law.run(small, seed, fused=True, plain=True) for seed in range(first, first + 10)]
    assert used["next_step"] > used["step"] / 10
    for name in totals[0]:
        assert sum(seen[name] for seen in totals) > 0, name


def counting(method: Callable[..., Any], used: Counter[str]) -> Callable[..., Any]:
    def counted(*given: Any) -> Any:
        used[method.__name__] += 1
        return method(*given)

    return counted


def test_sizes() -> None:
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(5) == [1, 2, 4, 8]
    assert sizes_up_to(32)[-1] == 32


def test_rows_without_a_sequence_touch_the_spare_block_alone(small: Phi3V) -> None:
    cache = PagedCache(small.config, 4, 8, device=small.device, dtype=small.dtype)
    cache.clear(range(4))
    decoder = Decoder(small, cache, most=4, spare=3)
    for blocks in ([0], [0], [2]):
        step = decoder.step([Row(5, 1, False, blocks)] * 3)
        assert step.told().tolist()[2] == step.logits.argmax(-1).tolist()
        assert step.logits.shape == (3, small.config.vocab_size)
        assert torch.equal(step.logits[0], step.logits[2])
    written = cache.keys.abs().amax((0, 2, 3, 4)) > 0
    assert written.tolist() == [True, False, True, True]
