"""config.json as transformers knows it. What it means is `phisight.config`'s to say."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from phisight.config import ModelConfig, model_config

# Classes for which ours are taken. Others of a folder's `auto_map` would be its own code.
_OURS = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText")
# What makes transformers run other code or read other files; the caller may say so, not a file.
_CALLERS_ONLY = (
    "custom_pipelines",
    "attn_implementation",
    "experts_implementation",
    "fusion_config",
    "transformers_weights",
)


class Phi3VConfig(PreTrainedConfig):
    """The official `configuration_phi3_v.py`: the same keys with the same defaults.

    Its values are checked when a model is made of it (`to_model_config`), not before: as in the
    official code `Phi3VConfig()` lacks `embd_layer` and `img_processor`.
    """

    model_type = "phi3_v"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - a Trainer adds a list to it

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attention_dropout: float = 0.0
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    # Kept as it stands in the file: transformers' own `rope_parameters` would be saved in its
    # place, which nothing else that reads this model family understands.
    rope_scaling: dict[str, Any] | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 32000
    pad_token_id: int | None = 32000
    sliding_window: int | None = None
    embd_layer: dict[str, Any] | None = None
    img_processor: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        # The published file asks for FlashAttention 2, whoever has it or not. Which attention is
        # used is the caller's choice, or transformers'.
        kwargs.pop("_attn_implementation", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', without what would bring in code: see _CALLERS_ONLY."""
        values = {key: value for key, value in config_dict.items() if key not in _CALLERS_ONLY}
        named = values.pop("auto_map", None)
        if isinstance(named, dict):
            values["auto_map"] = {key: named[key] for key in _OURS if key in named}
        return super().from_dict(values, **kwargs)

    @property
    def layer_types(self) -> list[str]:
        """The window (`sliding_window`) of these models is as long as their context."""
        return ["full_attention"] * self.num_hidden_layers

    def to_model_config(self) -> ModelConfig:
        """The network it describes. Raises ConfigError on what is not implemented."""
        values = self.to_dict()
        values.pop("quantization_config", None)  # transformers' own work, on the modules
        return model_config(values)
