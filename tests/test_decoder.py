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
from phisight.engine.graphs import Decoder, Row, sizes_up_to
from phisight.model.phi3v import Phi3V


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


@pytest.mark.parametrize("first", range(0, 40, 10))
@pytest.mark.parametrize(("least", "name", "times"), [(1, "read", 20), (32, "step", 50)])
def test_law_on_random_mixes(
    small: Phi3V, first: int, least: int, name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for few rows, most of what is not one token a sequence is read without a graph."""
    used = Counter()
    for method in (Decoder.step, Decoder.read):
        monkeypatch.setattr(Decoder, method.__name__, counting(method, used))
    monkeypatch.setattr(graphs, "LEAST", least)
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: None)
    for seed in range(first, first + 10):
        law.run(small, seed, fused=True)
    assert used[name] > times


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
        logits, plain = decoder.step([Row(5, 1, False, blocks)] * 3)
        assert plain.tolist()[2] == logits.argmax(-1).tolist()
        assert logits.shape == (3, small.config.vocab_size)
        assert torch.equal(logits[0], logits[2])
    written = cache.keys.abs().amax((0, 2, 3, 4)) > 0
    assert written.tolist() == [True, False, True, True]
