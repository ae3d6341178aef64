"""The Python door, on nano."""

import dataclasses
import gc
import inspect
import json
import math
from pathlib import Path

import micro
import pytest
from naive import last_logits
from PIL import Image
from waiting import until

import phisight
from phisight import errors
from phisight.api import Model, load
from phisight.params import LoadOptions, SamplingOptions, SamplingParams
from phisight.placement import choose_placement

EXAMPLES = Path(__file__).parents[1] / "examples"
BOOK = EXAMPLES / "book.png"
QUESTION = "Help me get the title and author information of this book?"


def test_every_way_of_asking_gives_the_same_answer() -> None:
    nano = load("nano")  # one that has not been asked: nothing is found in its cache
    plain = nano.ask(QUESTION, [BOOK])
    assert plain.finish_reason == "stop"
    assert plain.token_ids[-1] == 258
    assert "<|" not in plain.text
    assert str(plain) == plain.text == nano.processor.tokenizer.decode(plain.token_ids)
    raw = f"<|user|>\n<|image_1|>\n{QUESTION}<|end|>\n<|assistant|>\n"
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = nano.processor.prompt(QUESTION, [BOOK])
    with Image.open(BOOK) as picture:
        others = [
            nano.ask(QUESTION, [str(BOOK)]),
            nano.ask(QUESTION, [BOOK.read_bytes()]),
            nano.ask(QUESTION, [picture]),
            nano.ask(raw, [BOOK]),
            nano.ask([{"role": "user", "content": parts}], [BOOK]),
            nano.ask(prompt),
        ]
    assert {other.token_ids for other in others} == {plain.token_ids}
    assert plain.usage == phisight.Usage(len(prompt.ids), 1057, len(plain.token_ids))
    parts_of_time = dataclasses.asdict(plain.timings)
    assert sum(parts_of_time.values()) == plain.timings.total
    assert min(parts_of_time[name] for name in ("processing", "vision", "prefill", "decode")) > 0


def test_a_stream_gives_the_answer_in_pieces(nano: Model) -> None:
    stream = nano.stream("OCR", [EXAMPLES / "sign.png"])
    assert stream.answer is None
    pieces = list(stream)
    assert len(pieces) > 3
    assert stream.answer is not None
    assert "".join(pieces) == stream.answer.text == stream.finish().text
    assert next(stream, "over") == "over"


CHART = ("Describe this chart.", [EXAMPLES / "chart.png"])  # answers of some 240 tokens


def test_streams_interleave_and_closing_one_leaves_the_other(nano: Model) -> None:
    expected = nano.ask("Hello?", max_tokens=6).token_ids
    with nano.stream(*CHART) as left:
        next(left)
        middle = nano.stream(*CHART)
        right = nano.stream("Hello?", max_tokens=6)
        middle.close()
        with pytest.raises(RuntimeError, match="closed before its answer"):
            middle.finish()
        next(left)
    assert list(left) == []
    assert right.finish().token_ids == expected


def test_a_dropped_stream_frees_the_engine(nano: Model) -> None:
    stream = nano.stream(*CHART)
    next(stream)
    assert not nano._loop._engine.is_idle
    del stream
    gc.collect()
    until(lambda: nano._loop._engine.is_idle)
    assert not nano._loop._outputs


def test_max_tokens_cuts_and_says_so(nano: Model) -> None:
    answer = nano.ask(QUESTION, [BOOK], max_tokens=3)
    assert (answer.finish_reason, len(answer.token_ids), answer.text) == ("length", 3, "The")


def test_a_stop_string_ends_the_answer_before_it(nano: Model) -> None:
    stream = nano.stream(QUESTION, [BOOK], stop=["nowhere", " and the"])
    assert "".join(stream) == 'The title of the book is "ALONE"'
    answer = stream.finish()
    assert (answer.finish_reason, answer.stop) == ("stop", " and the")
    assert answer.text == 'The title of the book is "ALONE"'
    assert answer.usage.completion_tokens == len(answer.token_ids) == len(answer.text) + 8
    assert answer.timings.decode > 0
    until(lambda: nano._loop._engine.is_idle)
    free = nano.ask("OCR", [EXAMPLES / "sign.png"])
    assert (free.stop, free.finish_reason) == (None, "stop")


def test_logprobs_are_the_models_own(nano: Model) -> None:
    prompt = nano.processor.prompt("Hi")
    answer = nano.ask(prompt, max_tokens=4, logprobs=3, temperature=3.0, seed=2)
    assert answer.logprobs is not None
    assert [entry.token_id for entry in answer.logprobs] == list(answer.token_ids)
    ids = list(prompt.ids)
    for entry in answer.logprobs:
        logits = last_logits(nano.network, ids, []).double()
        expected = logits.log_softmax(-1)
        assert entry.logprob == pytest.approx(float(expected[entry.token_id]), abs=0.1)
        assert [top.logprob for top in entry.top] == sorted(
            (top.logprob for top in entry.top), reverse=True
        )
        assert len(entry.top) == 3
        assert entry.top[0].logprob == pytest.approx(float(expected.max()), abs=0.1)
        assert entry.probability == pytest.approx(math.exp(entry.logprob))
        ids.append(entry.token_id)
    assert nano.ask("Hi", max_tokens=1).logprobs is None
    alone = nano.ask("Hi", max_tokens=1, logprobs=0).logprobs
    assert alone is not None
    assert alone[0].top == ()


def test_logprobs_spell_the_answer(nano: Model) -> None:
    answer = nano.ask("OCR", [EXAMPLES / "sign.png"], logprobs=0)
    assert answer.logprobs is not None
    assert "".join(entry.text for entry in answer.logprobs) == answer.text == "MAPLE STREET"


def test_an_encoded_picture_serves_many_questions(
    nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = nano.encode_image(BOOK)
    assert repr(book) == "<phisight.EncodedImage of 1057 tokens>"
    assert nano.encode_image(book) is book
    raw = f"<|user|>\n<|image_1|>\n{QUESTION}<|end|>\n<|assistant|>\n"
    expected = nano.ask(QUESTION, [BOOK]).token_ids
    monkeypatch.setattr(nano.network, "encode_images", None)  # not needed any more
    assert nano.ask(QUESTION, [book]).token_ids == expected
    assert nano.ask(raw, [book]).token_ids == expected
    parts = [{"type": "image", "image": book}, {"type": "text", "text": QUESTION}]
    assert nano.ask([{"role": "user", "content": parts}]).token_ids == expected


def test_a_picture_encoded_by_another_model_is_refused(nano: Model) -> None:
    other = load("nano").encode_image(BOOK)
    with pytest.raises(errors.ImageError, match="another loaded model: use this one's encode_imag"):
        nano.ask("What?", [other])


def test_a_prompt_made_by_hand_is_checked(nano: Model) -> None:
    picture = nano.encode_image(EXAMPLES / "sign.png")
    whole = phisight.Prompt((256, *[-1] * picture.num_tokens, 256), (picture,))
    assert nano.ask(whole, max_tokens=1).usage.image_tokens == 757
    for ids, images in (((256, -1), ()), ((256, -1), (picture,)), ((-2,) * 757, (picture,))):
        with pytest.raises(errors.PromptError, match="places for pictures, which are not the"):
            phisight.Prompt(ids, images)
    with pytest.raises(errors.PromptError, match="id 264 is outside the vocabulary of 264"):
        nano.ask(phisight.Prompt((256, 264), ()))


def test_the_cost_is_known_before_anything_runs(
    nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(nano.network, "encode_images", None)
        cost = nano.cost("Compare.", [BOOK, EXAMPLES / "sign.png"])
        too_long = nano.cost("Compare.", [BOOK] * 6)
    answer = nano.ask("Compare.", [BOOK, EXAMPLES / "sign.png"], max_tokens=1)
    assert cost.prompt_tokens == answer.usage.prompt_tokens
    assert cost.image_tokens == (1057, 757)
    assert sum(cost.image_tokens) == answer.usage.image_tokens
    assert cost.max_answer_tokens == 4096 - cost.prompt_tokens
    assert cost.token_bytes == 2 * 8 * 448 * nano.network.dtype.itemsize
    assert cost.flops == nano.network.flops(cost.prompt_tokens, 7 + 5)
    assert cost.fits
    assert str(cost).startswith(f"{cost.prompt_tokens} tokens (1814 of pictures) of 4096, ")
    assert (too_long.fits, too_long.max_answer_tokens) == (False, 0)
    assert str(too_long).endswith(": does not fit")


def test_a_cache_too_small_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("nano", kv_memory=0.005)
    with monkeypatch.context() as patch:
        patch.setattr(model.network, "encode_images", None)
        with pytest.raises(
            errors.BudgetError,
            match=r"a prompt of 11\d\d tokens and an answer of up to 512 take 0.0\d GiB of cache, "
            r"and on cpu it has 0.00 GiB: use fewer pictures",
        ):
            model.ask(QUESTION, [BOOK])
    assert not model.cost(QUESTION, [BOOK]).fits
    assert model.ask("Hi", max_tokens=1).usage.completion_tokens == 1


def test_a_notebook_shows_an_answer_escaped() -> None:
    answer = phisight.Answer(
        '<img src=x onerror="alert(1)">\nB & C',
        (1,),
        "length",
        phisight.Usage(5, 0, 1),
        phisight.Timings(prefill=1.0, decode=0.5),
    )
    shown = answer._repr_html_()
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;\nB &amp; C" in shown
    assert "<img" not in shown
    assert repr(answer).startswith("<phisight.Answer '<img src=x onerror=")
    assert repr(answer).endswith("length after 1 tokens>")
    assert "1.50 s: pictures 0.00, reading 5 tokens 1.00, writing 1 tokens 0.50, cut there" in shown


def test_a_seed_makes_drawn_answers_repeatable(nano: Model) -> None:
    drawn = [
        nano.ask("Hi", max_tokens=12, temperature=2.0, seed=seed).token_ids for seed in (5, 5, 6)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_crops_are_a_choice() -> None:
    few = load(num_crops=1).processor.prompt("What?", [BOOK])
    assert few.num_image_tokens == 313
    assert len(few.images[0].pixels) == 2


def test_prompts_that_do_not_fit_are_refused_before_any_work(nano: Model) -> None:
    with pytest.raises(
        errors.BudgetError, match=r"tokens and the model's context is 4096: use fewer"
    ):
        nano.ask("Compare.", [BOOK] * 6)
    with pytest.raises(errors.PromptError, match="already holds its pictures"):
        nano.ask(nano.processor.prompt("Hi"), [BOOK])


def test_keyword_options_agree_with_the_option_class() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(SamplingParams)}
    named = SamplingOptions.__annotations__
    assert {name: kind.__forward_arg__ for name, kind in named.items()} == fields


def test_load_agrees_with_its_options() -> None:
    parameters = list(inspect.signature(load).parameters.values())[1:-1]
    assert {p.name: p.default for p in parameters} == {
        f.name: f.default for f in dataclasses.fields(LoadOptions)
    }


def test_load_takes_engine_options_and_refuses_others() -> None:
    model = load("nano", max_batch=3, kv_memory=0.125)
    assert model._loop.max_batch == 3
    assert 0.12 * 2**30 < model._loop.cache_bytes <= 2**27
    with pytest.raises(errors.OptionError, match="unknown option 'kv_memori': did you mean kv_mem"):
        load("nano", kv_memori=1.0)  # type: ignore[call-arg]
    with pytest.raises(errors.OptionError, match="prefix_cache='no': expected True or False"):
        load("nano", prefix_cache="no")  # type: ignore[arg-type]
    with pytest.raises(
        errors.DeviceError, match="fused=True: cpu runs no Triton kernels; leave it"
    ):
        load("nano", device="cpu", fused=True)
    with pytest.raises(errors.OptionError, match="speculate=17: must be between 0 and 16"):
        load("nano", speculate=17)


def test_memory_without_end_is_as_much_as_is_of_use() -> None:
    model = load("nano", kv_memory=math.inf, image_memory=math.inf)
    most = load("nano", kv_memory=1e300)._loop.cache_bytes
    assert model._loop.cache_bytes == most == (32 * 4096 + 32 * 32) * model._loop.bytes_per_token
    assert model.encode_image(BOOK).num_tokens == 1057


def test_several_questions_about_a_picture_read_it_once(nano: Model) -> None:
    fresh = load("nano")
    questions = ["OCR", "What does it say?", "Who wrote it?"]
    answers = fresh.ask_many(
        [{"prompt": question, "images": [BOOK], "max_tokens": 5} for question in questions]
    )
    assert [answer.text for answer in answers] == [
        nano.ask(question, [BOOK], max_tokens=5).text for question in questions
    ]
    cached = [answer.usage.cached_tokens for answer in answers]
    assert cached[0] == 0
    assert min(cached[1:]) > 757 - 32, "the picture's whole blocks"
    again = fresh.ask("And now?", [BOOK], max_tokens=1)
    assert again.usage.prompt_tokens - again.usage.cached_tokens < 32 + len("And now?") + 16
    assert again.timings.vision == 0.0


def test_streams_of_several_threads_advance_together(nano: Model) -> None:
    """A caller who takes its time holds nobody up."""
    slow = nano.stream(QUESTION, [BOOK])
    next(slow)
    assert nano.ask("Hi", max_tokens=3, ignore_eos=True).usage.completion_tokens == 3
    assert "".join(slow).startswith("he title of the book")


def test_logit_bias_is_checked_against_the_vocabulary(nano: Model) -> None:
    with pytest.raises(errors.OptionError, match="logit_bias: only ids below 264 are in"):
        nano.ask("Hi", logit_bias={264: 1.0})
    assert nano.ask("Hi", logit_bias={65: 100.0}, max_tokens=3).text == "AAA"


def test_unknown_options_raise(nano: Model) -> None:
    with pytest.raises(
        errors.OptionError,
        match="unknown option 'max_new_tokens': did you mean max_tokens. There are max_tokens, tem",
    ):
        nano.ask("Hi", max_new_tokens=3)  # type: ignore[call-arg]
    with pytest.raises(errors.OptionError, match="temperature=-1: must be"):
        nano.ask("Hi", temperature=-1)


def test_stop_ids_join_tokenizer_and_both_configs(nano: Model, nano_copy: Path) -> None:
    assert nano.stop_ids == {257, 258, 260}
    (nano_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [65]}))
    assert load(nano_copy).stop_ids == {257, 258, 260, 65}


def test_the_choice_of_device_and_dtype_gives_its_reason(nano: Model) -> None:
    auto = choose_placement(None, None)
    if auto.device.type == "cpu":
        assert str(auto).startswith("cpu, bfloat16 (no CUDA device; ")
    assert str(choose_placement("cpu", "float32")) == "cpu, float32"
    assert repr(nano) == f"<phisight.Model nano on {nano.placement}>"


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", "cpu:1", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(errors.DeviceError, match=r"is not on this machine; there are: cpu"):
        choose_placement(device, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "expected nano, phi-3-vision, phi-3.5-vision, a folder, or a hub id"),
        ("phi-3.5-vision", "fetch it with: phisight pull phi-3.5-vision"),
        ("someone/something", "fetch it with: phisight pull someone/something"),
        ("../../etc", "expected nano"),
    ],
)
def test_a_model_that_is_not_there_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(errors.ModelNotFoundError, match=message):
        load(name)


@pytest.mark.parametrize("name", [5, ["nano"], b"nano", ""])
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(errors.OptionError, match="expected a name, a folder or a hub id"):
        load(name)  # type: ignore[arg-type]


def test_a_model_in_the_hub_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "models--someone--micro"
    micro.write(root / "snapshots" / "0123abcd")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abcd")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert load("someone/micro").path.name == "0123abcd"


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(micro_folder: Path) -> None:
    micro.write(micro_folder, vocab_size=200)
    with pytest.raises(errors.ConfigError, match="264 tokens, config.json only vocab_size=200"):
        load(micro_folder)


def test_public_names() -> None:
    assert sorted(phisight._OWNERS) == sorted(phisight.__all__)
    assert all(hasattr(phisight, name) for name in phisight.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        phisight.lod  # noqa: B018
