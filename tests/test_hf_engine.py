"""Which calls of `generate` the engine answers, that it answers them as transformers does, and that
it never answers with what the weights were."""

from __future__ import annotations

import copy
import gc
import io
import logging
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from test_hf_generate import bridged, padded, text
from test_hf_model import golden_inputs
from test_model import NAMES
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LogitsProcessor,
    MaxTimeCriteria,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
    set_seed,
)
from transformers.generation.streamers import BaseStreamer

from phisight.engine import engine as engine_module
from phisight.engine.engine import Engine
from phisight.engine.request import Request
from phisight.hf import Phi3VCache, Phi3VForCausalLM
from phisight.hf import route as route_module
from phisight.hf.embedding import embed
from phisight.model.phi3v import Phi3V

ENGINE = "the engine"


@pytest.fixture(scope="module")
def network() -> Phi3V:
    return micro.network(micro.config())


@pytest.fixture
def small(network: Phi3V) -> Phi3VForCausalLM:
    return bridged(network)


@pytest.fixture(params=[False, True], ids=["for one call", "kept"])
def either(
    small: Phi3VForCausalLM, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Phi3VForCausalLM:
    """Its engine made for each call, or kept as on CUDA with graphs (over the kernels' twins)."""
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: None)
    small.engine.fused = request.param
    return small


def both(model: Phi3VForCausalLM, inputs: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor]:
    """The engine's ids and transformers'."""
    ours = model.generate(**inputs, **options)
    assert model.engine.taken == ENGINE
    return ours, by_transformers(model, inputs, **options)


def by_transformers(model: Phi3VForCausalLM, inputs: dict[str, Any], **options: Any) -> Tensor:
    model.engine.enabled = False
    ids: Tensor = model.generate(**inputs, **options)
    assert model.engine.taken == "transformers: engine.enabled is False"
    model.engine.enabled = True
    return ids


class Noted(BaseStreamer):
    """What a streamer is given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert value.device.type == "cpu"
        self.given.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


class Ends(StoppingCriteria):
    """Ends rows at lengths of their own, and notes what it was shown."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.shown = torch.tensor(lengths), list[list[list[int]]]()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        assert scores is None
        self.shown.append(input_ids.tolist())
        return input_ids.shape[1] >= self.lengths


# The same answers.


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_are_answered_as_by_transformers(either: Phi3VForCausalLM, seed: int) -> None:
    generator = random.Random(seed)
    lengths = [generator.randrange(1, 60) for _ in range(generator.randrange(1, 5))]
    inputs = padded([text(length, seed + i) for i, length in enumerate(lengths)])
    width = max(lengths)
    options: dict[str, Any] = {"max_new_tokens": generator.randrange(1, 30), "do_sample": False}
    if seed % 2:
        options["eos_token_id"] = generator.sample(range(256), k=60)
    if seed % 3 == 0:
        options["repetition_penalty"] = generator.choice([0.7, 1.4])
    if seed % 4 > 1:
        ends = [width + generator.randrange(1, 20) for _ in lengths]
        options["stopping_criteria"] = [Ends(ends)]
    seen = []
    for call in (ENGINE, "transformers"):
        either.engine.enabled = call == ENGINE
        ids = either.generate(**inputs, **options)
        assert either.engine.taken.startswith(call)
        shown = [criterion.shown[:] for criterion in options.get("stopping_criteria", ())]
        for criterion in options.get("stopping_criteria", ()):
            criterion.shown.clear()
        seen.append((ids.tolist(), shown))
    assert seen[0] == seen[1]


def test_rows_that_end_are_padded_and_the_others_go_on(small: Phi3VForCausalLM) -> None:
    inputs = padded([text(9), text(17, 1), text(4, 2)])
    plain = by_transformers(small, inputs, max_new_tokens=12, do_sample=False)[:, 17:]
    stop = int(plain[1, 3])
    ours, theirs = both(small, inputs, max_new_tokens=12, do_sample=False, eos_token_id=[stop])
    assert torch.equal(ours, theirs)
    assert (ours[1, 21:] == 262).all() and ours.shape[1] > 21, "a test of padding needs some"


def test_a_streamer_is_given_what_transformers_gives(small: Phi3VForCausalLM) -> None:
    noted = []
    for enabled in (True, False):
        small.engine.enabled = enabled
        streamer = Noted()
        inputs = padded([text(33), text(7, 1)])
        small.generate(**inputs, max_new_tokens=9, do_sample=False, streamer=streamer)
        noted.append((streamer.given, streamer.ended))
    assert noted[0] == noted[1]
    assert len(noted[0][0]) == 10


def test_a_prompt_may_be_embeddings_and_their_ids(small: Phi3VForCausalLM) -> None:
    inputs: dict[str, Any] = padded([text(38), text(41, 1)])
    with torch.no_grad():
        inputs["inputs_embeds"] = embed(small.model, inputs["input_ids"]) * 1.1
    for options in ({}, {"repetition_penalty": 1.5}):
        ours, theirs = both(small, inputs, max_new_tokens=8, do_sample=False, **options)
        assert torch.equal(ours, theirs)
    del inputs["inputs_embeds"]
    assert not torch.equal(ours, small.generate(**inputs, max_new_tokens=8, do_sample=False))


def test_more_rows_than_the_cache_holds_at_once(
    small: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait for others to end: answers are the same, later."""
    per_token = 2 * 2 * 48 * 8
    monkeypatch.setattr(route_module, "free_bytes", lambda device: 160 * per_token / 0.8)
    inputs = padded([text(40, i) for i in range(6)])
    ours, theirs = both(small, inputs, max_new_tokens=10, do_sample=False)
    assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Phi3VForCausalLM:
    model = Phi3VForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    return model


# Not those of 16 crops: four of them take as long as all others (test_hf_model has them all).
@pytest.mark.parametrize("name", [name for name in NAMES if "nc16" not in name])
def test_the_engine_s_tokens_are_the_official_ones(
    tiny: Phi3VForCausalLM, tiny_folder: Path, name: str
) -> None:
    inputs, arrays = golden_inputs(tiny_folder, name)
    expected = arrays.get("nocache_tokens", arrays["tokens"])
    ids = tiny.generate(**inputs, max_new_tokens=expected.shape[1], do_sample=False)
    assert tiny.engine.taken == ENGINE
    assert ids[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


# Sampling.


def test_a_seed_repeats_and_rows_differ(small: Phi3VForCausalLM) -> None:
    options = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 12, "top_p": 0.9}

    def sample(seed: int) -> list[list[int]]:
        set_seed(seed)
        ids = small.generate(**padded([text(5)]), **options, num_return_sequences=3)
        assert small.engine.taken == ENGINE
        return ids.tolist()

    first = sample(1)
    assert sample(1) == first != sample(2)
    assert first[0] != first[1] != first[2]
    set_seed(1)
    torch.rand(1)
    ids = small.generate(**padded([text(5)]), **options, num_return_sequences=3)
    assert ids.tolist() != first, "it follows torch's generator, wherever that has come to"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 3.0},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 2.0, "top_k": 0, "top_p": 0.5},
        {"temperature": 6.0, "min_p": 0.3},
        {"temperature": 2.0, "top_k": 9, "top_p": 0.8, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_draws_have_the_probabilities_of_transformers(
    small: Phi3VForCausalLM, options: dict[str, Any]
) -> None:
    inputs, draws = padded([text(20)]), 4000
    out = small.generate(
        **inputs,
        **options,
        do_sample=True,
        max_new_tokens=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = out.scores[0][0].softmax(-1).double()
    assert (expected > 0.02).sum() > 1, "nothing to choose from"
    set_seed(3)
    ids = small.generate(
        **inputs, **options, do_sample=True, max_new_tokens=1, num_return_sequences=draws
    )
    assert small.engine.taken == ENGINE
    drawn = torch.bincount(ids[:, -1], minlength=270).double() / draws
    assert not drawn[expected == 0].any(), "what transformers rules out never comes"
    # Five standard deviations of the farthest token's share.
    assert (drawn - expected).abs().max() < 5 * (0.25 / draws) ** 0.5


# Weights that change.


def new_weights(model: Phi3VForCausalLM, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weights[name] = weight + scale * noise.to(weight.device)
    return weights


@torch.no_grad()
def in_place(model: Phi3VForCausalLM) -> None:
    for name, weight in new_weights(model, 0.1).items():
        model.get_parameter(name).copy_(weight)


def by_data(model: Phi3VForCausalLM) -> None:
    """As peft merges: torch's counts of changes do not see it."""
    for name, weight in new_weights(model, 0.1).items():
        model.get_parameter(name).data.copy_(weight)


def loaded(model: Phi3VForCausalLM) -> None:
    model.load_state_dict(new_weights(model, 0.1))


def assigned(model: Phi3VForCausalLM) -> None:
    model.load_state_dict(new_weights(model, 0.1), assign=True)


def trained(model: Phi3VForCausalLM) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    ids = torch.tensor([text(30, 3)], device=model.device)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def merged(model: Phi3VForCausalLM) -> None:
    peft = pytest.importorskip("peft")  # the GPU machine may lack it
    adapter = peft.LoraConfig(r=4, target_modules=["qkv_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, adapter)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                generator = torch.Generator(weight.device).manual_seed(1)
                weight.normal_(0.0, 0.3, generator=generator)
    assert tuned.merge_and_unload() is model


def narrowed(model: Phi3VForCausalLM) -> None:
    model.to(torch.float32)
    in_place(model)


def one_module(model: Phi3VForCausalLM) -> None:
    layer = model.model.layers[0].mlp
    layer.down_proj.weight = nn.Parameter(layer.down_proj.weight.flip(0))


def vision_only(model: Phi3VForCausalLM) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.model.vision_embed_tokens.img_projection.parameters():
            weight.normal_(0.0, 1.0, generator=generator)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [in_place, by_data, loaded, assigned, trained, merged, narrowed, one_module],
    ids=lambda change: change.__name__,
)
def test_answers_are_of_the_weights_as_they_are(
    either: Phi3VForCausalLM, change: Callable[[Phi3VForCausalLM], None]
) -> None:
    # Prompts of whole blocks, as an engine would find them again.
    inputs = padded([text(70), text(35, 1)])
    before, _ = both(either, inputs, max_new_tokens=16, do_sample=False)
    change(either)
    ours, theirs = both(either, inputs, max_new_tokens=16, do_sample=False)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before), "a change that changes nothing proves nothing"


def test_pictures_are_encoded_by_the_weights_as_they_are(either: Phi3VForCausalLM) -> None:
    generator = torch.Generator().manual_seed(0)
    slots = [-1] * 313  # 1 x 1 crops: 144 tokens, 12 ends of lines, the separator, twice
    inputs = {
        "input_ids": torch.tensor([[*slots, *text(5)]]),
        "pixel_values": torch.randn(1, 2, 3, 336, 336, generator=generator, dtype=torch.float64),
        "image_sizes": torch.tensor([[336, 336]]),
    }
    before, _ = both(either, inputs, max_new_tokens=12, do_sample=False)
    vision_only(either)
    ours, theirs = both(either, inputs, max_new_tokens=12, do_sample=False)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)


# What is kept, and where it goes.


def test_weights_are_shared_and_an_engine_is_kept_by_its_rule(
    either: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Engine] = []
    engine_of = route_module.Engine

    def noted(*given: Any) -> Engine:
        made.append(engine_of(*given))
        return made[-1]

    monkeypatch.setattr(route_module, "Engine", noted)

    def ask(rows: int = 1, tokens: int = 4) -> int:
        """How many engines that made."""
        count = len(made)
        inputs = padded([text(20, row) for row in range(rows)])
        either.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        assert either.engine.taken == ENGINE
        made[-1].scheduler.check()
        assert made[-1].is_idle
        return len(made) - count

    kept = either.engine.fused
    ask()
    assert {id(w) for w in made[0]._model.parameters()} == {id(w) for w in either.parameters()}
    if not kept:
        assert made[0].shape.num_tokens < 200, "no more than the call needs"
    assert ask() == (not kept)
    assert ask(rows=2) == (not kept)
    assert ask(rows=33) == 1, "more rows than are kept room for"
    assert ask(rows=7, tokens=800) == 1, "more tokens than are kept room for"
    assert ask() == (not kept)
    either.train()
    either.eval()
    assert ask() == 1, "training freed it"
    either.engine.free()
    assert ask() == 1
    either.cpu()
    assert ask() == 1, "where the weights went, it did not"
    assigned(either)
    assert ask() == 1


@pytest.mark.parametrize("fault", [None, "no Triton"])
def test_an_engine_left_to_the_device_is_kept_where_it_has_graphs(
    small: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    monkeypatch.setattr(engine_module, "fused_fault", lambda device: fault)
    small.engine.fused = None
    small.generate(**padded([text(20)]), max_new_tokens=4, do_sample=False)
    assert small.engine.taken == ENGINE
    assert (small.engine._kept is not None) == (fault is None)


def test_an_engine_s_memory_goes_at_once(
    either: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when Python next looks for cycles: on a GPU that may be too late."""
    made: list[weakref.ref[Engine]] = []
    engine_of = route_module.Engine

    def noted(*given: Any) -> Engine:
        engine = engine_of(*given)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(route_module, "Engine", noted)
    gc.collect()
    gc.disable()
    try:
        either.generate(**padded([text(20)]), max_new_tokens=4, do_sample=False)
        assert (made[0]() is not None) == either.engine.fused
        either.engine.free()
        assert made[0]() is None
    finally:
        gc.enable()


def test_copies_of_a_model_have_engines_of_their_own(either: Phi3VForCausalLM) -> None:
    inputs = padded([text(20)])
    ours, _ = both(either, inputs, max_new_tokens=6, do_sample=False)
    file = io.BytesIO()
    torch.save(either, file)
    file.seek(0)
    for twin in (copy.deepcopy(either), torch.load(file, weights_only=False)):
        in_place(either)
        again = twin.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert twin.engine.taken == ENGINE
        assert torch.equal(again, ours)


def test_a_call_that_breaks_leaves_nothing_behind(either: Phi3VForCausalLM) -> None:
    class Breaks(Noted):
        def put(self, value: Tensor) -> None:
            super().put(value)
            if len(self.given) == 4:
                raise KeyboardInterrupt

    inputs = padded([text(45), text(12, 1)])
    with pytest.raises(KeyboardInterrupt):
        either.generate(**inputs, max_new_tokens=9, do_sample=False, streamer=Breaks())
    ours, theirs = both(either, inputs, max_new_tokens=9, do_sample=False)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("where", ["add", "pad"])
def test_a_call_that_breaks_as_it_begins_leaves_nothing_behind(
    either: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    inputs, add = padded([text(45), text(12, 1)]), Engine.add
    engines: list[Engine] = []

    def second_breaks(engine: Engine, request: Request) -> int:
        engines.append(engine)
        if where == "add" and len(engines) == 2:
            raise MemoryError
        return add(engine, request)

    class Broken(MaxTimeCriteria):
        @property
        def eos_token_id(self) -> int:
            raise MemoryError

    options: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False}
    criteria = [Broken(max_time=9.0)] if where == "pad" else []
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "add", second_breaks)
        with pytest.raises(MemoryError):
            either.generate(**inputs, stopping_criteria=criteria, **options)
    assert engines[0].is_idle
    ours, theirs = both(either, inputs, **options)
    assert torch.equal(ours, theirs)


def test_a_call_that_is_transformers_takes_none_of_its_draws(
    small: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = padded([text(12)])
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "temperature": 5.0}
    torch.manual_seed(3)
    expected = by_transformers(small, inputs, **options)
    monkeypatch.setattr(route_module, "free_bytes", lambda device: 10_000)
    torch.manual_seed(3)
    assert torch.equal(small.generate(**inputs, **options), expected)
    assert small.engine.taken.startswith("transformers: no memory")


def test_a_call_within_a_call_is_transformers(either: Phi3VForCausalLM) -> None:
    inner: list[str] = []

    class Asks(Noted):
        def put(self, value: Tensor) -> None:
            super().put(value)
            if len(self.given) == 2:
                either.generate(**padded([text(3)]), max_new_tokens=2, do_sample=False)
                inner.append(either.engine.taken)

    inputs = padded([text(20)])
    ids = either.generate(**inputs, max_new_tokens=9, do_sample=False, streamer=Asks())
    assert inner == ["transformers: the engine is answering another call"]
    assert torch.equal(ids, by_transformers(either, inputs, max_new_tokens=9, do_sample=False))


# What stays transformers'.


class Own(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return -scores


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"output_scores": True, "return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"output_logits": True}, "output_logits"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "a cache of the caller's"),
        ({"past_key_values": DynamicCache}, "a cache of the caller's"),
        ({"past_key_values": "ours"}, "a cache of the caller's"),
        ({"prefill_chunk_size": 8}, "prefill_chunk_size"),
        ({"logits_processor": [Own()]}, "Own"),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor"),
        ({"min_new_tokens": 3, "eos_token_id": 5}, "MinLengthLogitsProcessor"),
        ({"do_sample": True, "typical_p": 0.5}, "TypicalLogitsWarper"),
        ({"do_sample": True, "temperature": 101.0}, "temperature=101.0"),
        ({"do_sample": True, "logits_processor": "turned round"}, "TemperatureLogitsWarper"),
        ({"position_ids": torch.arange(1, 13)[None]}, "an attention_mask or position_ids other"),
        ({"attention_mask": torch.tensor([[1, 0, *[1] * 10]])}, "an attention_mask or position"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_what_the_engine_does_not_do_is_transformers(
    small: Phi3VForCausalLM, options: dict[str, Any], reason: str
) -> None:
    inputs = {"input_ids": torch.tensor([text(12)])}
    if options.get("past_key_values") == "ours":
        options = {"past_key_values": Phi3VCache(small.config)}
    elif "past_key_values" in options:
        options = {"past_key_values": DynamicCache()}
    if options.get("logits_processor") == "turned round":
        processors = [TopPLogitsWarper(0.9), TemperatureLogitsWarper(0.5)]
        options = options | {"logits_processor": processors}
    small.generate(**inputs, **{"do_sample": False} | options, max_new_tokens=5)
    assert small.engine.taken.startswith(f"transformers: {reason}")


@pytest.mark.parametrize(
    ("options"), [{"num_beams": 2}, {"prompt_lookup_num_tokens": 3}], ids=lambda v: next(iter(v))
)
def test_other_ways_of_generating_never_come_to_the_engine(
    small: Phi3VForCausalLM, options: dict[str, Any]
) -> None:
    small.generate(**padded([text(12)]), **options, max_new_tokens=5, do_sample=False)
    assert small.engine.taken == "transformers: another way than greedy or sampled"


def hooked(model: Phi3VForCausalLM) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 0.5)


def pre_hooked(model: Phi3VForCausalLM) -> None:
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


def replaced_forward(model: Phi3VForCausalLM) -> None:
    forward = model.model.norm.forward
    model.model.norm.forward = lambda x: forward(x).flip(-1)


def adapted(model: Phi3VForCausalLM) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=4, target_modules=["o_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, adapter)


def parametrized(model: Phi3VForCausalLM) -> None:
    nn.utils.parametrizations.weight_norm(model.lm_head)


def mixed(model: Phi3VForCausalLM) -> None:
    model.lm_head.float()
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0].float(),))


class Subclassed(Phi3VForCausalLM):
    pass


def subclassed(model: Phi3VForCausalLM) -> None:
    model.__class__ = Subclassed


def training(model: Phi3VForCausalLM) -> None:
    model.train()


def eager(model: Phi3VForCausalLM) -> None:
    model.set_attn_implementation("eager")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, "a module has a hook or another forward"),
        (pre_hooked, "a module has a hook or another forward"),
        (replaced_forward, "a module has a hook or another forward"),
        (adapted, "modules were replaced, as an adapter does"),
        (parametrized, "modules were replaced, as an adapter does"),
        (mixed, "a module has a hook"),
        (subclassed, "Subclassed is a class of its own"),
        (training, "the model is in training mode"),
        (eager, "attn_implementation=eager"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_model_that_is_more_than_its_weights_is_transformers(
    small: Phi3VForCausalLM, change: Callable[[Phi3VForCausalLM], None], reason: str
) -> None:
    change(small)
    small.generate(**padded([text(12)]), max_new_tokens=3, do_sample=False)
    assert small.engine.taken.startswith(f"transformers: {reason}")


def test_autocast_and_half_precision_are_transformers(small: Phi3VForCausalLM) -> None:
    small.float()
    with torch.autocast("cpu", torch.bfloat16):
        small.generate(**padded([text(12)]), max_new_tokens=3, do_sample=False)
    assert small.engine.taken == "transformers: autocast"
    small.half()
    small.generate(**padded([text(12)]), max_new_tokens=3, do_sample=False)
    assert small.engine.taken == "transformers: weights in torch.float16"


def test_what_does_not_fit_is_transformers(
    small: Phi3VForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_module, "free_bytes", lambda device: 10_000)
    small.generate(**padded([text(12)]), max_new_tokens=3, do_sample=False)
    assert small.engine.taken.startswith("transformers: no memory on cpu for a cache")
    monkeypatch.setattr(route_module, "free_bytes", lambda device: 300_000)
    small.generate(
        **padded([text(90)]), max_new_tokens=300, do_sample=False, eos_token_id=range(200)
    )
    assert small.engine.taken.startswith("transformers: a prompt of 90 tokens and an answer of up")


def test_a_time_limit_is_asked_at_every_token(small: Phi3VForCausalLM) -> None:
    criteria = [MaxTimeCriteria(max_time=0.0)]
    ids = small.generate(
        **padded([text(12)]), max_new_tokens=30, do_sample=False, stopping_criteria=criteria
    )
    assert small.engine.taken == ENGINE
    assert ids.shape[1] == 13


def test_each_reason_is_logged_once(
    small: Phi3VForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="phisight.hf"):
        for options in ({}, {}, {"use_cache": False}, {}, {"use_cache": False}):
            small.generate(**padded([text(5)]), max_new_tokens=2, do_sample=False, **options)
    assert [record.message for record in caplog.records] == [
        "generate is answered by the engine",
        "generate is answered by transformers: use_cache=False",
    ]
