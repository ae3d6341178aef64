"""A model of the full architecture in a few thousand parameters, no two sizes alike.

Original maximum 40 tokens, so that crossing to the long RoPE factors is cheap to test; the
tokenizer is nano's, whose ids are bytes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import phisight
from phisight.config import ModelConfig, model_config
from phisight.model.phi3v import Phi3V

_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def config_json(**changes: Any) -> dict[str, Any]:
    """config.json's contents, some keys changed."""
    return {
        "model_type": "phi3_v",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": 270,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + 0.1 * i for i in range(8)],
            "long_factor": [1.0 + 2.5 * i for i in range(8)],
        },
        "max_position_embeddings": 900,
        "original_max_position_embeddings": 40,
        "hidden_act": "silu",
        "eos_token_id": 258,
        "torch_dtype": "float32",
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {
            "name": "clip_vision_model",
            "image_dim_out": 36,
            "num_img_tokens": 144,
            "vision_config": {
                "hidden_size": 36,
                "intermediate_size": 52,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
            },
        },
    } | changes


def config(**changes: Any) -> ModelConfig:
    return model_config(config_json(**changes))


def network(config: ModelConfig, dtype: torch.dtype = torch.float64, seed: int = 0) -> Phi3V:
    """Random weights, strong enough that the greedy answer varies."""
    generator = torch.Generator().manual_seed(seed)
    model = Phi3V(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = 1.0 if weight.dim() < 2 or "embed" in name else 2.0 * weight.shape[-1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    return model.to(dtype).requires_grad_(False).eval()


def write(folder: Path, *, shards: int = 1, **changes: Any) -> dict[str, torch.Tensor]:
    """A model folder; the tensors in it, those that inference never reads included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(**changes)))
    for name in _FILES:
        shutil.copy(Path(phisight.__file__).parent / "assets" / "nano" / name, folder)
    tensors = {
        k: v.contiguous() for k, v in network(config(**changes), torch.float32).state_dict().items()
    }
    tower = "model.vision_embed_tokens.img_processor.vision_model."
    for part in ("weight", "bias"):
        tensors[f"{tower}post_layernorm.{part}"] = torch.ones(36)
        tensors[f"{tower}encoder.layers.2.layer_norm1.{part}"] = torch.ones(36)
    save_sharded(folder, tensors, shards)
    return tensors


def save_sharded(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """model.safetensors, or shards with their index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
