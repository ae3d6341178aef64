"""Model configuration, read from a checkpoint's JSON files into frozen values. No torch.

Every value that would change the mathematics is either implemented or refused with a ConfigError;
nothing is assumed silently. Field meanings follow the official `configuration_phi3_v.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phisight import jsonfile
from phisight.errors import ConfigError
from phisight.hd import CELLS, CROP, PATCHES
from phisight.options import option_field
from phisight.packing import chosen_weights, stored_weights
from phisight.params import LoadOptions

# What a model folder must hold besides its weights.
TEXT_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
_MOST_LAYERS = 1024

# What each key may be where it stands in the JSON; an absent key means the first value.
_FIXED_MODEL: dict[str, tuple[object, ...]] = {
    "model_type": ("phi3_v",),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "partial_rotary_factor": (1.0,),
}
_FIXED_EMBEDDING: dict[str, tuple[object, ...]] = {
    "embedding_cls": ("image",),
    "hd_transform_order": ("sub_glb",),
    "projection_cls": ("mlp",),
    "use_hd_transform": (True,),
    "with_learnable_separator": (True,),
}
_FIXED_IMAGE: dict[str, tuple[object, ...]] = {
    "name": ("clip_vision_model",),
    "model_name": ("openai/clip-vit-large-patch14-336",),
    "num_img_tokens": (CELLS * CELLS,),
    "type_feature": ("patch",),
    "layer_idx": (-2, -1),
}
_FIXED_VISION: dict[str, tuple[object, ...]] = {
    "image_size": (CROP,),
    "patch_size": (CROP // PATCHES,),
    "num_channels": (3,),
    "hidden_act": ("quick_gelu",),
    "attention_dropout": (0.0,),
}


@dataclass(frozen=True)
class VisionConfig:
    """The CLIP tower. `num_layers` counts the layers inference runs, of `num_stored_layers`."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    num_stored_layers: int
    layer_norm_eps: float


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding; without scaling both factor tuples are all ones.

    Short factors serve sequences of up to `original_max_positions` tokens, long ones the others.
    """

    theta: float
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    attention_scale: float  # multiplies cos and sin, with short and long factors alike


@dataclass(frozen=True)
class ModelConfig:
    """A Phi-3-V model: language model, vision tower and rotary embedding."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    vision: VisionConfig
    weights: str | None = None  # bits of the language model's: a value of LoadOptions.weights
    activations: str | None = None  # of LoadOptions.activations

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class ProcessorConfig:
    """How pictures are normalized: values from preprocessor_config.json."""

    num_crops: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


def read_model_config(
    folder: Path, weights: str | None = None, activations: str | None = None
) -> ModelConfig:
    """The model described by config.json and, where present, generation_config.json.

    `weights` and `activations` as in LoadOptions. Raises ConfigError, OptionError.
    """
    config = model_config(jsonfile.read_json(folder / "config.json"))
    packed = chosen_weights(config.weights, weights, activations)
    config = replace(config, weights=packed, activations=activations)
    generation = folder / "generation_config.json"
    if not generation.exists():
        return config
    eos = jsonfile.read_json(generation).get("eos_token_id")
    more = jsonfile.token_ids(eos, "eos_token_id of generation_config")
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *more))))


def model_config(data: Mapping[str, Any]) -> ModelConfig:
    """config.json as a ModelConfig. Raises ConfigError on what is not implemented."""
    jsonfile.check_fixed(data, _FIXED_MODEL, "")
    embedding = jsonfile.section(data, "embd_layer")
    # The official code's own defaults are other values, so none of these may be left out.
    jsonfile.check_fixed(
        {**dict.fromkeys(_FIXED_EMBEDDING), **embedding}, _FIXED_EMBEDDING, "embd_layer."
    )
    if "rope_scaling" not in data:
        raise ConfigError(
            "rope_scaling is missing (null for none); rope_parameters is not read in its place"
        )
    hidden = jsonfile.whole_number(data, "hidden_size")
    heads = jsonfile.whole_number(data, "num_attention_heads")
    if hidden % heads or hidden // heads % 2:
        raise ConfigError(f"hidden_size={hidden} does not split into {heads} heads of even size")
    if data.get("num_key_value_heads", heads) != heads:
        raise ConfigError(
            f"num_key_value_heads={data['num_key_value_heads']}: must equal "
            f"num_attention_heads={heads}; this family has no grouped-query attention"
        )
    max_positions = jsonfile.whole_number(data, "max_position_embeddings")
    # Phi-3-V files name a window as long as the context: it masks nothing.
    if (
        data.get("sliding_window") is not None
        and (window := jsonfile.whole_number(data, "sliding_window")) < max_positions
    ):
        raise ConfigError(
            f"sliding_window={window} is below max_position_embeddings={max_positions}: "
            "windowed attention is not implemented"
        )
    return ModelConfig(
        hidden_size=hidden,
        intermediate_size=jsonfile.whole_number(data, "intermediate_size"),
        num_layers=jsonfile.whole_number(data, "num_hidden_layers", maximum=_MOST_LAYERS),
        num_heads=heads,
        vocab_size=jsonfile.whole_number(data, "vocab_size"),
        max_positions=max_positions,
        rms_norm_eps=jsonfile.positive(data, "rms_norm_eps"),
        eos_token_ids=jsonfile.token_ids(data.get("eos_token_id"), "eos_token_id"),
        rope=_rope_config(data, hidden // heads, max_positions),
        vision=_vision_config(jsonfile.section(data, "img_processor")),
        weights=stored_weights(data.get("quantization_config")),
    )


def read_processor_config(folder: Path) -> ProcessorConfig:
    """Crops and normalization from preprocessor_config.json."""
    data = jsonfile.read_json(folder / "preprocessor_config.json")
    jsonfile.check_fixed(data, {"num_img_tokens": (CELLS * CELLS,)}, "preprocessor ")
    triples = []
    for key in ("image_mean", "image_std"):
        values = jsonfile.numbers(data.get(key), key)
        if len(values) != 3 or (key == "image_std" and min(values) <= 0):
            raise ConfigError(f"{key}={data.get(key)!r}: expected three numbers, stds above 0")
        triples.append((values[0], values[1], values[2]))
    most = option_field(LoadOptions, "num_crops").metadata["maximum"]
    return ProcessorConfig(jsonfile.whole_number(data, "num_crops", maximum=most), *triples)


def _rope_config(data: Mapping[str, Any], head_dim: int, max_positions: int) -> RopeConfig:
    theta, half = jsonfile.positive(data, "rope_theta", 10000.0), head_dim // 2
    scaling = data.get("rope_scaling")
    needed = None if scaling is not None else max_positions
    original = jsonfile.whole_number(data, "original_max_position_embeddings", needed)
    if original == 1 and max_positions > 1:
        raise ConfigError("original_max_position_embeddings=1: must be at least 2")
    if scaling is None:
        ones = (1.0,) * half
        return RopeConfig(theta, ones, ones, original, 1.0)
    kind = scaling.get("type", scaling.get("rope_type")) if isinstance(scaling, Mapping) else None
    known = {"type", "rope_type", "short_factor", "long_factor"}
    if kind not in ("su", "longrope") or set(scaling) - known:
        raise ConfigError(
            f"rope_scaling={jsonfile.brief(scaling)}: only null or type 'su' / 'longrope' with "
            "short_factor and long_factor is implemented"
        )
    short = jsonfile.numbers(scaling.get("short_factor"), "rope_scaling.short_factor")
    long = jsonfile.numbers(scaling.get("long_factor"), "rope_scaling.long_factor")
    for name, values in (("short_factor", short), ("long_factor", long)):
        if len(values) != half or min(values) <= 0:
            raise ConfigError(
                f"rope_scaling.{name} has {len(values)} values: expected {half} positive numbers, "
                "half the size of a head"
            )
    stretch = max_positions / original
    scale = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return RopeConfig(theta, short, long, original, scale)


def _vision_config(data: Mapping[str, Any]) -> VisionConfig:
    jsonfile.check_fixed(data, _FIXED_IMAGE, "img_processor.")
    if "vision_config" in data:  # spelled out, as in `nano`
        vision = jsonfile.section(data, "vision_config")
        jsonfile.check_fixed(vision, _FIXED_VISION, "img_processor.vision_config.")
    else:  # openai/clip-vit-large-patch14-336, perhaps of another depth
        vision = {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": data.get("num_hidden_layers", 24),
        }
    hidden = jsonfile.whole_number(vision, "hidden_size")
    heads = jsonfile.whole_number(vision, "num_attention_heads")
    if hidden % heads:
        raise ConfigError(f"vision hidden_size={hidden} does not split into {heads} heads")
    if data.get("image_dim_out", hidden) != hidden:
        raise ConfigError(f"image_dim_out={data['image_dim_out']}: the vision tower gives {hidden}")
    stored = jsonfile.whole_number(vision, "num_hidden_layers", maximum=_MOST_LAYERS)
    # hidden_states[layer_idx] of the reference: -1 is the last layer's output, -2 the one before.
    used = stored + 1 + int(data.get("layer_idx", -2))
    return VisionConfig(
        hidden_size=hidden,
        intermediate_size=jsonfile.whole_number(vision, "intermediate_size"),
        num_heads=heads,
        num_layers=used,
        num_stored_layers=stored,
        layer_norm_eps=jsonfile.positive(vision, "layer_norm_eps", 1e-5),
    )
