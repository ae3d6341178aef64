"""`generate` on our network: the law in batches, and what transformers' mixin brings."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from naive import greedy, last_logits
from torch import Tensor
from transformers import (
    DynamicCache,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    set_seed,
)

import phisight
from phisight.errors import BudgetError, OptionError, PromptError
from phisight.hf import Phi3VCache, Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor
from phisight.model.phi3v import Phi3V

EXAMPLES = Path(__file__).parents[1] / "examples"
BORDER = 40  # tokens the micro model's short factors reach


def bridged(network: Phi3V, **changes: Any) -> Phi3VForCausalLM:
    """The same weights behind transformers' face; never stops by itself."""
    config = Phi3VConfig(**micro.config_json(**changes), pad_token_id=262)
    model = Phi3VForCausalLM(config).to(network.dtype).eval()
    left_out = model.load_state_dict(network.state_dict(), strict=False)
    assert not left_out.unexpected_keys
    assert all("post_layernorm" in key or "layers.2" in key for key in left_out.missing_keys)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 262
    return model


@pytest.fixture(scope="module")
def network() -> Phi3V:
    return micro.network(micro.config())


@pytest.fixture(scope="module")
def small(network: Phi3V) -> Phi3VForCausalLM:
    """float64, original maximum 40: exact, and cheap to cross."""
    return bridged(network)


def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    """A batch of ids, padded on the left."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[262] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(256), k=length)


def new_tokens(model: Phi3VForCausalLM, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    ids = model.generate(**inputs, do_sample=False, **options)
    return ids[:, inputs["input_ids"].shape[1] :]


# The law: every row as if recomputed from its first token, whatever its neighbours are.


@pytest.mark.parametrize("seed", range(6))
def test_every_row_of_a_batch_keeps_the_law(
    network: Phi3V, small: Phi3VForCausalLM, seed: int
) -> None:
    generator = random.Random(seed)
    lengths = (
        [[1, 39, 40, 41], [60, 3, 38, 20]][seed]
        if seed < 2
        else generator.sample(range(1, 60), k=generator.randrange(2, 5))
    )
    rows = [text(length, seed * 10 + i) for i, length in enumerate(lengths)]
    got = new_tokens(small, padded(rows), max_new_tokens=24)
    for row, tokens in zip(rows, got.tolist(), strict=True):
        assert tokens == greedy(network, row, max_tokens=24)[0]


def test_the_law_without_a_cache(network: Phi3V, small: Phi3VForCausalLM) -> None:
    rows = [text(30), text(38, 1)]
    got = new_tokens(small, padded(rows), max_new_tokens=14, use_cache=False)
    assert got.tolist() == [greedy(network, row, max_tokens=14)[0] for row in rows]


def test_the_law_when_drafted_tokens_straddle_the_border(
    network: Phi3V, small: Phi3VForCausalLM
) -> None:
    """Prompt lookup judges several tokens at once, and takes back what was wrong."""
    drafts = 0
    for seed in range(12):
        # A text that repeats itself gives lookup something to draft, from the first step on.
        phrase = text(7, seed)
        ids = (phrase * 6)[: 30 + seed]
        calls: list[int] = []
        hook = small.lm_head.register_forward_pre_hook(
            lambda _, args, calls=calls: calls.append(args[0].shape[1])
        )
        got = new_tokens(small, padded([ids]), max_new_tokens=16, prompt_lookup_num_tokens=5)[
            0
        ].tolist()
        hook.remove()
        assert got == greedy(network, ids, max_tokens=16)[0], seed
        drafts += sum(wanted > 1 for wanted in calls)
    assert drafts > 30, "nothing was drafted: this proves nothing"


@pytest.mark.parametrize("chunk", [7, 16])
def test_the_law_when_a_prompt_is_read_in_chunks(
    network: Phi3V, small: Phi3VForCausalLM, chunk: int
) -> None:
    for length in (30, 47):
        got = new_tokens(small, padded([text(length)]), max_new_tokens=12, prefill_chunk_size=chunk)
        assert got[0].tolist() == greedy(network, text(length), max_tokens=12)[0]


@pytest.mark.parametrize(("first", "added"), [(20, 6), (20, 30), (50, 6)])
def test_the_law_when_a_conversation_goes_on_from_its_cache(
    network: Phi3V, small: Phi3VForCausalLM, first: int, added: int
) -> None:
    cache = Phi3VCache(small.config)
    before = small.generate(
        torch.tensor([text(first)]), past_key_values=cache, max_new_tokens=9, do_sample=False
    )
    ids = [*before[0].tolist(), *text(added, 5)]
    calls: list[int] = []
    hook = small.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: calls.append(args[0].shape[1])
    )
    after = new_tokens(
        small, {"input_ids": torch.tensor([ids])}, past_key_values=cache, max_new_tokens=9
    )
    hook.remove()
    assert after[0].tolist() == greedy(network, ids, max_tokens=9)[0]
    assert calls[0] == added + 1, "what was cached is not read again"


def test_rows_of_a_batch_go_on_from_their_cache(network: Phi3V, small: Phi3VForCausalLM) -> None:
    """Padded to different lengths, so that they cross the border at different times."""
    cache, inputs = Phi3VCache(small.config), padded([text(12, 1), text(30, 2)])
    before = small.generate(**inputs, past_key_values=cache, max_new_tokens=6, do_sample=False)
    ids = torch.cat([before, torch.tensor([text(5, 7), text(5, 8)])], dim=1)
    more = torch.ones(2, 11, dtype=torch.long)
    mask = torch.cat([inputs["attention_mask"], more], dim=1)
    whole = {"input_ids": ids, "attention_mask": mask}
    after = new_tokens(small, whole, past_key_values=cache, max_new_tokens=25)
    for row, kept, tokens in zip(ids, mask.bool(), after.tolist(), strict=True):
        assert tokens == greedy(network, row[kept].tolist(), max_tokens=25)[0]


@torch.inference_mode()
def test_a_cache_that_is_cut_and_rearranged_keeps_the_law(
    network: Phi3V, small: Phi3VForCausalLM
) -> None:
    cache, more = Phi3VCache(small.config), [1, 2, 3, 4]
    small(torch.tensor([text(45, seed) for seed in range(3)]), past_key_values=cache)
    cache.crop(-7)  # back over the border
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([0, 3, 2, 1]))
    logits = small(torch.tensor([more] * 4), past_key_values=cache).logits[:, -1]
    for row, seed in zip(logits, (2, 0, 0, 2), strict=True):
        expected = last_logits(network, [*text(45, seed)[:38], *more], [])
        torch.testing.assert_close(row, expected)


def test_beams_cross_the_border_as_without_a_cache(small: Phi3VForCausalLM) -> None:
    inputs = padded([text(35), text(28, 3)])
    options = {"num_beams": 3, "max_new_tokens": 14, "num_return_sequences": 2}
    cached = small.generate(**inputs, **options, do_sample=False)
    recomputed = small.generate(**inputs, **options, do_sample=False, use_cache=False)
    assert torch.equal(cached, recomputed)
    assert not torch.equal(cached[0], cached[1])


def test_a_foreign_cache_holds_the_law_up_to_the_border_and_refuses_there(
    network: Phi3V, small: Phi3VForCausalLM
) -> None:
    ids = text(30)
    expected = greedy(network, ids, max_tokens=11)[0]
    for options in ({"cache_implementation": "static"}, {"past_key_values": DynamicCache()}):
        got = new_tokens(small, padded([ids]), max_new_tokens=11, **options)
        assert got[0].tolist() == expected, "40 tokens are read, 41 would be too many"
    message = r"grows past 40 tokens.*leave past_key_values.*Phi3VCache\(model.config\)"
    for options in ({"cache_implementation": "static"}, {"past_key_values": DynamicCache()}):
        with pytest.raises(OptionError, match=message):
            new_tokens(small, padded([ids]), max_new_tokens=12, **options)
    # A prompt that is long from the start is at home in any cache.
    ids = text(45)
    got = new_tokens(small, padded([ids]), max_new_tokens=6, cache_implementation="static")
    assert got[0].tolist() == greedy(network, ids, max_tokens=6)[0]


def test_an_answer_ends_with_the_context(small: Phi3VForCausalLM) -> None:
    got = new_tokens(small, padded([text(895)]), max_new_tokens=50)
    assert got.shape[1] == 5, "895 + 5 tokens fill the context of 900"
    with pytest.raises(BudgetError, match="901 tokens and the model's context is 900: use fewer"):
        small(torch.tensor([text(901)]))


# Pictures.


@pytest.fixture(scope="module")
def nano_bridge(nano_folder: Path) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    model = Phi3VForCausalLM.from_pretrained(nano_folder, dtype=torch.float32)
    return model, Phi3VProcessor.from_pretrained(nano_folder)


def question(words: str, pictures: int) -> str:
    tags = "".join(f"<|image_{n}|>\n" for n in range(1, pictures + 1))
    return f"<|user|>\n{tags}{words}<|end|>\n<|assistant|>\n"


BATCH = [
    (question("Hello", 0), []),
    (question("OCR", 1), ["sign"]),
    (question("What is the difference between these two images?", 2), ["pair-a", "pair-b"]),
    (question("Help me get the title and author information of this book?", 1), ["book"]),
]


def test_a_batch_of_prompts_with_pictures_answers_as_each_alone(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    model, processor = nano_bridge
    texts = [prompt for prompt, _ in BATCH]
    pictures = [[EXAMPLES / f"{name}.png" for name in names] for _, names in BATCH]
    together = processor(texts, pictures, padding=True)
    before = {key: value.clone() for key, value in together.items()}
    out = model.generate(**together, max_new_tokens=20, do_sample=False)
    for key, value in together.items():
        assert torch.equal(value, before[key]), f"the caller's {key} was written to"
    ids = together["input_ids"]
    assert int((ids < 0).sum()) > 2000
    assert torch.equal(out[:, : ids.shape[1]], ids.clamp(min=0)), "image places come back as 0"
    for row, prompt, own in zip(out[:, ids.shape[1] :], texts, pictures, strict=True):
        alone = processor(prompt, own)
        single = new_tokens(model, alone, max_new_tokens=20)[0].tolist()
        assert row.tolist()[: len(single)] == single
        assert set(row.tolist()[len(single) :]) <= {model.generation_config.pad_token_id}


def test_the_picture_s_embeddings_serve_every_way_of_generating(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    model, processor = nano_bridge
    inputs = processor(BATCH[1][0], EXAMPLES / "sign.png")
    plain = new_tokens(model, inputs, max_new_tokens=12)
    encoded: list[int] = []
    hook = model.model.vision_embed_tokens.register_forward_hook(lambda *_: encoded.append(1))
    for options in (
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 100},
        {"cache_implementation": "static"},
        {"num_beams": 2, "length_penalty": 0.0},
    ):
        got = new_tokens(model, inputs, max_new_tokens=12, **options)
        if "num_beams" not in options:
            assert torch.equal(got, plain), options
    hook.remove()
    assert len(encoded) == 4, "once for each call, not once for each beam"


def test_going_on_with_a_picture_in_the_cache(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    model, processor = nano_bridge
    cache = Phi3VCache(model.config)
    picture = EXAMPLES / "sign.png"
    inputs = processor(BATCH[1][0], picture)
    before = model.generate(**inputs, past_key_values=cache, max_new_tokens=8, do_sample=False)
    more = processor.tokenizer("<|end|>\n<|user|>\nOCR<|end|>\n<|assistant|>\n").input_ids
    ids = torch.cat([before, torch.tensor([more])], dim=1)
    after = new_tokens(model, {"input_ids": ids}, past_key_values=cache, max_new_tokens=8)
    ids[:, : inputs["input_ids"].shape[1]] = inputs["input_ids"]
    whole = {"input_ids": ids, "pixel_values": inputs["pixel_values"]}
    anew = new_tokens(model, whole | {"image_sizes": inputs["image_sizes"]}, max_new_tokens=8)
    assert torch.equal(after, anew)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_repetition_penalty_with_pictures_is_our_engine_s(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor], penalty: float
) -> None:
    model, processor = nano_bridge
    prompt, (name,) = BATCH[1]
    ours = phisight.load("nano", dtype="float32", device="cpu").ask(
        prompt, [EXAMPLES / f"{name}.png"], max_tokens=16, repetition_penalty=penalty
    )
    inputs = processor(prompt, EXAMPLES / f"{name}.png")
    got = new_tokens(model, inputs, max_new_tokens=16, repetition_penalty=penalty)
    assert got[0].tolist() == list(ours.token_ids)


def test_ids_and_pictures_that_do_not_belong_together_are_refused(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    model, processor = nano_bridge
    inputs = processor(BATCH[1][0], EXAMPLES / "sign.png")
    with pytest.raises(PromptError, match="places for 1 pictures and pixel_values hold 0"):
        model.generate(input_ids=inputs["input_ids"], max_new_tokens=1)
    with pytest.raises(PromptError, match="pixel_values without places"):
        model.generate(torch.tensor([[65]]), pixel_values=inputs["pixel_values"], max_new_tokens=1)
    cut = {**inputs, "input_ids": inputs["input_ids"][:, 20:]}
    cut["attention_mask"] = inputs["attention_mask"][:, 20:]
    with pytest.raises(PromptError, match="picture 1 has .* image tokens and input_ids"):
        model.generate(**cut, max_new_tokens=1)


# What comes with the mixin.


def test_sampling_repeats_with_its_seed(small: Phi3VForCausalLM) -> None:
    def sample(seed: int) -> list[int]:
        set_seed(seed)
        options = {"do_sample": True, "temperature": 1.5, "top_k": 50, "top_p": 0.9}
        return small.generate(**padded([text(5)]), **options, max_new_tokens=12)[0].tolist()

    assert sample(1) == sample(1) != sample(2)


def test_scores_and_logits_come_out(network: Phi3V, small: Phi3VForCausalLM) -> None:
    out = small.generate(
        **padded([text(36)]),
        max_new_tokens=8,
        do_sample=False,
        repetition_penalty=1.5,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, 36:].tolist()
    assert [int(scores.argmax()) for scores in out.scores] == tokens
    assert len(out.logits) == 8
    assert not torch.equal(out.logits[0], out.scores[0])
    transition = small.compute_transition_scores(out.sequences, out.scores)
    assert transition.shape == (1, 8)
    assert out.past_key_values.get_seq_length() == 43


def test_a_streamer_gets_the_answer_in_pieces(
    nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    model, processor = nano_bridge
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = processor(BATCH[1][0], EXAMPLES / "sign.png")
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, streamer=streamer)
    pieces = list(streamer)
    assert len(pieces) > 1
    answer = ids[0, inputs["input_ids"].shape[1] :]
    assert "".join(pieces) == processor.decode(answer, skip_special_tokens=True)


class _AfterFour(StoppingCriteria):
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 10)


def test_stopping_criteria_of_one_s_own(small: Phi3VForCausalLM) -> None:
    for criteria in (StoppingCriteriaList([_AfterFour()]), [_AfterFour()]):
        got = new_tokens(small, padded([text(6)]), max_new_tokens=20, stopping_criteria=criteria)
        assert got.shape[1] == 4
    assert new_tokens(small, padded([text(6)]), max_new_tokens=5).shape[1] == 5


def test_stop_strings(nano_bridge: tuple[Phi3VForCausalLM, Phi3VProcessor]) -> None:
    model, processor = nano_bridge
    inputs = processor(BATCH[3][0], EXAMPLES / "book.png")
    got = new_tokens(
        model, inputs, stop_strings=["book is"], tokenizer=processor.tokenizer, max_new_tokens=60
    )
    assert processor.decode(got[0]) == "The title of the book is"


def test_padding_on_the_right_is_refused(small: Phi3VForCausalLM) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(PromptError, match="ends with padding.*pad on the left"):
        small.generate(torch.ones(2, 3, dtype=torch.long), attention_mask=mask, max_new_tokens=2)


def test_masks_and_labels_of_another_length_are_refused(small: Phi3VForCausalLM) -> None:
    ids = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(PromptError, match="3 columns for 5 tokens after 0 in the cache"):
        small(ids, attention_mask=ids[:, :3])
    with pytest.raises(PromptError, match=r"labels are \[1, 5\] and logits \[1, 2\]"):
        small(ids, labels=ids, logits_to_keep=2)


def test_an_unknown_option_is_refused(small: Phi3VForCausalLM) -> None:
    with pytest.raises(ValueError, match="max_new_token"):
        small.generate(**padded([text(6)]), max_new_token=5)
