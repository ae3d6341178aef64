"""What the bridge saves is a model folder like those it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, ProcessorMixin

import phisight.hf
from phisight.config import read_model_config
from phisight.model.weights import check_weights
from phisight.processing.processor import Processor


def test_a_saved_folder_serves_phisight_too(micro_folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    AutoModelForCausalLM.from_pretrained(micro_folder, dtype="auto").save_pretrained(saved)
    AutoProcessor.from_pretrained(micro_folder, num_crops=3).save_pretrained(saved)
    assert AutoProcessor.from_pretrained(saved).image_processor.num_crops == 3
    picture = Image.linear_gradient("L").resize((400, 300))
    before, after = (
        phisight.load(folder, num_crops=3).ask("What is it?", [picture], max_tokens=8)
        for folder in (micro_folder, saved)
    )
    assert after.token_ids == before.token_ids
    own_crops = phisight.load(saved).cost("What is it?", [picture])
    assert own_crops.prompt_tokens == before.usage.prompt_tokens


def test_a_saved_model_without_its_tokenizer_still_knows_where_turns_end(
    micro_folder: Path, tmp_path: Path
) -> None:
    """And so says nothing: generation_config.json has the ids."""
    AutoModelForCausalLM.from_pretrained(micro_folder).save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.generation_config.eos_token_id == [257, 258, 260]


def test_a_resized_vocabulary(micro_folder: Path, tmp_path: Path) -> None:
    model, ids = AutoModelForCausalLM.from_pretrained(micro_folder), torch.arange(1, 30)[None]
    with torch.inference_mode():
        before = model(ids).logits
        model.resize_token_embeddings(280)
        after = model(ids).logits
        assert after.shape == (1, 29, 280)
        assert torch.equal(after[..., :270], before)
        model.save_pretrained(tmp_path / "saved")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
        assert torch.equal(again(ids).logits, after)
    check_weights(tmp_path / "saved", read_model_config(tmp_path / "saved"))


def test_a_saved_processor_gives_the_same_inputs(official: Path, tmp_path: Path) -> None:
    before = AutoProcessor.from_pretrained(official, num_crops=2)
    before.save_pretrained(tmp_path)
    after = AutoProcessor.from_pretrained(tmp_path)
    text = (
        "<|system|>\nBe brief.<|end|>\n<|user|>\n<|image_1|>\n À  b</s>\n<|end|>\n<|assistant|>\n"
    )
    picture = Image.linear_gradient("L").resize((400, 300))
    ours, expected = after(text, picture), before(text, picture)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    prompt = Processor(tmp_path).prompt(text, [picture])
    assert list(prompt.ids) == expected["input_ids"][0].tolist()
    messages = [{"role": "user", "content": "Hi"}]
    assert after.apply_chat_template(messages) == before.apply_chat_template(messages)


def test_the_hub_gets_preprocessor_config_too(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `save_pretrained` uploads the files that it wrote itself, and no others."""
    processor = AutoProcessor.from_pretrained(official)
    pushed: list[tuple[type, dict[str, Any]]] = []
    for owner in (ProcessorMixin, type(processor.image_processor)):

        def save(self: Any, folder: Path, owner: type = owner, **options: Any) -> None:
            pushed.append((owner, options))

        monkeypatch.setattr(owner, "save_pretrained", save)
    options = {"push_to_hub": True, "repo_id": "me/mine"}
    processor.save_pretrained(tmp_path, **options)
    assert pushed == [(phisight.hf.Phi3VImageProcessor, options), (ProcessorMixin, options)]
