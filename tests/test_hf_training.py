"""Training through the bridge: LoRA, gradient checkpointing, batches with masked labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from phisight.errors import ImageError, PromptError
from phisight.hf import Phi3VCollator, Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor
from phisight.model.decoder import causal_attend

EXAMPLES = Path(__file__).parents[1] / "examples"
SIGN, BOOK = EXAMPLES / "sign.png", EXAMPLES / "book.png"
TARGETS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


EXAMPLE = {
    "messages": [turn("user", "<|image_1|>\nOCR"), turn("assistant", "ELM ROAD")],
    "images": [SIGN],
}
MIXED = [
    {"messages": [turn("user", "Hi"), turn("assistant", "Hello there")]},
    EXAMPLE,
    {
        "messages": [
            turn("user", [{"type": "image", "image": SIGN}, {"type": "text", "text": "OCR"}]),
            turn("assistant", "ELM"),
            turn("user", [{"type": "image"}, {"type": "text", "text": "And this?"}]),
            turn("assistant", "A book"),
        ],
        "images": [BOOK],
    },
]


@pytest.fixture(scope="module")
def collate(nano_folder: Path) -> Phi3VCollator:
    return Phi3VCollator(Phi3VProcessor.from_pretrained(nano_folder, num_crops=1))


def small(**changes: Any) -> Phi3VForCausalLM:
    """Micro weights, in the bridge, ready to be trained."""
    config = Phi3VConfig(**micro.config_json(**changes), pad_token_id=262)
    model = Phi3VForCausalLM(config)
    weights = micro.network(micro.config(**changes), torch.float32).state_dict()
    model.load_state_dict(weights, strict=False)
    return model.train()


def losses(model: Any, batch: dict[str, Tensor], steps: int, rate: float) -> list[float]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    values = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values


def gradients(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def checkpointed(model: Phi3VForCausalLM, options: dict[str, Any] | None = None) -> None:
    """Turned on by its newer name, or the one that transformers 5.17 has."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(model, name) for name in names if hasattr(model, name))(options)


# LoRA.


# PEFT 0.21 asks transformers 5.23 by a name it gives up in v6.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_with_checkpointing_reduces_the_loss_on_nano(
    collate: Phi3VCollator, nano_folder: Path, tmp_path: Path
) -> None:
    base = Phi3VForCausalLM.from_pretrained(nano_folder, dtype=torch.float32)
    checkpointed(base)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    tuned = get_peft_model(base, adapter).train()
    trained = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert trained == {
        f"base_model.model.model.layers.{layer}.{block}.lora_{side}.default.weight"
        for layer in range(8)
        for block in (
            "self_attn.qkv_proj",
            "self_attn.o_proj",
            "mlp.gate_up_proj",
            "mlp.down_proj",
        )
        for side in "AB"
    }
    batch = collate([EXAMPLE])
    first, *_, last = losses(tuned, batch, steps=4, rate=1e-2)
    assert last < 0.5 * first

    tuned.eval()
    with torch.inference_mode():
        expected = tuned(**batch).logits
        tuned.save_pretrained(tmp_path)
        plain = Phi3VForCausalLM.from_pretrained(nano_folder, dtype=torch.float32)
        before = plain(**batch).logits
        again = PeftModel.from_pretrained(plain, tmp_path).eval()
        assert torch.equal(again(**batch).logits, expected)
        assert not torch.allclose(before, expected, atol=0.1)
        merged = again.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, expected, rtol=0, atol=1e-3)


def lora(model: Phi3VForCausalLM, targets: list[str]) -> Any:
    """An adapter of random weights, ready to be trained."""
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    return get_peft_model(model, adapter).train()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_lets_gradients_reach_adapters(
    collate: Phi3VCollator, reentrant: bool
) -> None:
    """All else is frozen: a reentrant checkpoint then needs embeddings that ask for gradients."""
    batch = collate([EXAMPLE])
    plain = gradients(lora(small(), TARGETS), batch)
    tuned = lora(small(), TARGETS)
    tuned.enable_input_require_grads()
    checkpointed(tuned.get_base_model(), {"use_reentrant": reentrant})
    kept = gradients(tuned, batch)
    assert len(plain) == 2 * 2 * len(TARGETS)  # layers, A and B
    assert plain.keys() == kept.keys()
    for name, gradient in plain.items():
        assert bool(gradient.any()), name
        torch.testing.assert_close(kept[name], gradient, msg=name)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_of_the_head_has_an_effect(collate: Phi3VCollator) -> None:
    batch, tuned = collate([EXAMPLE]), lora(small(), ["lm_head"])
    assert len(gradients(tuned, batch)) == 2
    with torch.inference_mode():
        adapted = tuned(**batch).logits
        with tuned.disable_adapter():
            assert not torch.allclose(tuned(**batch).logits, adapted, atol=0.1)
        merged = tuned.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, adapted, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_s_folder_stands_for_its_base_model(
    collate: Phi3VCollator, micro_folder: Path, tmp_path: Path
) -> None:
    batch, saved = collate([EXAMPLE]), tmp_path / "adapter"
    base = Phi3VForCausalLM.from_pretrained(micro_folder)
    tuned = lora(base, TARGETS).eval()
    tuned.save_pretrained(saved)
    again = AutoModelForCausalLM.from_pretrained(saved)
    with torch.inference_mode():
        assert torch.equal(again(**batch).logits, tuned(**batch).logits)
    assert again.generation_config.eos_token_id == base.generation_config.eos_token_id


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient(collate: Phi3VCollator, reentrant: bool) -> None:
    model, batch = small(), collate([EXAMPLE])
    plain = gradients(model, batch)
    checkpointed(model, {"use_reentrant": reentrant})
    runs = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
    kept = gradients(model, batch)
    hook.remove()
    assert len(runs) == 2, "a layer is run again in the backward pass"
    assert plain.keys() == kept.keys()
    assert any("vision" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, msg=name)


def test_a_training_step_compiles_whole() -> None:
    """No module ends torch.compile's graph: a step of many graphs takes two thirds longer."""
    network = micro.network(micro.config(), torch.float32).requires_grad_(True)
    tower = network.model.vision_embed_tokens.img_processor.vision_model.encoder
    rotation = network.rope().rotation(0, 5, length=5, dtype=torch.float32)
    cases: list[tuple[torch.nn.Module, tuple[Any, ...]]] = [
        (network, (torch.randn(2, 5, 48), rotation, causal_attend)),
        (tower, (torch.randn(1, 7, 36),)),
    ]
    for module, given in cases:
        whole = torch.compile(module, backend="eager", fullgraph=True)
        assert torch.equal(whole(*given), module(*given))


def test_what_is_never_run_asks_for_no_gradient(collate: Phi3VCollator) -> None:
    """So that distributed training does not wait for it."""
    model = small()
    with_gradient = set(gradients(model, collate([EXAMPLE])))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == with_gradient


def test_a_cache_is_not_made_in_training_unless_asked_for(collate: Phi3VCollator) -> None:
    model, batch = small(), collate([EXAMPLE])
    assert model(**batch).past_key_values is None
    assert model.eval()(**batch).past_key_values is not None


# The collator.


def spoken(processor: Phi3VProcessor, labels: Tensor) -> list[str]:
    """The stretches of a row that are learned."""
    stretches: list[list[int]] = [[]]
    for label in labels.tolist():
        if label != -100:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [processor.tokenizer.decode(ids) for ids in stretches if ids]


@pytest.mark.parametrize("tokenizer", ["nano_folder", "official"])
def test_labels_are_the_assistant_s_words(tokenizer: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(tokenizer)
    processor = Phi3VProcessor.from_pretrained(folder, num_crops=1)
    batch = Phi3VCollator(processor)(MIXED)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["pixel_values"].shape == (3, 2, 3, 336, 336)
    said = [spoken(processor, row) for row in batch["labels"]]
    assert said == [
        ["Hello there<|end|>"],
        ["ELM ROAD<|end|>"],
        ["ELM<|end|>", "A book<|end|>"],
    ]
    learned = batch["labels"] != -100
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    assert bool((batch["input_ids"][learned] >= 0).all())
    assert not bool(learned[batch["attention_mask"] == 0].any())
    assert bool(batch["attention_mask"][:, 0].all()), "padded on the right"


def test_a_batch_s_loss_is_that_of_its_rows(collate: Phi3VCollator) -> None:
    model = small().eval()
    with torch.inference_mode():
        together = model(**collate(MIXED)).loss
        rows = [collate([example]) for example in MIXED]
        counts = [int((row["labels"] != -100).sum()) for row in rows]
        alone = [float(model(**row).loss) * n for row, n in zip(rows, counts, strict=True)]
        by_count = model(**collate(MIXED), num_items_in_batch=torch.tensor(2 * sum(counts))).loss
    assert float(together) == pytest.approx(sum(alone) / sum(counts), rel=1e-4)
    assert float(by_count) == pytest.approx(float(together) / 2, rel=1e-5)


def test_one_plain_training_step(collate: Phi3VCollator, nano_folder: Path) -> None:
    model = Phi3VForCausalLM.from_pretrained(nano_folder, dtype=torch.float32).train()
    before, after = losses(model, collate(MIXED[:2]), steps=2, rate=1e-4)
    assert after < before


def test_a_trainer_trains_and_evaluates(collate: Phi3VCollator, tmp_path: Path) -> None:
    """A step over three accumulated batches has the loss of one batch of all their words."""
    model = small()
    with torch.inference_mode():
        expected = float(model(**collate(MIXED)).loss)
    options = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(MIXED),
        max_steps=1,
        logging_steps=1,
        remove_unused_columns=False,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, options, data_collator=collate, train_dataset=MIXED)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    with torch.inference_mode():
        after = float(model.eval()(**collate(MIXED)).loss)
    assert trainer.evaluate(MIXED)["eval_loss"] == pytest.approx(after, rel=1e-4)


@pytest.mark.parametrize("named", [SIGN, [SIGN]])
def test_rows_of_a_table_have_every_key_in_every_part(collate: Phi3VCollator, named: Any) -> None:
    text = {"type": "text", "text": "OCR", "image": None, "path": None}
    answer = turn("assistant", [{**text, "text": "ELM ROAD"}])
    picture = {"type": "image", "text": None, "image": None, "path": None}
    expected = collate([EXAMPLE])
    for part, images in ((picture, named), ({**picture, "path": str(SIGN)}, None)):
        batch = collate([{"messages": [turn("user", [part, text]), answer], "images": images}])
        assert all(torch.equal(batch[key], expected[key]) for key in expected)


def test_an_answer_may_begin_with_white_space(nano_folder: Path, official: Path) -> None:
    """Where <|assistant|> swallows what follows it, the answer's own goes with it."""
    example = {"messages": [turn("user", "Hi"), turn("assistant", " \n Ho")]}
    for folder, words in ((nano_folder, " \n Ho<|end|>"), (official, "Ho<|end|>")):
        processor = Phi3VProcessor.from_pretrained(folder, num_crops=1)
        [labels] = Phi3VCollator(processor)([example])["labels"]
        assert spoken(processor, labels) == [words]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"messages": []}, "example 1: the last message must be the assistant's"),
        ({"messages": [turn("user", "Hi")]}, "example 1: the last message must be the assistant's"),
        (
            {"messages": [turn("user", "Hi"), turn("assistant", "Ho")], "images": [SIGN]},
            "example 1: 1 pictures for 0 image tags",
        ),
        (
            {"messages": [turn("user", [{"type": "image"}]), turn("assistant", "Ho")]},
            "example 1: 0 pictures for 1 image tags",
        ),
        (
            {"messages": [turn("user", "Say <|assistant|> now"), turn("assistant", "Ho")]},
            "example 1: .*<.assistant.> in its text",
        ),
        (
            {"messages": [turn("user", "Hi"), turn("assistant", "Say <|end|> and more")]},
            "example 1: .*<.end.> in its text",
        ),
        (
            {"messages": [turn("user", "<|image_2|>"), turn("assistant", "Ho")], "images": [SIGN]},
            "example 1: .*found: <.image_2.>",
        ),
        ({}, r"example 1: expected \{'messages'.*got \{\} .*remove_unused_columns=False"),
        ({"messages": "Hi"}, "example 1: expected .*got {'messages': 'Hi'}"),
    ],
)
def test_examples_that_teach_nothing_or_the_wrong_thing(
    collate: Phi3VCollator, example: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        collate([EXAMPLE, example])


def test_a_batch_of_nothing_and_a_picture_that_cannot_be_opened(collate: Phi3VCollator) -> None:
    with pytest.raises(PromptError, match="no examples"):
        collate([])
    with pytest.raises(ImageError, match=r"example 1: .*nowhere.png: no such file"):
        collate([MIXED[0], {**EXAMPLE, "images": ["nowhere.png"]}])
