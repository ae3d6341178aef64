"""The bridge against the official code's goldens, on the deterministic tiny checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.images import make_image
from test_model import CASES, NAMES
from transformers import AutoModelForCausalLM, AutoProcessor, BatchFeature

import phisight.hf
from phisight.errors import OptionError, PromptError
from phisight.hf import Phi3VForCausalLM


def golden_inputs(folder: Path, name: str) -> tuple[BatchFeature, dict[str, np.ndarray]]:
    case = json.loads((CASES / f"{name}.json").read_text())
    keys = ("w", "h", "seed", "kind", "mode")
    images = [make_image(**{key: image[key] for key in keys}) for image in case["images"]]
    processor = AutoProcessor.from_pretrained(folder, num_crops=case["num_crops"])
    inputs = processor(case["prompt"], images or None, return_tensors="pt", padding=True)
    with np.load(CASES / f"{name}.npz") as arrays:
        return inputs, dict(arrays)


@pytest.fixture(scope="module")
def tiny_bridge(tiny_folder: Path) -> Phi3VForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    assert isinstance(model, phisight.hf.Phi3VForCausalLM)
    model.generation_config.eos_token_id = None  # as the goldens were made
    return model


@pytest.mark.parametrize("name", NAMES)
def test_official_logits_and_tokens(
    tiny_bridge: Phi3VForCausalLM, tiny_folder: Path, name: str
) -> None:
    inputs, arrays = golden_inputs(tiny_folder, name)
    assert np.array_equal(inputs["input_ids"].numpy(), arrays["input_ids"])
    assert np.array_equal(inputs["attention_mask"].numpy(), arrays["attention_mask"])
    out = tiny_bridge.generate(
        **inputs,
        max_new_tokens=32,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = out.logits[0].numpy()  # the first step's: those of the prompt's last position
    largest = np.abs(arrays["logits"]).max()
    assert np.abs(logits - arrays["logits"]).max() <= 1e-4 * largest
    # Where the official code does not recompute when generation crosses 4,096, our law does.
    expected = arrays.get("nocache_tokens", arrays["tokens"])
    length = arrays["input_ids"].shape[1]
    assert np.array_equal(out.sequences[:, length:].numpy(), expected)
    assert np.array_equal(out.sequences[:, :length].numpy(), arrays["input_ids"].clip(min=0))


def test_the_whole_forward_is_the_official_one(
    tiny_bridge: Phi3VForCausalLM, tiny_folder: Path
) -> None:
    """Logits of every position, hidden states, the caller's tensors, and both attentions."""
    inputs, arrays = golden_inputs(tiny_folder, "two_images_nc4")
    before = hashlib.sha256(inputs["input_ids"].numpy().tobytes()).digest()
    with torch.inference_mode():
        out = tiny_bridge(**inputs, output_hidden_states=True, use_cache=False)
        again = tiny_bridge(**inputs, use_cache=False, return_dict=False)
        last = tiny_bridge(**inputs, use_cache=False, logits_to_keep=2)
    assert hashlib.sha256(inputs["input_ids"].numpy().tobytes()).digest() == before
    assert out.logits.shape == (1, 1536, 32064) and out.logits.dtype == torch.float32
    assert torch.equal(again[0], out.logits)
    torch.testing.assert_close(last.logits, out.logits[:, -2:])
    assert len(out.hidden_states) == 5
    states = torch.stack([state[0, -1] for state in out.hidden_states]).numpy()
    expected = arrays["hidden_last"][:, 0]
    assert np.abs(states - expected).max() <= 1e-4 * np.abs(states).max()
    rows = out.hidden_states[0][0, arrays["embed_rows"]].numpy()
    assert np.abs(rows - arrays["embeds"]).max() <= 1e-5 * np.abs(rows).max()


def test_eager_attention_agrees_and_gives_its_weights(
    tiny_bridge: Phi3VForCausalLM, tiny_folder: Path
) -> None:
    inputs, arrays = golden_inputs(tiny_folder, "batch_left_pad")
    eager = AutoModelForCausalLM.from_pretrained(
        tiny_folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        out = eager(**inputs, output_attentions=True)
    largest = np.abs(arrays["logits"]).max()
    assert np.abs(out.logits[:, -1].numpy() - arrays["logits"]).max() <= 1e-4 * largest
    assert len(out.attentions) == 4
    weights = out.attentions[0]
    assert weights.shape == (3, 4, 66, 66)
    torch.testing.assert_close(weights[:, :, -1].sum(-1), torch.ones(3, 4))
    padding = (inputs["attention_mask"] == 0)[:, None].expand(-1, 4, -1)
    assert weights[:, :, -1][padding].abs().max() == 0
    with pytest.raises(OptionError, match='sdpa does not give them.*attn_implementation="eager"'):
        tiny_bridge(**inputs, output_attentions=True)


def test_swapped_tags_put_each_picture_at_its_own_tag(
    tiny_bridge: Phi3VForCausalLM, tiny_folder: Path
) -> None:
    """The official code puts them in list order, whatever the tags say, and overwrites text."""
    inputs, _ = golden_inputs(tiny_folder, "tags_swapped_nc4")
    straight = {key: value.clone() for key, value in inputs.items()}
    ids = straight["input_ids"]
    straight["input_ids"] = torch.where(ids == -1, -2, torch.where(ids == -2, -1, ids))
    for key in ("pixel_values", "image_sizes"):
        straight[key] = straight[key].flip(0)
    with torch.inference_mode():
        first = tiny_bridge(**inputs, logits_to_keep=1).logits
        assert torch.equal(first, tiny_bridge(**straight, logits_to_keep=1).logits)


def test_a_repeated_tag_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(PromptError, match="exactly once"):
        golden_inputs(tiny_folder, "tag_repeated_nc4")


def test_forward_takes_ids_or_embeddings(tiny_bridge: Phi3VForCausalLM) -> None:
    ids = torch.tensor([[1, 15043, 3186]])
    embeds = tiny_bridge.get_input_embeddings()(ids)
    with torch.inference_mode():
        assert torch.equal(
            tiny_bridge(inputs_embeds=embeds).logits, tiny_bridge(input_ids=ids).logits
        )
    with pytest.raises(PromptError, match="either input_ids or inputs_embeds"):
        tiny_bridge()
