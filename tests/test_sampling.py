import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from phisight.engine.sampling import Logprobs, Pick, Sampler, masked, penalized, pick
from phisight.errors import CheckpointError, OptionError
from phisight.params import LoadOptions, SamplingParams

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])
DRAWS = 4000


def draw(**options: object) -> Counter[int]:
    """The first tokens of an answer whose logits are always the same."""
    sampler = Sampler(SamplingParams(seed=7, **options))  # type: ignore[arg-type]
    picks = pick(LOGITS.expand(DRAWS, -1), [(sampler, range(place)) for place in range(DRAWS)])
    return Counter(chosen.token_id for chosen in picks if isinstance(chosen, Pick))


def choose(sampler: Sampler, logits: torch.Tensor) -> int:
    """The next token of an answer."""
    (chosen,) = pick(logits[None], [(sampler, ())])
    if isinstance(chosen, Exception):
        raise chosen
    sampler.append(chosen.token_id)
    return chosen.token_id


def logprobs(logits: torch.Tensor, token_id: int, num_top: int) -> Logprobs:
    """How likely an id is said to be, where a bias has it chosen."""
    params = SamplingParams(logprobs=num_top, logit_bias={token_id: 100.0})
    (chosen,) = pick(logits[None], [(Sampler(params), ())])
    assert isinstance(chosen, Pick)
    assert (chosen.token_id, chosen.logprobs is None) == (token_id, False)
    assert chosen.logprobs is not None
    return chosen.logprobs


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


@pytest.mark.parametrize(("top_k", "kept"), [(1, {1}), (2, {1, 2}), (9, {0, 1, 2, 3})])
def test_top_k_keeps_the_likeliest(top_k: int, kept: set[int]) -> None:
    assert set(draw(temperature=1.0, top_k=top_k)) == kept


@pytest.mark.parametrize(("min_p", "kept"), [(1.0, {1}), (0.3, {1, 2}), (0.1, {0, 1, 2})])
def test_min_p_is_measured_against_the_likeliest(min_p: float, kept: set[int]) -> None:
    # Shares of the likeliest: 1, 0.368, 0.135, 0.050 for tokens 1, 2, 0, 3.
    assert set(draw(temperature=1.0, min_p=min_p)) == kept


def test_top_p_counts_what_top_k_left() -> None:
    # Of tokens 1 and 2 alone, 1 has 0.731: enough for 0.7, which it is not of all four.
    assert set(draw(temperature=1.0, top_p=0.7)) == {1, 2}
    assert set(draw(temperature=1.0, top_p=0.7, top_k=2)) == {1}


def test_the_repetition_penalty_counts_prompt_text_and_answer_not_pictures() -> None:
    params = SamplingParams(repetition_penalty=1.5)
    fresh = Sampler(params, [-1, -1, -3])  # image slots would be the ids from the end
    assert choose(fresh, torch.tensor([0.0, 2.0, 1.9, 1.8])) == 1
    assert choose(fresh, torch.tensor([0.0, 2.0, 1.9, 1.8])) == 2, "1 came before"
    assert choose(Sampler(params, [1, 2]), torch.tensor([0.0, 2.0, 1.9, 1.8])) == 3
    negative = torch.tensor([-1.0, -1.2])
    assert choose(Sampler(params, [0]), negative) == 1, "a negative score is made smaller too"


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_is_transformers_rule(penalty: float) -> None:
    scores = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    expected = [1.0 / penalty, -2.0 * penalty, 0.5, 0.0, 3.0]
    assert penalized(scores, {0, 1, 3}, penalty).tolist() == pytest.approx(expected)
    assert scores.tolist() == [1.0, -2.0, 0.5, 0.0, 3.0]


def test_logprobs_name_the_likeliest_first() -> None:
    found = logprobs(LOGITS, 3, 2)
    exact = LOGITS.double().log_softmax(-1).tolist()
    assert found.chosen == pytest.approx(exact[3])
    assert found.top == ((1, pytest.approx(exact[1])), (2, pytest.approx(exact[2])))
    assert logprobs(LOGITS, 0, 0).top == ()
    assert len(logprobs(LOGITS, 0, 20).top) == 4


def test_a_seed_repeats_and_another_does_not() -> None:
    def picks(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed))
        return [choose(sampler, LOGITS) for _ in range(50)]

    assert picks(3) == picks(3)
    assert picks(3) != picks(4)
    assert picks(None) != picks(None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[1.0, math.nan], [1.0, math.inf], [-math.inf, -math.inf]])
def test_a_model_that_computes_nan_or_infinity_is_refused(
    temperature: float, logits: list[float]
) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature))
    with pytest.raises(CheckpointError, match="the model computes NaN or infinity: its weights"):
        choose(sampler, torch.tensor(logits))


def test_a_faulty_row_leaves_its_neighbours() -> None:
    params = SamplingParams(temperature=1.0, seed=1, top_k=1)
    logits = torch.stack([LOGITS, torch.full((4,), math.nan), LOGITS])
    first, faulty, last = pick(logits, [(Sampler(params), ()) for _ in range(3)])
    assert isinstance(faulty, CheckpointError)
    assert first == last == Pick(1)


def test_a_draw_does_not_depend_on_neighbours_or_guesses() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 50, generator=generator)
    options = [
        SamplingParams(temperature=1.0, seed=seed, top_k=[None, 5][seed % 2], logprobs=seed % 3)
        for seed in range(6)
    ]
    alone = [
        pick(row[None], [(Sampler(o), (3, 4))])[0] for row, o in zip(logits, options, strict=True)
    ]
    assert pick(logits, [(Sampler(o), (3, 4)) for o in options]) == alone
    later = Sampler(options[2])
    later.append(3)
    later.append(4)
    assert pick(logits[2:3], [(later, ())]) == alone[2:3]


def test_presence_and_frequency_count_the_answer_alone() -> None:
    logits = torch.tensor([2.0, 1.9, 0.0])
    for options, expected in (
        ({"presence_penalty": 0.2}, [0, 1, 0, 0]),
        ({"frequency_penalty": 0.2}, [0, 1, 0, 1]),
    ):
        sampler = Sampler(SamplingParams(**options), [0, 0, 1])  # type: ignore[arg-type]
        assert [choose(sampler, logits) for _ in range(4)] == expected
    guessed = Sampler(SamplingParams(presence_penalty=0.2))
    assert pick(logits[None], [(guessed, (0,))]) == [Pick(1)]


def test_a_bias_is_added_to_logits() -> None:
    assert choose(Sampler(SamplingParams(logit_bias={3: 3.5})), LOGITS) == 3
    assert choose(Sampler(SamplingParams(logit_bias={1: -2.5})), LOGITS) == 2


def test_only_allowed_tokens_come() -> None:
    """Bits of 32 ids a word, as constrained decoding gives them; told the answer and guesses."""
    told = []

    def allowed(ids: Sequence[int]) -> torch.Tensor:
        told.append(list(ids))
        return torch.tensor([1 << 5 | -(2**31), 1 << 1], dtype=torch.int32)

    assert masked(torch.zeros(40), allowed([])).isfinite().nonzero().flatten().tolist() == [
        5,
        31,
        33,
    ]
    sampler = Sampler(SamplingParams(), (), allowed)
    logits = torch.arange(40.0)
    assert [choose(sampler, logits), choose(sampler, -logits)] == [33, 5]
    assert pick(logits[None], [(sampler, (7,))]) == [Pick(33)]
    assert told == [[], [], [33], [33, 5, 7]]


def test_an_answer_that_cannot_go_on_is_said() -> None:
    never = torch.zeros(1, dtype=torch.int32)
    sampler = Sampler(SamplingParams(), (), lambda ids: never)
    with pytest.raises(
        OptionError, match="no token may come next: logit_bias or the answer's form"
    ):
        choose(sampler, LOGITS)


def test_a_token_that_cannot_come_has_a_logprob_that_json_can_say() -> None:
    logits = torch.tensor([0.0, -math.inf, 0.0])
    assert choose(Sampler(SamplingParams(temperature=1.0, seed=1)), logits) in (0, 2)
    assert logprobs(logits, 0, 3).top[2] == (1, -9999.0)


def test_tiny_and_huge_temperatures_stay_finite() -> None:
    assert draw(temperature=1e-300) == {1: DRAWS}
    assert set(draw(temperature=100.0)) == {0, 1, 2, 3}


def test_a_top_k_beyond_the_vocabulary_keeps_it_whole() -> None:
    assert draw(temperature=1.0, top_k=10**400) == draw(temperature=1.0)


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
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"min_p": 2}, "min_p=2: must be between 0.0 and 1.0"),
        ({"repetition_penalty": 0}, "repetition_penalty=0: must be between 0.1 and 10.0"),
        ({"logprobs": 21}, "logprobs=21: must be between 0 and 20"),
        ({"stop": 5}, "stop=5: expected a string or a list of strings"),
        ({"stop": ["a", None]}, r"stop=\['a', None\]: expected a string or a list"),
        ({"stop": ["a"] * 17}, "stop has 17 strings: must be at most 16"),
        ({"stop": ""}, "stop='': must have between 1 and 256 characters"),
        ({"presence_penalty": 2.1}, "presence_penalty=2.1: must be between -2.0 and 2.0"),
        ({"logit_bias": [5]}, r"logit_bias=\[5\]: expected a mapping of token ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias: 'a' is no token id"),
        ({"logit_bias": {5: 101}}, r"logit_bias\[5\]=101: must be within -100 and 100"),
        ({"ignore_eos": 1}, "ignore_eos=1: expected True or False"),
        ({"seed": -1}, "seed=-1: must be between 0 and 4294967295"),
        ({"max_tokens": "9" * 200}, r"^max_tokens='9{76}\.\.\.: expected int, got str$"),
        ({"ignore_eos": "9" * 200}, r"^ignore_eos='9{76}\.\.\.: expected True or False$"),
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
        ({"dtype": "9" * 200}, r"^dtype='9{76}\.\.\.: expected one of bfloat16, float32$"),
    ],
)
def test_load_options_have_limits(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LoadOptions(**options)  # type: ignore[arg-type]
