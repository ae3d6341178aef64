"""`generate` for pictures: what transformers' own needs to know of this model.

Owns how pictures enter generation (as embeddings, encoded once), which cache it uses, and where it
ends. Greedy and plain sampled answers are then our engine's (`route`); everything else, from beams
to assistants, is transformers'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin

from phisight.config import ModelConfig
from phisight.errors import PromptError
from phisight.hf.config import Phi3VConfig
from phisight.hf.eligible import Call, NewCache
from phisight.hf.embedding import embed
from phisight.hf.route import EngineRoute
from phisight.hf.writing import EndOfContext
from phisight.model.phi3v import Phi3VModel


class Phi3VGeneration(GenerationMixin):
    """The generation half of Phi3VForCausalLM."""

    config: Phi3VConfig
    structure: ModelConfig
    model: Phi3VModel
    engine: EngineRoute

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        stopping_criteria: Any = (),
        **kwargs: Any,
    ) -> Any:
        """As transformers' `generate`. Image places come back as 0, as from the official code.

        Pictures are encoded once, whatever the number of beams. Ends at the end of the context.
        `self.engine.taken` says afterwards whether the engine or transformers has answered.
        """
        ids = inputs if input_ids is None else input_ids
        if ids is not None and bool((ids < 0).any()):
            if kwargs.get("inputs_embeds") is None:
                with torch.no_grad():
                    kwargs["inputs_embeds"] = embed(self.model, ids, pixel_values, image_sizes)
            ids = ids.clamp(min=0)  # a copy: the caller's ids stay as they are
        elif pixel_values is not None:
            raise PromptError("pixel_values without places for them in input_ids")
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and not bool(mask[:, -1].all()):
            raise PromptError(
                "attention_mask ends with padding, and an answer would go on after that: pad on "
                "the left, as the processor does unless told otherwise"
            )
        self.engine.begin()
        ends = EndOfContext(self.structure.max_positions)
        return super().generate(
            ids, generation_config, stopping_criteria=[*(stopping_criteria or ()), ends], **kwargs
        )

    def _sample(
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """transformers' loop of greedy and sampled answers, or the engine in its place."""
        call = Call(
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus,
            streamer,
            model_kwargs,
        )
        ids = self.engine.answer(self, call)
        if ids is not None:
            return ids
        return super()._sample(
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus=synced_gpus,
            streamer=streamer,
            **model_kwargs,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """transformers', where a prompt of embeddings may also come in chunks, or have drafted
        tokens after it."""
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if inputs_embeds is not None and past < inputs_embeds.shape[1]:
            is_first_iteration = True  # which transformers 5.17 does not say of chunks
            if next_sequence_length is None:
                drafted = input_ids[:, inputs_embeds.shape[1] - past :]
                whole = torch.cat([inputs_embeds, self.model.embed_tokens(drafted)], dim=1)
                inputs_embeds = whole[:, past : past + input_ids.shape[1]]
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        inputs.pop("tokenizer", None)  # generate's, for stop_strings; no argument of forward
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        kind = generation_config.cache_implementation
        if (
            generation_config.use_cache
            and kind in (None, "dynamic")
            and model_kwargs.get("past_key_values") is None
        ):
            model_kwargs["past_key_values"] = NewCache(self.config)
        else:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
