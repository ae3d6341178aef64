"""The engine's law: greedy output equals recomputing the whole sequence for every token."""

import random
from collections.abc import Sequence
from pathlib import Path

import law
import micro
import pytest
import torch
from naive import greedy, last_logits

import phisight
from phisight.engine.capacity import CacheShape
from phisight.engine.engine import Engine
from phisight.engine.request import Request, Token
from phisight.model.phi3v import Crops, EncodedImage, Phi3V
from phisight.params import EngineConfig, SamplingParams

SIGN = Path(__file__).parents[1] / "examples" / "sign.png"
TIE = 1e-4  # fp32 tokens may part only where the two likeliest are closer than this


def run(engine: Engine, tokens: dict[int, list[int]] | None = None) -> dict[int, list[int]]:
    """The ids of every request, after those that had come before."""
    tokens = {} if tokens is None else tokens
    while not engine.is_idle:
        for output in engine.step():
            assert isinstance(output.result, Token), output.result
            tokens.setdefault(output.request_id, []).append(output.result.token_id)
        engine.scheduler.check()
    return tokens


def generate(
    model: Phi3V,
    ids: Sequence[int],
    images: Sequence[EncodedImage | Crops],
    max_tokens: int,
    *,
    fused: bool = False,
) -> list[int]:
    engine = Engine(model, EngineConfig(fused=fused))
    request_id = engine.add(Request(ids, images, SamplingParams(max_tokens=max_tokens)))
    return run(engine)[request_id]


def assert_same(got: list[int], expected: list[int], gaps: list[float], tie: float) -> None:
    """Equal up to the first place where the two likeliest are too close to tell."""
    end = next((i for i, gap in enumerate(gaps) if gap < tie), len(expected))
    assert end > 0, "a tie at the first token proves nothing"
    assert got[:end] == expected[:end]


def assert_law(
    model: Phi3V, ids: Sequence[int], images: Sequence[EncodedImage] = (), max_tokens: int = 8
) -> None:
    expected, gaps = greedy(model, ids, images, max_tokens=max_tokens)
    tie = 0.0 if model.dtype == torch.float64 else TIE
    assert_same(generate(model, ids, images, max_tokens), expected, gaps, tie)


@pytest.fixture(scope="module")
def small() -> Phi3V:
    """float64, original maximum 40: exact, and cheap to cross."""
    return law.few_tokens(micro.network(micro.config()))


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_law_exactly_on_random_mixes(small: Phi3V, first: int) -> None:
    totals = [law.run(small, seed) for seed in range(first, first + 10)]
    for name in totals[0]:  # it did happen: preemption, reuse, cancelling, crossing
        assert sum(seen[name] for seen in totals) > 0, name


@pytest.mark.parametrize("length", [1, 39, 40, 41, 300])
def test_law_exactly_at_the_border(small: Phi3V, length: int) -> None:
    ids = random.Random(length).choices(range(256), k=length)
    assert_law(small, ids, max_tokens=12)


def test_law_with_pictures_across_the_short_factors_reach() -> None:
    # Two pictures of one crop each, 313 tokens: original maximum just above the prompt.
    model = micro.network(micro.config(original_max_position_embeddings=640))
    pixels = torch.randn(2, 2, 3, 336, 336, generator=torch.Generator().manual_seed(1)).double()
    crops = [Crops(part, 1, 1, 313, bytes([n])) for n, part in enumerate(pixels)]
    with torch.inference_mode():
        images = model.encode_images(crops)
    ids = [256, *[-1] * 313, 256, 10, *[-2] * 313, 256, 65]
    assert len(ids) < 640 < len(ids) + 12
    expected, _ = greedy(model, ids, images, max_tokens=12)
    engine = Engine(model, EngineConfig(chunk_tokens=100))
    params = SamplingParams(max_tokens=12)
    first = engine.add(Request(ids, crops, params))
    swapped = engine.add(Request(ids, crops[::-1], params))
    both = run(engine)
    assert both[first] == expected
    # The pictures count, each at its own place.
    assert both[swapped] == greedy(model, ids, images[::-1], max_tokens=12)[0] != expected
    assert not torch.allclose(
        last_logits(model, ids, images), last_logits(model, ids, images[::-1])
    )


def test_crossing_changes_the_answer(small: Phi3V) -> None:
    """The law would hold for a model without long factors too; here they matter."""
    short = micro.config_json()["rope_scaling"]["short_factor"]
    scaling = micro.config_json()["rope_scaling"] | {"long_factor": short}
    never = micro.network(micro.config(rope_scaling=scaling))
    ids = list(b"a sentence of thirty-odd tokens, ok.")
    assert generate(small, ids, (), 20) != generate(never, ids, (), 20)


@pytest.mark.parametrize("length", [4094, 4096, 4097])
def test_law_at_4096_on_the_tiny_checkpoint(tiny: Phi3V, length: int) -> None:
    ids = [1, *random.Random(length).choices(range(3, 32000), k=length - 1)]
    assert_law(tiny, ids, max_tokens=4 if length == 4094 else 2)


def test_law_on_mixes_of_the_tiny_checkpoint(tiny: Phi3V) -> None:
    """fp32: eight requests in chunks, some sharing a beginning, in a cache too small for all."""
    rng = random.Random(5)
    opening = [1, *rng.choices(range(3, 32000), k=40)]
    prompts = [
        [*opening[: rng.choice([1, 33, 41])], *rng.choices(range(3, 32000), k=rng.randrange(1, 60))]
        for _ in range(8)
    ]
    shape = CacheShape(20, 16, torch.float32)
    engine = Engine(tiny, EngineConfig(chunk_tokens=24, speculate=3), shape)
    added = [engine.add(Request(ids, (), SamplingParams(max_tokens=8))) for ids in prompts]
    tokens = run(engine)
    for request_id, ids in zip(added, prompts, strict=True):
        assert_same(tokens[request_id], *greedy(tiny, ids, max_tokens=8), TIE)


@pytest.fixture(scope="module")
def nano_exact() -> phisight.Model:
    return phisight.load("nano", dtype="float32")


def test_law_on_nano_to_the_end_of_its_context(nano_exact: phisight.Model) -> None:
    network, ids = nano_exact.network, [256, *random.Random(4095).choices(range(32, 127), k=4093)]
    expected, gaps = greedy(network, ids, max_tokens=8)
    assert len(expected) == 2, "4,094 tokens leave room for two"
    assert_same(generate(network, ids, (), 8), expected, gaps, TIE)


def test_law_on_nano_with_pictures_and_neighbours(nano_exact: phisight.Model) -> None:
    """fp32: the same picture asked about thrice and a text, all at once."""
    network = nano_exact.network
    questions = ["OCR", "OCR", "What does it say?"]
    prompts = [nano_exact.processor.prompt(question, [SIGN]) for question in questions]
    (picture,) = prompts[0].images
    layout = picture.layout  # type: ignore[attr-defined]
    crops = Crops(
        picture.pixels,  # type: ignore[attr-defined]
        layout.rows,
        layout.cols,
        picture.num_tokens,
        picture.key,  # type: ignore[attr-defined]
    )
    with torch.inference_mode():
        images = network.encode_images([crops])
    engine = Engine(network, EngineConfig(chunk_tokens=100))
    params = SamplingParams(max_tokens=10)
    added = [engine.add(Request(prompt.ids, [crops], params)) for prompt in prompts]
    text = nano_exact.processor.prompt("What?").ids
    alone = engine.add(Request(text, (), params))
    tokens = run(engine)
    expected = {
        ids: greedy(network, ids, images, max_tokens=10) for ids in {p.ids for p in prompts}
    }
    for request_id, prompt in zip(added, prompts, strict=True):
        assert_same(tokens[request_id], *expected[prompt.ids], TIE)
    assert_same(tokens[alone], *greedy(network, text, max_tokens=10), TIE)
