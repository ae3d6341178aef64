"""Which calls of `generate` the engine can answer as transformers' own loop would.

Owns the reasons for which it cannot, each a few words that a user may be told. Whatever is not
known to be the same is transformers'.

Dimensions: B rows, T tokens of a padded prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from phisight.errors import OptionError
from phisight.hf.cache import Phi3VCache
from phisight.params import SamplingOptions, sampling_params

_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_INPUTS = {"attention_mask", "inputs_embeds", "logits_to_keep", "past_key_values", "position_ids"}
_INPUTS |= {"tokenizer", "use_cache"}
# In the order in which both apply them, with the options they are.
_PROCESSORS: dict[type, tuple[str, str]] = {
    RepetitionPenaltyLogitsProcessor: ("repetition_penalty", "penalty"),
    TemperatureLogitsWarper: ("temperature", "temperature"),
    TopKLogitsWarper: ("top_k", "top_k"),
    TopPLogitsWarper: ("top_p", "top_p"),
    MinPLogitsWarper: ("min_p", "min_p"),
}


class NewCache(Phi3VCache):
    """The cache of one call of `generate`, made for it: nobody waits for it to be filled."""


class NotEligibleError(Exception):
    """Why transformers answers; never leaves this room."""


@dataclass(frozen=True)
class Call:
    """What transformers has made of a call of `generate` when the first token is to be chosen."""

    input_ids: Tensor  # (B, T), image places are 0
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    config: GenerationConfig
    synced_gpus: bool
    streamer: BaseStreamer | None
    inputs: Mapping[str, Any]


def check_model(model: PreTrainedModel, made_of: Sequence[type]) -> None:
    """Raise NotEligibleError where calling the modules is more than reading their weights.

    `made_of` are the types of all modules as they were made.
    """
    if model.training:
        raise NotEligibleError("the model is in training mode")
    if torch.is_grad_enabled():
        raise NotEligibleError("gradients are wanted")
    if torch.compiler.is_compiling():
        raise NotEligibleError("the call is being compiled")
    if type(model).__module__ != "phisight.hf.model":
        raise NotEligibleError(f"{type(model).__name__} is a class of its own")
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "flash_attention_2"):
        raise NotEligibleError(f"attn_implementation={attention}")
    if "prepare_inputs_for_generation" in model.__dict__:
        raise NotEligibleError("prepare_inputs_for_generation is replaced")
    modules = list(model.modules())
    if [type(module) for module in modules] != list(made_of):
        raise NotEligibleError("modules were replaced, as an adapter does")
    if any(_is_hooked(module) for module in modules):
        raise NotEligibleError("a module has a hook or another forward")
    if nn.modules.module._has_any_global_hook():
        raise NotEligibleError("all modules have a hook")
    _check_weights(list(model.parameters()))


def _is_hooked(module: nn.Module) -> bool:
    own = module.__dict__
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
    )


def _check_weights(weights: Sequence[Tensor]) -> None:
    devices = {weight.device for weight in weights}
    if len(devices) != 1 or next(iter(devices)).type not in ("cpu", "cuda"):
        raise NotEligibleError(f"weights on {_listed(devices)}")
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) != 1 or next(iter(dtypes)) not in _DTYPES:
        raise NotEligibleError(f"weights in {_listed(dtypes)}")
    if any(type(weight) is not nn.Parameter for weight in weights):
        raise NotEligibleError("weights that are no plain tensors")
    if torch.is_autocast_enabled(next(iter(devices)).type):
        raise NotEligibleError("autocast")


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "no device"


def check_call(call: Call, context: int) -> None:
    """Raise NotEligibleError for what the engine does not do; `context` is a bound of tokens."""
    config, inputs = call.config, call.inputs
    if call.synced_gpus:
        raise NotEligibleError("synced_gpus")
    if getattr(config, "is_assistant", False):
        raise NotEligibleError("it drafts for another model")
    if config.return_dict_in_generate:
        raise NotEligibleError("return_dict_in_generate")
    for name in ("output_attentions", "output_hidden_states", "output_scores", "output_logits"):
        if getattr(config, name):
            raise NotEligibleError(name)
    if config.prefill_chunk_size is not None:
        raise NotEligibleError("prefill_chunk_size")
    if not inputs.get("use_cache"):
        raise NotEligibleError("use_cache=False")
    cache = inputs.get("past_key_values")
    if type(cache) is not NewCache or cache.get_seq_length():
        raise NotEligibleError("a cache of the caller's")
    for name, value in inputs.items():
        if name not in _INPUTS and value is not None:
            raise NotEligibleError(name)
    embedded = inputs.get("inputs_embeds")
    if embedded is not None and embedded.shape[:2] != call.input_ids.shape:
        raise NotEligibleError("inputs_embeds without their ids")
    if call.input_ids.shape[1] >= context:
        raise NotEligibleError(f"a prompt that fills the context of {context} tokens")


def row_lengths(call: Call) -> list[int]:
    """Tokens of each row's prompt, padded on the left. Raises NotEligibleError for other masks."""
    num_rows, width = call.input_ids.shape
    device, mask = call.input_ids.device, call.inputs.get("attention_mask")
    places = torch.arange(width, device=device)
    if mask is None:
        lengths = torch.full((num_rows,), width, device=device)
    elif mask.dim() == 2 and mask.shape == call.input_ids.shape:
        lengths = mask.to(device).bool().sum(1)
    else:
        raise NotEligibleError("an attention_mask of another shape")
    starts = width - lengths[:, None]  # (B, 1)
    seen = places >= starts  # (B, T)
    wrong = torch.zeros((), dtype=torch.bool, device=device)
    if mask is not None:
        wrong = (mask.to(device) != seen).any()
    positions = call.inputs.get("position_ids")
    if positions is not None:
        if positions.dim() != 2 or positions.shape[1] != width:
            raise NotEligibleError("position_ids of another shape")
        wrong = wrong | ((positions.to(device) != places - starts) & seen).any()
    *counts, amiss = torch.cat([lengths, wrong[None].to(lengths)]).tolist()
    if amiss or not all(counts):
        raise NotEligibleError(
            "an attention_mask or position_ids other than of padding on the left"
        )
    return [int(count) for count in counts]


def sampling_of(call: Call) -> SamplingOptions:
    """The options that mean what the call's processors do. Raises NotEligibleError if none do."""
    options: dict[str, Any] = {"temperature": 1.0 if call.config.do_sample else 0.0}
    known = list(_PROCESSORS)
    last = -1
    for processor in call.processors:
        place = known.index(type(processor)) if type(processor) in known else -1
        is_plain = getattr(processor, "min_tokens_to_keep", 1) == 1
        is_plain &= getattr(processor, "filter_value", -torch.inf) == -torch.inf
        if place <= last or not is_plain:
            raise NotEligibleError(type(processor).__name__)
        last = place
        name, attribute = _PROCESSORS[type(processor)]
        if call.config.do_sample or name == "repetition_penalty":
            options[name] = getattr(processor, attribute)
    try:
        sampling_params(options)
    except OptionError as error:
        raise NotEligibleError(str(error)) from None
    return SamplingOptions(**options)  # type: ignore[typeddict-item]


def penalized_ids(call: Call, lengths: Sequence[int]) -> list[frozenset[int]]:
    """The ids of each row that the repetition penalty counts: image places as 0, and in some
    versions of transformers padding. Raises NotEligibleError if it leaves out a part of a prompt.
    """
    rows, width = call.input_ids.tolist(), call.input_ids.shape[1]
    for processor in call.processors:
        if type(processor) is RepetitionPenaltyLogitsProcessor:
            skipped = processor.prompt_ignore_length
            left_out = torch.as_tensor(0 if skipped is None else skipped).expand(len(rows))
            starts = left_out.tolist()
            if any(start > width - length for start, length in zip(starts, lengths, strict=True)):
                raise NotEligibleError("prompt_ignore_length")
            return [frozenset(row[start:]) for row, start in zip(rows, starts, strict=True)]
    return [frozenset()] * len(rows)
