"""What the bridge saves is a model folder like those it reads."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

import phisight.hf


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
