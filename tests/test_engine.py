"""The engine beside the law: who runs when, what is reused, freed and refused."""

import random
from collections.abc import Sequence

import law
import micro
import pytest
import torch

from phisight.engine import capacity
from phisight.engine.cache import PagedCache, Part
from phisight.engine.capacity import CHUNK_CROPS, CacheShape
from phisight.engine.engine import Engine
from phisight.engine.plan import Plan
from phisight.engine.request import FinishReason, Request, StepOutput, Token
from phisight.engine.runner import Runner
from phisight.engine.sampling import Sampler
from phisight.engine.scheduler import Scheduler
from phisight.engine.sequence import Slice
from phisight.errors import BudgetError, DeviceError
from phisight.model.phi3v import Crops, Phi3V
from phisight.params import EngineConfig, SamplingParams


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


def engine_of(model: Phi3V, blocks: int = 200, **options: object) -> Engine:
    config = EngineConfig(**options)  # type: ignore[arg-type]
    return Engine(model, config, CacheShape(blocks, 4, model.dtype))


def asking(ids: Sequence[int], max_tokens: int = 4, images: Sequence[Crops] = ()) -> Request:
    return Request(ids, images, SamplingParams(max_tokens=max_tokens))


def picture(number: int = 0, num_tokens: int = 6, num_crops: int = 5) -> Crops:
    pixels = torch.full((num_crops, 1), float(number))
    return Crops(pixels, 1, num_crops - 1, num_tokens, bytes([number]))


def step(engine: Engine) -> dict[int, list[Token]]:
    """The tokens of one step, by request."""
    tokens: dict[int, list[Token]] = {}
    for output in engine.step():
        assert isinstance(output.result, Token), output.result
        tokens.setdefault(output.request_id, []).append(output.result)
    engine.scheduler.check()
    return tokens


def finish(engine: Engine) -> dict[int, list[Token]]:
    """All tokens of all requests."""
    tokens: dict[int, list[Token]] = {}
    while not engine.is_idle:
        for request_id, more in step(engine).items():
            tokens.setdefault(request_id, []).extend(more)
    return tokens


def answer(engine: Engine, request: Request) -> list[Token]:
    """The tokens of a request added now."""
    request_id = engine.add(request)
    return finish(engine)[request_id]


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.token_id for token in tokens]


def assert_all_free(engine: Engine) -> None:
    engine.scheduler.check()
    assert engine.is_idle
    assert engine.scheduler.pool.num_free == engine.shape.num_blocks
    assert engine.images.num_needed == 0


class Reads:
    """Counts what a runner does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[int] = []  # of prompts, by step
        self.rows: list[int] = []  # of running answers, by step
        self.crops: list[int] = []
        read, encode = Runner.read, Runner.encode

        def counted_read(runner, slices, new_blocks):  # type: ignore[no-untyped-def]
            prompts = [part for part in slices if part.start < part.sequence.num_prompt]
            self.tokens.append(sum(part.count for part in prompts))
            self.rows.append(len(slices) - len(prompts))
            return read(runner, slices, new_blocks)

        def counted_encode(runner, pictures):  # type: ignore[no-untyped-def]
            self.crops.append(sum(len(crops.pixels) for crops in pictures))
            encode(runner, pictures)

        monkeypatch.setattr(Runner, "read", counted_read)
        monkeypatch.setattr(Runner, "encode", counted_encode)


def test_a_plan_that_breaks_off_leaves_nothing_to_be_found(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks have names before anything is written to them."""
    request, engine = asking(list(range(9)) * 4), engine_of(small)
    expected = ids_of(answer(engine_of(small), request))

    def put_and_break(scheduler: Scheduler, plan: Plan, part: Slice) -> None:
        put(scheduler, plan, part)
        raise MemoryError

    put, request_id = Scheduler._put, engine.add(request)
    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "_put", put_and_break)
        with pytest.raises(MemoryError):
            engine.step()
    engine.scheduler.check()
    engine.abort(request_id)
    assert_all_free(engine)
    assert ids_of(answer(engine, request)) == expected


def test_the_context_ends_an_answer(small: Phi3V) -> None:
    engine = Engine(small)
    request_id = engine.add(asking(list(range(200)) * 4 + [1] * 95, 50))
    tokens = finish(engine)[request_id]
    assert len(tokens) == 5, "895 + 5 tokens fill the context of 900"
    assert tokens[-1].finish == FinishReason.LENGTH


def test_a_prompt_that_leaves_no_room_is_refused(small: Phi3V) -> None:
    with pytest.raises(BudgetError, match="900 tokens and the model's context is 900: use fewer"):
        Engine(small).add(Request([1] * 900))


def test_a_request_that_can_never_be_held_is_refused_at_once(small: Phi3V) -> None:
    engine = engine_of(small, blocks=10)
    with pytest.raises(BudgetError) as caught:
        engine.add(asking([1] * 30, 11))
    assert str(caught.value) == (
        "a prompt of 30 tokens and an answer of up to 11 take 0.00 GiB of cache, and on cpu it has "
        "0.00 GiB: use fewer pictures, fewer crops (num_crops), a smaller max_tokens, or a larger "
        "kv_memory"
    )
    request_id = engine.add(asking([1] * 30, 10))
    assert len(finish(engine)[request_id]) == 10


def test_kv_memory_is_what_the_cache_takes(small: Phi3V) -> None:
    engine = Engine(small, EngineConfig(kv_memory=2**-10))
    assert engine.images.num_needed == 0
    taken = engine.shape.num_tokens * engine.bytes_per_token
    assert 0.9 * 2**20 < taken <= 2**20
    with pytest.raises(BudgetError, match=r"no memory on cpu for a cache: 32 tokens take 0 MiB"):
        Engine(small, EngineConfig(kv_memory=0.0))


def test_float8_is_for_devices_that_have_it(small: Phi3V) -> None:
    with pytest.raises(DeviceError, match="kv_dtype='fp8': cpu does not compute in float8"):
        Engine(small, EngineConfig(kv_dtype="fp8"))


def test_a_float8_cache_is_near_the_exact_one() -> None:
    config = micro.config()
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 9, 3, 16, generator=generator)
    mixed = []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        cache = PagedCache(config, 4, 4, device=torch.device("cpu"), dtype=dtype)
        cache.clear([0, 2, 3])
        for stored, length in ((0, 5), (5, 3), (8, 1)):  # whole, in part, one token
            attend = cache.attention([Part([3, 0, 2], stored, length)])
            part = slice(stored, stored + length)
            for layer in range(config.num_layers):
                last = attend(q[part], k[part], v[part], layer)
        mixed.append(last)
    # Three bits of mantissa: 6 % of each value, and less of their mean.
    assert 0 < (mixed[0] - mixed[1]).abs().max() < 0.06 * mixed[0].abs().max()


def test_a_stop_id_ends_an_answer_unless_ignored(small: Phi3V) -> None:
    engine = engine_of(small)
    free = ids_of(answer(engine, asking([5, 6, 7], 10)))
    stop = next(token for token in free if free.index(token) >= 2)
    for ignored in (False, True):
        params = SamplingParams(max_tokens=10, ignore_eos=ignored)
        request_id = engine.add(Request([5, 6, 7], (), params, frozenset({stop})))
        tokens = finish(engine)[request_id]
        assert ids_of(tokens) == (free if ignored else free[: free.index(stop) + 1])
        assert tokens[-1].finish == (FinishReason.LENGTH if ignored else FinishReason.STOP)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_the_same_answer_alone_and_beside_seven_neighbours(
    small: Phi3V, temperature: float
) -> None:
    rng = random.Random(3)
    params = SamplingParams(max_tokens=20, temperature=temperature, seed=11)
    requests = [
        Request(rng.choices(range(256), k=rng.randrange(5, 45)), (), params) for _ in range(8)
    ]
    alone = []
    for request in requests:
        engine = engine_of(small)
        alone.append(ids_of(answer(engine, request)))
    together = engine_of(small, chunk_tokens=7)
    added = [together.add(request) for request in requests]
    tokens = finish(together)
    assert [ids_of(tokens[request_id]) for request_id in added] == alone
    assert len({tuple(ids) for ids in alone}) == 8


def test_requests_join_and_leave_at_any_step(small: Phi3V) -> None:
    engine = engine_of(small)
    first = engine.add(asking([1, 2, 3], 6))
    assert step(engine).keys() == {first}
    second = engine.add(asking([4, 5], 2))
    assert step(engine).keys() == step(engine).keys() == {first, second}
    assert step(engine).keys() == {first}
    engine.abort(first)
    engine.abort(12345)
    assert engine.step() == []
    assert_all_free(engine)


def test_a_running_stream_waits_for_one_chunk_at_most(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an 8-picture prompt the stream gets a token in every step, each of bounded work."""
    engine = engine_of(small, chunk_tokens=16)
    stream = engine.add(asking([1, 2, 3], 30))
    step(engine)
    reads = Reads(monkeypatch)
    pictures = [picture(number, num_tokens=20, num_crops=9) for number in range(8)]
    ids = [slot for number in range(1, 9) for slot in [-number] * 20]
    engine.add(asking([*ids, 7], 1, pictures))
    steps = 0
    while sum(reads.tokens) < 161:
        assert len(step(engine)[stream]) == 1, "a token in every step"
        steps += 1
    assert steps >= 161 // 16
    assert max(reads.tokens) <= 16
    assert max(reads.crops) <= CHUNK_CROPS
    assert sum(reads.crops) == 72, "each picture once"


def test_a_prompt_is_read_in_larger_pieces_where_nobody_waits(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "alone_tokens", lambda config, device: 32)
    engine = engine_of(small, chunk_tokens=16)
    reads = Reads(monkeypatch)
    engine.add(asking([3] * 38, 2))
    step(engine)
    step(engine)
    assert reads.tokens == [32, 6]
    engine.add(asking([4] * 38, 2))
    step(engine)
    assert reads.tokens[2:] == [16]


def test_crossing_the_short_factors_reach_holds_nobody_up(small: Phi3V) -> None:
    engine = engine_of(small, chunk_tokens=8)
    stream, crossing = engine.add(asking([1, 2, 3], 30)), engine.add(asking([9] * 38, 6))
    gaps, since = [], 0
    while not engine.is_idle:
        tokens = step(engine)
        if stream in tokens or not engine.scheduler.running:
            assert stream in tokens
        since = 0 if crossing in tokens else since + 1
        gaps.append(since)
    assert max(gaps) >= 41 // 8 - 1, "it was read again, in chunks, while the stream went on"


def test_the_regime_is_that_of_the_whole_prompt_from_its_first_chunk(small: Phi3V) -> None:
    engine = engine_of(small, chunk_tokens=8)
    engine.add(asking([3] * 60))
    step(engine)
    (sequence,) = engine.scheduler.running
    assert (sequence.num_read, sequence.is_long) == (8, True)


def test_a_second_question_pays_for_the_picture_no_more(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small)
    shown = picture(num_tokens=400, num_crops=17)
    prompt = [1, 2, *[-1] * 400, 1]
    answer(engine, asking([*prompt, 5, 6, 7], 2, [shown]))
    reads = Reads(monkeypatch)
    request_id = engine.add(asking([*prompt, 8, 9], 2, [shown]))
    (first, _) = finish(engine)[request_id]
    assert first.cached_tokens == 402, "all up to the picture's end, within a block"
    assert sum(reads.tokens) == 3, "the question"
    assert sum(reads.crops) == 0


def test_what_comes_after_the_picture_is_not_taken_for_the_same(small: Phi3V) -> None:
    """The last block up to the picture's end is shared, whatever fills it up."""
    shown = [picture(1), picture(2)]
    prompt = [1, 2, *[-1] * 6, 3, *[-2] * 6]
    questions = [asking([*prompt, *rest], 4, shown) for rest in ([7], [8, 9], [6, 7, 7, 7, 7])]
    questions.append(asking([*prompt, 7], 4, shown[::-1]))
    questions.append(asking([1, 3, *prompt[2:], 7], 4, shown))
    engine = engine_of(small)
    shared = []
    for request in questions:
        tokens = answer(engine, request)
        shared.append(tokens[0].cached_tokens)
        assert ids_of(tokens) == ids_of(answer(engine_of(small), request))
    assert shared == [0, 15, 15, 0, 0]


def test_an_evicted_prefix_still_finds_its_picture_encoded(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small, prefix_cache=False)
    reads = Reads(monkeypatch)
    for _ in range(2):
        answer(engine, asking([*[-1] * 6, 1], 1, [picture()]))
    assert sum(reads.crops) == 5
    forgetful = engine_of(small, prefix_cache=False, image_memory=0.0)
    for _ in range(2):
        answer(forgetful, asking([*[-1] * 6, 1], 1, [picture()]))
    assert sum(reads.crops) == 15


def test_samples_share_one_reading_of_their_prompt(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small, chunk_tokens=10)
    reads = Reads(monkeypatch)
    prompt = [*random.Random(1).choices(range(256), k=24), *[-1] * 6, 4]
    for seed in range(5):
        params = SamplingParams(max_tokens=6, temperature=1.5, seed=seed)
        engine.add(Request(prompt, [picture()], params))
    answers = finish(engine)
    assert len({tuple(ids_of(tokens)) for tokens in answers.values()}) > 1
    assert sum(reads.tokens) == 31 + 4 * 3, "all of it once, and what is no whole block"
    assert sum(reads.crops) == 5


def test_crops_of_several_requests_are_encoded_together(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small)
    reads = Reads(monkeypatch)
    for number in range(3):
        engine.add(asking([*[-1] * 6, 1], 1, [picture(number)]))
    finish(engine)
    assert reads.crops[0] == 15


@pytest.mark.parametrize("where", ["queue", "vision", "prefill", "decode"])
def test_cancelling_frees_within_a_step(
    small: Phi3V, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small, max_batch=1, chunk_tokens=8)
    if where == "queue":
        before = engine.add(asking([1]))
    pictures = [picture(0, 6, 17), picture(1, 6, 17)]
    request_id = engine.add(asking([*[-1] * 6, *[-2] * 6, *[6] * 20], 20, pictures))
    for _ in range({"queue": 1, "vision": 1, "prefill": 3, "decode": 8}[where]):
        step(engine)
    encoded = [crops.key in engine.images for crops in pictures]
    assert encoded == {"queue": [False, False], "vision": [True, False]}.get(where, [True, True])
    engine.abort(request_id)
    if where == "queue":
        engine.abort(before)
    assert_all_free(engine)
    assert engine.step() == []


def test_no_memory_for_one_request_leaves_the_others(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose fault a broken step is shows when each is tried alone."""
    engine = engine_of(small)
    expected = ids_of(answer(engine, asking([7, 8], 5)))
    read = Runner.read

    def short(runner, slices, new_blocks):  # type: ignore[no-untyped-def]
        if any(part.sequence.ids[0] == 99 for part in slices):
            raise RuntimeError("DefaultCPUAllocator: not enough memory at 0xdeadbeef")
        return read(runner, slices, new_blocks)

    monkeypatch.setattr(Runner, "read", short)
    before = engine.add(asking([7, 8], 5))
    step(engine)
    greedy, after = engine.add(asking([99] * 50)), engine.add(asking([7, 8], 5))
    outputs: dict[int, list[StepOutput]] = {}
    while not engine.is_idle:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.scheduler.check()
    (failure,) = outputs[greedy]
    assert isinstance(failure.result, BudgetError)
    assert str(failure.result) == (
        "no memory on cpu for 50 tokens: use fewer pictures, fewer crops (num_crops), or a smaller "
        "kv_memory or chunk_tokens"
    )
    for request_id in (before, after):
        got = [output.result.token_id for output in outputs[request_id]]  # type: ignore[union-attr]
        assert expected[-len(got) :] == got
    assert_all_free(engine)


def test_a_crash_in_one_request_reaches_its_owner_alone(small: Phi3V) -> None:
    def broken(ids: Sequence[int]) -> torch.Tensor:
        raise ZeroDivisionError

    engine = engine_of(small)
    params = SamplingParams(max_tokens=3)
    faulty = engine.add(Request([1], params=params, allowed_tokens=broken))
    fine = engine.add(Request([2], params=params))
    outputs: dict[int, list[StepOutput]] = {}
    while not engine.is_idle:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    assert [type(output.result) for output in outputs[faulty]] == [ZeroDivisionError]
    assert len(outputs[fine]) == 3


def test_an_interrupt_leaves_everything_to_go_on(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small)
    expected = answer(engine, asking([4, 5, 6, 7, 8], 6))
    request_id = engine.add(asking([4, 5, 6, 7, 8], 6))
    tokens = step(engine)[request_id]

    def interrupted(self: Sampler, logits: torch.Tensor, guesses: Sequence[int]) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "changed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    engine.scheduler.check()
    tokens += finish(engine)[request_id]
    assert ids_of(tokens) == ids_of(expected)


def test_guesses_that_come_true_save_steps(small: Phi3V, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that repeats itself: with guesses the same tokens in fewer steps."""
    steps, answers = [], []
    for speculate in (0, 5):
        engine = engine_of(small, speculate=speculate)
        reads = Reads(monkeypatch)
        params = SamplingParams(max_tokens=24, logit_bias={65: 100.0})
        answers.append(ids_of(answer(engine, Request([1, 2, 3], (), params))))
        steps.append(len(reads.rows))
    assert answers[0] == answers[1] == [65] * 24
    assert steps[0] == 24
    assert steps[1] <= 8


def test_times_add_up(small: Phi3V, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        return now[0]

    def slow(seconds: float, call):  # type: ignore[no-untyped-def]
        def run(*given):  # type: ignore[no-untyped-def]
            now[0] += seconds
            return call(*given)

        return run

    monkeypatch.setattr("phisight.engine.engine.time.perf_counter", clock)
    monkeypatch.setattr(Runner, "encode", slow(3.0, Runner.encode))
    monkeypatch.setattr(Runner, "read", slow(2.0, Runner.read))
    engine = engine_of(small, max_batch=1)
    engine.add(asking([1], 1))
    engine.add(asking([*[-1] * 6, 2], 3, [picture()]))
    first, *_, last = [token for tokens in finish(engine).values() for token in tokens]
    assert (first.times.queue, first.times.prefill, first.times.decode) == (0.0, 2.0, 0.0)
    times = last.times
    assert (times.queue, times.vision, times.prefill, times.decode) == (2.0, 3.0, 2.0, 4.0)
