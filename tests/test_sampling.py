import math
from collections import Counter

import pytest
import torch

from phisight.engine.sampling import Sampler
from phisight.errors import CheckpointError, OptionError
from phisight.params import LoadOptions, SamplingParams

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])
DRAWS = 4000


def draw(**options: object) -> Counter[int]:
    sampler = Sampler(SamplingParams(seed=7, **options))  # type: ignore[arg-type]
    return Counter(sampler.pick(LOGITS) for _ in range(DRAWS))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw() == {1: DRAWS}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(-1)
    counts = draw(temperature=temperature)
    for token, probability in enumerate(expected.tolist()):
        spread = 4 * math.sqrt(DRAWS * probability * (1 - probability))  # four standard deviations
        assert abs(counts[token] - DRAWS * probability) < spread


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, {1}), (0.6, {1}), (0.7, {1, 2}), (0.9, {0, 1, 2})]
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, kept: set[int]) -> None:
    # Probabilities 0.644, 0.237, 0.087, 0.032 for tokens 1, 2, 0, 3.
    assert set(draw(temperature=1.0, top_p=top_p)) == kept


def test_a_seed_repeats_and_another_does_not() -> None:
    def picks(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        return [sampler.pick(LOGITS) for _ in range(50)]

    assert picks(3) == picks(3)
    assert picks(3) != picks(4)
    assert picks(None) != picks(None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_computes_nan_is_refused(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature))
    with pytest.raises(CheckpointError, match="the model computes NaN"):
        sampler.pick(torch.tensor([1.0, float("nan")]))


def test_tiny_and_huge_temperatures_stay_finite() -> None:
    assert draw(temperature=1e-300) == {1: DRAWS}
    assert set(draw(temperature=100.0)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0: must be at least 1"),
        ({"max_tokens": 1.5}, "max_tokens=1.5: expected int, got float"),
        ({"max_tokens": True}, "max_tokens=True: expected int, got bool"),
        ({"temperature": -0.1}, r"temperature=-0.1: must be between 0.0 and 100.0"),
        ({"temperature": float("nan")}, "temperature=nan: must be between"),
        ({"top_p": 1.1}, "top_p=1.1: must be between 0.0 and 1.0"),
        ({"top_p": "high"}, "top_p='high': expected float, got str"),
        ({"seed": -1}, "seed=-1: must be between 0 and 4294967295"),
    ],
)
def test_sampling_options_have_limits(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SamplingParams(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8': expected one of bfloat16, float32"),
        ({"num_crops": 0}, "num_crops=0: must be between 1 and 64"),
        ({"device": 3}, "device=3: expected str"),
    ],
)
def test_load_options_have_limits(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LoadOptions(**options)  # type: ignore[arg-type]
