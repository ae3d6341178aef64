"""The engine's law: greedy output equals recomputing the whole sequence for every token."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import micro
import pytest
import torch
from naive import greedy, last_logits

import phisight
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.engine.request import FinishReason, Request, Token
from phisight.engine.sampling import Sampler
from phisight.errors import BudgetError
from phisight.model.phi3v import EncodedImage, Phi3V
from phisight.params import SamplingParams

SIGN = Path(__file__).parents[1] / "examples" / "sign.png"
TIE = 1e-4  # fp32 tokens may part only where the two likeliest are closer than this


def run(engine: Engine) -> dict[int, list[Token]]:
    """The tokens of every request."""
    tokens: dict[int, list[Token]] = {}
    while step := engine.step():
        for output in step:
            assert isinstance(output.result, Token), output.result
            tokens.setdefault(output.request_id, []).append(output.result)
    return tokens


def generate(
    model: Phi3V, ids: Sequence[int], images: Sequence[EncodedImage], max_tokens: int
) -> list[int]:
    engine = Engine(model)
    request_id = engine.add(Request(ids, images, SamplingParams(max_tokens=max_tokens)))
    return [token.token_id for token in run(engine)[request_id]]


def assert_law(
    model: Phi3V, ids: Sequence[int], images: Sequence[EncodedImage] = (), max_tokens: int = 8
) -> None:
    expected, gaps = greedy(model, ids, images, max_tokens=max_tokens)
    got = generate(model, ids, images, max_tokens)
    if model.dtype != torch.float64:
        ties = [i for i, gap in enumerate(gaps) if gap < TIE]
        end = ties[0] if ties else len(expected)
        assert end > 0, "a tie at the first token proves nothing"
        expected, got = expected[:end], got[:end]
    assert got == expected


@pytest.fixture(scope="module")
def small() -> Phi3V:
    """float64, original maximum 40: exact, and cheap to cross."""
    return micro.network(micro.config())


@pytest.mark.parametrize("seed", range(12))
def test_law_exactly_in_float64(small: Phi3V, seed: int) -> None:
    generator = random.Random(seed)
    length = [1, 39, 40, 41, 300][seed] if seed < 5 else generator.randrange(1, 60)
    ids = generator.choices(range(256), k=length)
    assert_law(small, ids, max_tokens=generator.randrange(1, 30))


def test_law_with_pictures_across_the_short_factors_reach() -> None:
    # Two pictures of one crop each, 313 tokens: original maximum just above the prompt.
    model = micro.network(micro.config(original_max_position_embeddings=640))
    crops = torch.randn(2, 2, 3, 336, 336, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        images = [model.encode_image(part, 1, 1) for part in crops]
    ids = [256, *[-1] * 313, 256, 10, *[-2] * 313, 256, 65]
    assert len(ids) < 640 < len(ids) + 12
    assert_law(model, ids, images, max_tokens=12)
    # The pictures count, each at its own place.
    logits = last_logits(model, ids, images)
    assert not torch.allclose(logits, last_logits(model, ids, images[::-1]))


def test_crossing_changes_the_answer(small: Phi3V) -> None:
    """The law would hold for a model without long factors too; here they matter."""
    short = micro.config_json()["rope_scaling"]["short_factor"]
    scaling = micro.config_json()["rope_scaling"] | {"long_factor": short}
    never = micro.network(micro.config(rope_scaling=scaling))
    ids = list(b"a sentence of thirty-odd tokens, ok.")
    assert generate(small, ids, (), 20) != generate(never, ids, (), 20)


@pytest.mark.parametrize("length", [4093, 4095, 4096, 4097])
def test_law_at_4096_on_the_tiny_checkpoint(tiny: Phi3V, length: int) -> None:
    ids = [1, *random.Random(length).choices(range(3, 32000), k=length - 1)]
    assert_law(tiny, ids, max_tokens=6 if length == 4093 else 3)


@pytest.fixture(scope="module")
def nano_exact() -> phisight.Model:
    return phisight.load("nano", dtype="float32")


@pytest.mark.parametrize("length", [4093, 4095])
def test_law_on_nano_to_the_end_of_its_context(nano_exact: phisight.Model, length: int) -> None:
    ids = [256, *random.Random(length).choices(range(32, 127), k=length - 1)]
    assert len(generate(nano_exact.network, ids, (), 8)) == 4096 - length
    assert_law(nano_exact.network, ids, max_tokens=8)


def test_law_on_nano_with_a_picture(nano_exact: phisight.Model) -> None:
    model = nano_exact
    prompt = model.processor.prompt("OCR", [SIGN])
    layout = prompt.images[0].layout
    with torch.inference_mode():
        image = model.network.encode_image(prompt.images[0].pixels, layout.rows, layout.cols)
    assert_law(model.network, prompt.ids, [image], max_tokens=12)


def test_the_context_ends_an_answer(small: Phi3V) -> None:
    engine = Engine(small)
    request = Request(list(range(200)) * 4 + [1] * 95, params=SamplingParams(max_tokens=50))
    request_id = engine.add(request)
    outputs = run(engine)[request_id]
    assert len(outputs) == 5, "895 + 5 tokens fill the context of 900"
    assert outputs[-1].finish == FinishReason.LENGTH


def test_a_prompt_that_leaves_no_room_is_refused(small: Phi3V) -> None:
    with pytest.raises(BudgetError, match="900 tokens and the model's context is 900: use fewer"):
        Engine(small).add(Request([1] * 900))


def test_a_stop_id_ends_an_answer(small: Phi3V) -> None:
    ids = [5, 6, 7]
    free = generate(small, ids, (), 10)
    stop = next(token for token in free if free.index(token) >= 2)
    engine = Engine(small)
    request_id = engine.add(Request(ids, (), SamplingParams(max_tokens=10), frozenset({stop})))
    outputs = run(engine)[request_id]
    assert [output.token_id for output in outputs] == free[: free.index(stop) + 1]
    assert outputs[-1].finish == FinishReason.STOP
    assert min(outputs[-1].times.prefill, outputs[-1].times.decode) > 0


def test_requests_run_in_order_and_abort_frees_the_turn(small: Phi3V) -> None:
    engine = Engine(small)
    first, second, third = (engine.add(Request([i, 2, 3])) for i in range(3))
    assert [output.request_id for output in engine.step() + engine.step()] == [first, first]
    engine.abort(second)
    engine.abort(first)
    engine.abort(12345)
    assert {output.request_id for output in engine.step()} == {third}
    engine.abort(third)
    assert engine.step() == []


def test_no_memory_for_one_request_leaves_the_others(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = EngineLoop(Engine(small))
    params = SamplingParams(max_tokens=2)
    refused, served = (
        loop.submit(Request([1] * 500, params=params)),
        loop.submit(Request([1], params=params)),
    )
    zeros = torch.Tensor.new_zeros

    def no_room(self: torch.Tensor, *shape: int) -> torch.Tensor:
        if shape[2] > 100:
            raise RuntimeError("DefaultCPUAllocator: not enough memory at 0xdeadbeef")
        return zeros(self, *shape)

    monkeypatch.setattr(torch.Tensor, "new_zeros", no_room)
    assert loop.next_token(served) is not None
    with pytest.raises(
        BudgetError,
        match=r"no memory on cpu for 500 tokens, whose cache takes 0.00 GiB: use",
    ) as caught:
        loop.next_token(refused)
    assert "0x" not in str(caught.value)
    assert loop.next_token(refused) is None


def test_a_crash_in_one_request_reaches_its_owner_alone(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = EngineLoop(Engine(small))
    params = SamplingParams(max_tokens=1)
    broken, after = (
        loop.submit(Request([1], params=params)),
        loop.submit(Request([2], params=params)),
    )
    pick, failures = Sampler.pick, iter([1])

    def fail_once(self: Sampler, logits: torch.Tensor) -> int:
        return pick(self, logits) if next(failures, 0) == 0 else 1 // 0

    monkeypatch.setattr(Sampler, "pick", fail_once)
    assert loop.next_token(after) is not None
    with pytest.raises(ZeroDivisionError):
        loop.next_token(broken)
    assert loop.next_token(broken) is None


def test_an_interrupt_leaves_the_request_to_go_on(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(small, [4, 5, 6], (), 6)
    loop = EngineLoop(Engine(small))
    request_id = loop.submit(Request([4, 5, 6], params=SamplingParams(max_tokens=6)))
    tokens = [loop.next_token(request_id)]
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "pick", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.next_token(request_id)
    while (output := loop.next_token(request_id)) is not None:
        tokens.append(output)
    assert [output.token_id for output in tokens if output is not None] == expected


def _interrupt(self: Sampler, logits: torch.Tensor) -> int:
    raise KeyboardInterrupt


def test_timings_leave_the_callers_pauses_out(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("phisight.engine.engine.time.perf_counter", lambda: float(next(clock)))
    engine = Engine(small)
    engine.add(Request([1], params=SamplingParams(max_tokens=3)))  # tick 0
    for _ in range(2):
        engine.step()  # ticks 1, 2 and 13, 14
        for _ in range(10):
            next(clock)
    (last,) = engine.step()  # ticks 25, 26
    assert isinstance(last.result, Token)
    times = last.result.times
    assert (times.queue, times.prefill, times.decode) == (1, 1, 2)


def test_threads_take_turns(small: Phi3V) -> None:
    loop = EngineLoop(Engine(small))
    prompts = [[i, i + 1, i + 2] for i in range(6)]
    expected = [generate(small, ids, (), 15) for ids in prompts]
    answers: dict[int, list[int]] = {}

    def work(i: int) -> None:
        request_id = loop.submit(Request(prompts[i], params=SamplingParams(max_tokens=15)))
        tokens: list[int] = []
        while (output := loop.next_token(request_id)) is not None:
            tokens.append(output.token_id)
        answers[i] = tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answers[i] for i in range(6)] == expected
