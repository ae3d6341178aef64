"""The same laws on a CUDA device; run by hand with `pytest -m gpu`."""

import gc
import random
from pathlib import Path

import law
import micro
import numpy as np
import pytest
import torch
from naive import greedy, last_logits
from test_engine_law import generate
from test_model import NAMES, encode, golden

import phisight
from phisight.config import read_model_config
from phisight.engine import graphs
from phisight.errors import BudgetError
from phisight.model.phi3v import Phi3V
from phisight.model.weights import load_model

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
BF16_TIE = 0.25  # two bfloat16 steps at logits of 8 to 16: closer ones may be picked either way


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> Phi3V:
    config = read_model_config(tiny_folder)
    return load_model(tiny_folder, config, device=CUDA, dtype=torch.float32)


@pytest.fixture(scope="module")
def half(tiny_folder: Path) -> Phi3V:
    config = read_model_config(tiny_folder)
    return load_model(tiny_folder, config, device=CUDA, dtype=torch.bfloat16)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_official_logits_and_tokens(
    exact: Phi3V, tiny_folder: Path, name: str, fused: bool
) -> None:
    prompts, arrays = golden(tiny_folder, name)
    expected = arrays.get("nocache_tokens", arrays["tokens"])
    for row, prompt in enumerate(prompts):
        images = encode(exact, prompt)
        logits = last_logits(exact, prompt.ids, images).cpu().numpy()
        reference = arrays["logits"][row]
        assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-4
        assert generate(exact, prompt.ids, images, 32, fused=fused) == expected[row].tolist()


@pytest.mark.parametrize("name", ["landscape_nc4", "chat_nc4", "landscape_nc16"])
def test_bfloat16_is_as_close_as_on_the_cpu(half: Phi3V, tiny_folder: Path, name: str) -> None:
    (prompt,), arrays = golden(tiny_folder, name)
    logits = last_logits(half, prompt.ids, encode(half, prompt)).cpu().numpy()
    assert np.abs(logits - arrays["logits"][0]).mean() <= 0.09


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("length", [1, 600, 4090, 4095, 4096, 4097])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_law(exact: Phi3V, half: Phi3V, length: int, dtype: str, fused: bool) -> None:
    model, tie = (exact, 1e-4) if dtype == "float32" else (half, BF16_TIE)
    ids = [1, *random.Random(length).choices(range(3, 32000), k=length - 1)]
    expected, gaps = greedy(model, ids, max_tokens=12)
    got = generate(model, ids, (), 12, fused=fused)
    parted = next((i for i in range(12) if got[i] != expected[i]), None)
    assert parted is None or gaps[parted] < tie, (parted, gaps)


@pytest.mark.parametrize("fused", [False, True])
def test_nano_reads_the_book_on_cuda(fused: bool) -> None:
    model = phisight.load(fused=fused)
    assert (model._loop._engine._runner._decoder is None) == (not fused)
    assert model.placement.device.type == "cuda"
    assert "a CUDA device is there" in str(model.placement)
    book = Path(__file__).parents[1] / "examples" / "book.png"
    text = model.ask("Help me get the title and author information of this book?", [book]).text
    assert text == 'The title of the book is "ALONE" and the author is Morgan Maxwell.'


def test_a_cache_too_small_is_said_before_it_is_asked_for() -> None:
    model = phisight.load(kv_memory=0.01)
    with pytest.raises(BudgetError, match=r"GiB of cache, and on cuda:0 it has 0.01 GiB: use few"):
        model.ask("x" * 3900)
    assert model.ask("Hi", max_tokens=2).usage.completion_tokens <= 2


def test_no_memory_in_a_step_is_a_clear_error_and_the_model_lives_on() -> None:
    model = phisight.load()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    held = _all_that_is_left()  # in segments that other tests' tensors keep
    try:
        with pytest.raises(BudgetError, match=r"no memory on cuda:0 for 39\d\d tokens: use fewer"):
            model.ask("x" * 3900, max_tokens=100)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    del held
    assert model.ask("Hi", max_tokens=2).usage.completion_tokens <= 2


def _all_that_is_left() -> list[torch.Tensor]:
    held = []
    for size in (2**24, 2**22, 2**20, 2**18):
        try:
            while True:
                held.append(torch.empty(size, dtype=torch.uint8, device=CUDA))
        except torch.OutOfMemoryError:
            pass
    return held


@pytest.mark.parametrize(("fused", "least"), [(False, 32), (True, 32), (True, 1)])
@pytest.mark.parametrize("first", [0, 20])
def test_law_exactly_on_random_mixes(
    first: int, fused: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for few rows, most of a prompt is read without a graph."""
    monkeypatch.setattr(graphs, "LEAST", least)
    model = law.few_tokens(micro.network(micro.config()).cuda())
    for seed in range(first, first + 20):
        law.run(model, seed, fused=fused)


def test_a_float8_cache_answers() -> None:
    """On trained weights three bits of mantissa keep what the book says."""
    book = Path(__file__).parents[1] / "examples" / "book.png"
    question = "Help me get the title and author information of this book?"
    exact, stored = (phisight.load(kv_dtype=dtype) for dtype in (None, "fp8"))
    assert stored.cost("Hi").token_bytes * 2 == exact.cost("Hi").token_bytes
    assert stored.ask(question, [book]).text == exact.ask(question, [book]).text
