"""The engine's law with a cache on disk: cold, warm, damaged, shared; and what it spares."""

import json
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import law
import micro
import pytest
import torch
from test_cli import phi

import phisight
from phisight.engine.cache import PagedCache
from phisight.engine.capacity import CacheShape
from phisight.engine.engine import Engine
from phisight.engine.request import Request, Token
from phisight.engine.runner import Runner
from phisight.errors import PhisightWarning
from phisight.model.identity import identity_of
from phisight.model.phi3v import Crops, EncodedImage, Phi3V
from phisight.params import EngineConfig, SamplingParams

SIGN = Path(__file__).parents[1] / "examples" / "sign.png"
CHART = Path(__file__).parents[1] / "examples" / "chart.png"


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


def damage(folder: Path, rng: random.Random) -> int:
    """Hurt half of the files, each in one of the ways in which files are hurt; how many."""
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
    hurt = rng.sample(list(whole), len(whole) // 2)
    for path in hurt:
        data = bytearray(whole[path])
        way = rng.randrange(4)
        if way == 0:
            path.write_bytes(data[: rng.randrange(len(data))])
        elif way == 1:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        elif way == 2:
            path.write_bytes(rng.choice(list(whole.values())))
        else:
            path.unlink()
    return len(hurt)


@pytest.mark.filterwarnings("ignore:cache_dir .* is not used, and removed:UserWarning")
@pytest.mark.parametrize("seeds", [(3, 4), (5, 9), (10, 11)])  # mixes in which pictures come again
def test_law_exactly_on_random_mixes(small: Phi3V, seeds: tuple[int, int], tmp_path: Path) -> None:
    cold, warm, hurt = 0, 0, 0
    for seed in seeds:
        folder, known = tmp_path / str(seed), {}
        cold += law.run(small, seed, cache_dir=folder, known=known)["shared"]
        warm += law.run(small, seed, cache_dir=folder, known=known)["shared"]
        hurt += damage(folder, random.Random(seed))
        law.run(small, seed, cache_dir=folder, known=known)
    assert warm > cold
    assert hurt > 0


def test_law_exactly_while_two_engines_share_a_folder(small: Phi3V, tmp_path: Path) -> None:
    """The same mix by two threads at once, over one folder."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            law.run(small, seed, cache_dir=tmp_path / str(seed))
        except BaseException as failure:
            failures.append(failure)

    for seed in (4, 17):
        both = [threading.Thread(target=work, args=(seed,)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert not failures


def engine_of(model: Phi3V, folder: Path, identity: bytes = b"small", **options: object) -> Engine:
    config = EngineConfig(cache_dir=str(folder), **options)  # type: ignore[arg-type]
    return Engine(model, config, CacheShape(100, 4, model.dtype), identity=identity)


def picture(number: int = 0, num_tokens: int = 6) -> Crops:
    return Crops(torch.full((5, 1), float(number)), 1, 4, num_tokens, bytes([number]))


def asking(rest: Sequence[int], images: Sequence[Crops | EncodedImage]) -> Request:
    ids = [1, 2]
    for number, image in enumerate(images, start=1):
        ids += [-number] * image.num_tokens
    return Request([*ids, *rest], images, SamplingParams(max_tokens=3))


def answer(engine: Engine, request: Request) -> list[Token]:
    engine.add(request)
    tokens = []
    while not engine.is_idle:
        for output in engine.step():
            assert isinstance(output.result, Token), output.result
            tokens.append(output.result)
        engine.scheduler.check()
    engine.kept.wait()
    return tokens


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.token_id for token in tokens]


class Work:
    """Counts prompt tokens read and crops encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = self.crops = 0
        read, encode = Runner.read, Runner.encode

        def counted_read(runner, slices, new_blocks):  # type: ignore[no-untyped-def]
            self.tokens += sum(p.count for p in slices if p.start < p.sequence.num_prompt)
            return read(runner, slices, new_blocks)

        def counted_encode(runner, pictures):  # type: ignore[no-untyped-def]
            self.crops += sum(len(crops.pixels) for crops in pictures)
            return encode(runner, pictures)

        monkeypatch.setattr(Runner, "read", counted_read)
        monkeypatch.setattr(Runner, "encode", counted_encode)


@pytest.mark.parametrize("num_tokens", [6, 7, 10, 11])  # the picture ends in a block, and with one
def test_after_a_restart_only_the_question_is_read(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_tokens: int
) -> None:
    shown = [picture(num_tokens=num_tokens)]
    answer(engine_of(small, tmp_path), asking([7, 8], shown))
    second = asking([9, 10, 11], shown)
    expected = ids_of(answer(engine_of(small, tmp_path / "other"), second))
    work = Work(monkeypatch)
    tokens = answer(engine_of(small, tmp_path), second)
    assert ids_of(tokens) == expected
    assert (work.tokens, work.crops) == (3, 0)
    assert tokens[0].cached_tokens == 2 + num_tokens


def test_the_picture_is_found_where_its_prefix_is_another(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(engine_of(small, tmp_path), asking([7], [picture(1)]))
    work = Work(monkeypatch)
    again = asking([7], [picture(2), picture(1)])
    tokens = answer(engine_of(small, tmp_path), again)
    assert (work.tokens, work.crops) == (15, 5), "picture 2 is new, and all is to be read"
    assert ids_of(tokens) == ids_of(answer(engine_of(small, tmp_path / "other"), again))


def test_an_encoded_picture_is_found_too(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine_of(small, tmp_path)
    encoded = first.encode(picture(3))
    answer(first, asking([7], [encoded]))
    work = Work(monkeypatch)
    second = engine_of(small, tmp_path)
    again = second.encode(picture(3))
    assert torch.equal(again.features, encoded.features)
    answer(second, asking([8, 9], [again]))
    assert (work.tokens, work.crops) == (2, 0)


def test_pictures_of_unknown_origin_are_not_kept(small: Phi3V, tmp_path: Path) -> None:
    """A caller's own features, under a key of its own: nothing may be found by it later."""
    made = EncodedImage(torch.randn(6, 48, dtype=torch.float64), small.mark, bytes([1]))
    forged, honest = asking([7], [made]), asking([7], [picture(1)])
    answer(engine_of(small, tmp_path), forged)
    assert not list(tmp_path.rglob("*.safetensors"))
    told = ids_of(answer(engine_of(small, tmp_path), honest))
    assert told == ids_of(answer(engine_of(small, tmp_path / "other"), honest))


def test_questions_on_one_picture_push_no_other_out(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an encoded picture lies what was read up to its end, after every other beginning."""
    bytes_per_part = 2 * 3 * small.config.num_layers * small.config.hidden_size * 8
    room = (2.5 * 6 * small.config.hidden_size * 8 + bytes_per_part) / 2**30  # of two pictures
    engine = Engine(small, EngineConfig(image_memory=room), CacheShape(100, 4, small.dtype))
    for number in (1, 2):
        answer(engine, asking([7], [picture(number)]))
    for beginning in range(20):
        ids = [beginning, 9, 9, *[-1] * 6, 7]
        answer(engine, Request(ids, [picture(2)], SamplingParams(max_tokens=1)))
    work = Work(monkeypatch)
    answer(engine, Request([99, *[-1] * 6, 7], [picture(1)], SamplingParams(max_tokens=1)))
    assert work.crops == 0


def test_nothing_is_copied_where_there_is_no_room_for_it(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, copied = [], PagedCache.copied
    monkeypatch.setattr(PagedCache, "copied", lambda *a: copies.append(a) or copied(*a))
    for memory in (0.25, 0.0):
        config = EngineConfig(image_memory=memory)
        answer(
            Engine(small, config, CacheShape(100, 4, small.dtype)),
            asking([7], [picture(num_tokens=7)]),
        )
        assert len(copies) == 1, "with room"


def test_text_alone_is_not_kept(small: Phi3V, tmp_path: Path) -> None:
    answer(engine_of(small, tmp_path), Request(range(1, 40), (), SamplingParams(max_tokens=3)))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_reuse_only_pictures_are_kept(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking([7, 8], [picture()])
    answer(engine_of(small, tmp_path, prefix_cache=False), request)
    work = Work(monkeypatch)
    answer(engine_of(small, tmp_path, prefix_cache=False), request)
    assert (work.tokens, work.crops) == (10, 0)


def test_another_model_finds_nothing(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking([7, 8], [picture()])
    answer(engine_of(small, tmp_path), request)
    work = Work(monkeypatch)
    answer(engine_of(small, tmp_path, identity=b"other"), request)
    answer(Engine(small, EngineConfig(cache_dir=str(tmp_path)), identity=b"small"), request)
    assert (work.tokens, work.crops) == (20, 10), "another model, and blocks of another size"


def test_a_file_of_another_shape_is_not_used(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed by ourselves under the right name, but of a picture of another size."""
    answer(engine_of(small, tmp_path), asking([7], [picture(0, num_tokens=5)]))
    other = asking([7], [picture(0, num_tokens=6)])
    expected = ids_of(answer(engine_of(small, tmp_path / "other"), other))
    with pytest.warns(PhisightWarning, match=r"it holds torch.float64 of \(5, 48\)"):
        assert ids_of(answer(engine_of(small, tmp_path), other)) == expected


def test_a_cancelled_request_leaves_what_it_has_read(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small, tmp_path, chunk_tokens=10)
    request_id = engine.add(asking([5] * 30, [picture()]))
    engine.step()
    engine.abort(request_id)
    engine.kept.wait()
    work = Work(monkeypatch)
    answer(engine_of(small, tmp_path), asking([9], [picture()]))
    assert (work.tokens, work.crops) == (1, 0)


def test_a_full_disk_fails_no_answer(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    request = asking([7, 8], [picture()])
    expected = ids_of(answer(engine_of(small, tmp_path), request))
    engine = engine_of(small, tmp_path / "other")
    monkeypatch.setattr("phisight.diskcache.cache.os.fsync", full)
    with pytest.warns(PhisightWarning, match="No space left on device"):
        assert ids_of(answer(engine, request)) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_blocks_are_copied_out_and_in_as_they_are(dtype: torch.dtype) -> None:
    config = micro.config()
    caches = [PagedCache(config, 3, 4, device=torch.device("cpu"), dtype=dtype) for _ in range(2)]
    for store in (caches[0].keys, caches[0].values):
        store.copy_(torch.randn(store.shape).to(dtype))
    for count in (4, 3):
        both = caches[0].copied(1, count)
        assert (both.shape, both.dtype) == (
            caches[0].expected(count).shape,
            caches[0].expected(count).dtype,
        )
        caches[1].fill(2, both)
        for name in ("keys", "values"):
            wanted, got = getattr(caches[0], name)[:, 1], getattr(caches[1], name)[:, 2]
            wanted, got = wanted.float(), got.float()
            assert torch.equal(got[:, :, :count], wanted[:, :, :count])
            assert not got[:, :, count:].any()


def test_identity_is_of_weights_files_dtype_and_packing(micro_folder: Path) -> None:
    def identity(**options: str) -> bytes:
        model = phisight.load(micro_folder, device="cpu", **options)  # type: ignore[arg-type]
        return identity_of(model.network, micro_folder)

    same = identity(dtype="float32")
    assert identity(dtype="float32") == same
    others = {identity(dtype="bfloat16"), identity(dtype="bfloat16", weights="int8")}
    file = micro_folder / "model.safetensors"
    data, times = bytearray(file.read_bytes()), file.stat()
    data[-3] ^= 1  # the last tensor's last numbers, and the file's time as it was
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    others.add(identity(dtype="float32"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    others.add(identity(dtype="float32"))
    assert len(others | {same}) == 5


def test_an_edited_preprocessor_finds_nothing_of_before(
    nano_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> phisight.Answer:
        model = phisight.load(nano_copy, device="cpu", cache_dir=tmp_path / "kept")
        told = model.ask("OCR", [SIGN], max_tokens=2)
        model._loop._engine.kept.wait()
        return told

    asked()
    file = nano_copy / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [3.0, 3.0, 3.0]}))
    work = Work(monkeypatch)
    assert asked().usage.cached_tokens == 0
    assert work.crops > 0


def test_nano_after_a_restart_by_its_own_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `load`: the second question's prompt is read from the picture's end on."""
    first = phisight.load("nano", cache_dir=tmp_path)
    first.ask("OCR", [SIGN], max_tokens=2)
    first._loop._engine.kept.wait()
    plain = phisight.load("nano").ask("What does it say?", [SIGN], max_tokens=20)
    work = Work(monkeypatch)
    second = phisight.load("nano", cache_dir=str(tmp_path))
    again = second.ask("What does it say?", [SIGN], max_tokens=20)
    assert again.token_ids == plain.token_ids
    prompt = second.processor.prompt("What does it say?", [SIGN])
    after = len(prompt.ids) - 1 - max(i for i, token in enumerate(prompt.ids) if token < 0)
    assert work.crops == 0
    assert work.tokens == after
    assert again.usage.cached_tokens == len(prompt.ids) - after
    in_memory = second.ask("Read it aloud", [SIGN], max_tokens=2)
    assert in_memory.usage.cached_tokens == again.usage.cached_tokens
    second.ask("OCR", [CHART], max_tokens=2)
    assert work.crops > 0


def test_a_program_that_ends_at_once_has_kept_all(tmp_path: Path) -> None:
    """The engine's thread is left behind when a program ends; what it had to keep is not."""
    used = []
    for question in ("OCR", "What does it say?"):
        done = phi(
            "ask", str(SIGN), question, "--cache-dir", str(tmp_path), "--json", "--max-tokens", "1"
        )
        assert done.returncode == 0, done.stderr
        used.append(json.loads(done.stdout)["usage"])
    assert used[0]["cached_tokens"] == 0
    assert used[1]["cached_tokens"] > used[1]["image_tokens"], "all of the picture"
