"""`Phi3VForCausalLM` for transformers: our network behind the official class's face.

Owns the arguments of `forward` and `generate`. Follows the official `modeling_phi3_v.py`, but
pictures stand where their tags' numbers say, batches may hold pictures, and the caller's ids are
never written to.

Dimensions: B rows, T tokens, D hidden size, N pictures, V vocabulary size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import is_flash_attn_2_available

from phisight.errors import OptionError, PhisightWarning, PromptError
from phisight.hf.cache import Phi3VCache
from phisight.hf.config import Phi3VConfig
from phisight.hf.embedding import embed
from phisight.hf.generation import Phi3VGeneration
from phisight.hf.loading import add_stop_ids, check_files, check_info
from phisight.hf.network import BatchReader, Record
from phisight.hf.route import EngineRoute
from phisight.model.decoder import widened
from phisight.model.packed import FullLinear
from phisight.model.phi3v import Phi3VModel
from phisight.model.projector import ImageEmbedding
from phisight.model.vision import VisionEmbeddings, VisionLayer

_UNREAD = r"vision_model\.(post_layernorm|encoder\.layers\.\d+)\."


class Phi3VForCausalLM(PreTrainedModel, Phi3VGeneration, GenerationMixin):
    """Phi-3-V under transformers: `from_pretrained`, `generate`, training, LoRA."""

    config_class = Phi3VConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # a Trainer then divides by the words of all accumulated batches
    is_causal = True  # this and the next for transformers' attention functions
    num_key_value_groups = 1
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ("DecoderLayer", "ImageEmbedding")
    _keys_to_ignore_on_load_missing = (_UNREAD,)
    _keys_to_ignore_on_load_unexpected = (
        r"vision_embed_tokens\.wte\.weight",  # the token embeddings, saved a second time
        r"position_ids$",
        r"rotary_emb\.inv_freq$",
    )

    def __init__(self, config: Phi3VConfig) -> None:
        if config._attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
            warnings.warn(
                "flash_attention_2 was asked for and flash-attn is not installed: using sdpa, "
                "torch's own, which needs nothing else",
                PhisightWarning,
                stacklevel=2,
            )
            config._attn_implementation = "sdpa"
        super().__init__(config)
        self.structure = config.to_model_config()
        self.model = Phi3VModel(self.structure)
        self.lm_head = FullLinear(config.hidden_size, config.vocab_size, bias=False)
        self._add_unread()
        self.gradient_checkpointing = False
        self.engine = EngineRoute(self.modules())
        self.post_init()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Phi3VForCausalLM:
        """As ever (`to`, `cuda`, `half`); an engine made for the weights' old places goes."""
        self.engine.free()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Phi3VForCausalLM:
        """As ever; training needs the memory that an engine was keeping."""
        if mode:
            self.engine.free()
        return super().train(mode)

    def _add_unread(self) -> None:
        """Modules that are saved and never run, so that a saved folder is whole for other tools."""
        vision = self.structure.vision
        tower = self.model.vision_embed_tokens.img_processor.vision_model
        unread = [VisionLayer(vision) for _ in range(vision.num_layers, vision.num_stored_layers)]
        tower.encoder.layers.extend(unread)
        tower.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        for module in (*unread, tower.post_layernorm):
            module.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, VisionEmbeddings):
            init.normal_(module.class_embedding, std=std)
        elif isinstance(module, ImageEmbedding):
            init.normal_(module.glb_GN, std=std)
            init.normal_(module.sub_GN, std=std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', from safetensors only and without the folder's code. Missing, left-over
        and misshapen tensors are a CheckpointError, and the default stop ids are those that end a
        turn."""
        check_files(pretrained_model_name_or_path, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        may_mismatch = kwargs.pop("ignore_mismatched_sizes", False)
        options = kwargs | {
            "use_safetensors": True,
            "trust_remote_code": False,  # else its custom_generate/generate.py would be run
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # told by us, with names
        }
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        check_info(pretrained_model_name_or_path, info, may_mismatch=may_mismatch)
        # An adapter's folder stands for its base model's.
        name = model.config.name_or_path or pretrained_model_name_or_path
        add_stop_ids(model.generation_config, model.structure, name, kwargs)
        if model.generation_config.pad_token_id is None:
            model.generation_config.pad_token_id = model.config.pad_token_id
        return (model, info) if wants_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Logits (B, T, V) in float32 of (B, T) ids, and the loss if there are (B, T) labels.

        -n in `input_ids` is the place of a row's picture n; `pixel_values` (N, crops, 3, 336, 336)
        and `image_sizes` (N, 2), in pixels, hold the pictures of all rows, row by row. Labels of
        -100 are not counted. `logits_to_keep` gives the last so many positions only.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise PromptError("forward takes either input_ids or inputs_embeds, and one of them")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = embed(self.model, input_ids, pixel_values, image_sizes)
        output_attentions = self._gives_attentions(output_attentions)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if isinstance(attention_mask, dict):  # 4-D, by kind of layer, for a static cache
            attention_mask = attention_mask["full_attention"]
        if attention_mask is not None:
            attention_mask = attention_mask.to(inputs_embeds.device)
        checkpointing = self.gradient_checkpointing and self.training
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if checkpointing:  # a layer that is run again must not write to the cache again
            use_cache, past_key_values = False, None
        if use_cache and past_key_values is None:
            past_key_values = Phi3VCache(self.config)
        record = Record([] if output_hidden_states else None, [] if output_attentions else None)
        positions = _positions(inputs_embeds, position_ids, attention_mask, past_key_values)
        reader = BatchReader(
            self, self.structure, self.model, self._checkpointed if checkpointing else _call
        )
        hidden = reader.read(
            inputs_embeds,
            positions,
            attention_mask,
            past_key_values,
            record=record,
            num_wanted=logits_to_keep if isinstance(logits_to_keep, int) else 0,
        )  # (B, T, D)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = widened(self.lm_head(hidden[:, kept]))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:2]:
                raise PromptError(
                    f"labels are {list(labels.shape)} and logits {list(logits.shape[:2])}: labels "
                    "need every position; leave logits_to_keep out"
                )
            loss = self.loss_function(
                logits, labels, self.config.vocab_size, num_items_in_batch=num_items_in_batch
            )
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(record.hidden_states) if record.hidden_states else None,
            attentions=tuple(record.attentions) if record.attentions else None,
        )
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def _gives_attentions(self, asked: bool | None) -> bool:
        wanted = self.config.output_attentions if asked is None else asked
        if wanted and self.config._attn_implementation != "eager":
            raise OptionError(
                f"output_attentions: {self.config._attn_implementation} does not give them; load "
                'the model with attn_implementation="eager"'
            )
        return bool(wanted)

    def _checkpointed(self, layer: nn.Module, *args: Any) -> Tensor:
        return self._gradient_checkpointing_func(layer.__call__, *args)


def _call(layer: nn.Module, *args: Any) -> Tensor:
    return layer(*args)


def _positions(x: Tensor, given: Tensor | None, mask: Tensor | None, cache: Cache | None) -> Tensor:
    """(B, T) positions of the (B, T, D) inputs: those given, or by the 2-D mask, or in order."""
    num_rows, num_tokens = x.shape[:2]
    past = 0 if cache is None else int(cache.get_seq_length())
    if mask is not None and mask.dim() == 2 and mask.shape[1] != past + num_tokens:
        raise PromptError(
            f"attention_mask has {mask.shape[1]} columns for {num_tokens} tokens after {past} in "
            "the cache: it needs one for each"
        )
    if given is not None:
        positions = given
    elif mask is not None and mask.dim() == 2:
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -num_tokens:]
    else:
        positions = torch.arange(past, past + num_tokens)[None]
    return positions.to(x.device).expand(num_rows, -1)
