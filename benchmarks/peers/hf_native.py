"""transformers' own Phi3 and CLIP at the published sizes, weights drawn on the device.

The adapter of the CUDA benchmarks: what a user of the library has without Phi-3-V's code. Pictures
are as many tokens of text to it.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from phisight.config import ModelConfig


def phi3(config: ModelConfig, device: str) -> Phi3ForCausalLM:
    """bfloat16, sdpa, no end of sequence. Short RoPE factors: what a step costs is the same."""
    made = Phi3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=1,
    )
    with torch.device(device):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = Phi3ForCausalLM(made).eval()
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = None
    return model


def clip(config: ModelConfig, device: str) -> CLIPVisionModel:
    """As many layers as Phi-3-V reads."""
    vision = config.vision
    made = CLIPVisionConfig(
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_layers,
        num_attention_heads=vision.num_heads,
        image_size=336,
        patch_size=14,
        hidden_act="quick_gelu",
    )
    return CLIPVisionModel(made).to(device, torch.bfloat16).eval()


@torch.inference_mode()
def decode(
    model: Phi3ForCausalLM, rows: int, prompt: int, new: int, **options: Any
) -> dict[str, float]:
    """Seconds to the first token, and tokens a second after it, of rows side by side."""
    ids = torch.randint(0, 32000, (rows, prompt), device=model.device)
    mask = torch.ones_like(ids)

    def seconds(count: int) -> float:
        times = []
        for number in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            model.generate(
                ids, attention_mask=mask, max_new_tokens=count, do_sample=False, **options
            )
            torch.cuda.synchronize()
            if number:
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    first, whole = seconds(2), seconds(new + 1)
    return {
        "first_two_s": round(first, 4),
        "tok_per_s": round(rows * (new - 1) / (whole - first), 1),
    }
