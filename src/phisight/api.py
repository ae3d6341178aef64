"""The Python door: `load()`, `Model.ask`, `Model.stream`.

Joins processing, model and engine. Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from phisight.answer import Answer, Stream, Timings, Usage
from phisight.config import ModelConfig, read_model_config
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.engine.request import Request
from phisight.errors import BudgetError, ConfigError, PromptError
from phisight.hub import ModelFolder, find_model
from phisight.model.memory import is_out_of_memory
from phisight.model.phi3v import EncodedImage, Phi3V
from phisight.model.weights import load_model
from phisight.params import LoadOptions, SamplingParams
from phisight.placement import Placement, choose_placement
from phisight.processing.chat import Message
from phisight.processing.image import ImageCrops, ImageSource
from phisight.processing.processor import Processor, Prompt

_DEFAULTS = SamplingParams()


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    num_crops: int | None = None,
) -> Model:
    """Load a model: a folder, a name such as "phi-3.5-vision", a hub id in the local cache.

    Without a name it is the bundled `nano`. `device` and `dtype` are chosen if left out, and
    `Model.placement` says which and why; `num_crops` is the most crops a picture is cut into (the
    checkpoint's own number if left out). Raises ModelError, OptionError, DeviceError and, where
    the weights do not fit the memory, BudgetError.
    """
    options = LoadOptions(device=device, dtype=dtype, num_crops=num_crops)
    folder = find_model(model)
    placement = choose_placement(options.device, options.dtype)
    config = read_model_config(folder.path)
    processor = Processor(folder.path, options.num_crops)
    if processor.tokenizer.size > config.vocab_size:
        raise ConfigError(
            f"{folder.path}: tokenizer.json has {processor.tokenizer.size} tokens, "
            f"config.json only vocab_size={config.vocab_size}"
        )
    try:
        network = load_model(folder.path, config, device=placement.device, dtype=placement.dtype)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BudgetError(
            f"no memory on {placement.device} for {folder.name} in {placement.dtype}: "
            'use another device (device="cpu") or dtype="bfloat16"'
        ) from None
    return Model(folder, config, network, processor, placement)


class Model:
    """A loaded model. Its methods may be called from several threads; requests wait their turn."""

    def __init__(
        self,
        folder: ModelFolder,
        config: ModelConfig,
        network: Phi3V,
        processor: Processor,
        placement: Placement,
    ) -> None:
        self.name, self.path = folder.name, folder.path
        self.note = folder.note  # one line a newcomer should know, or None
        self.placement = placement
        self.config, self.network, self.processor = config, network, processor
        self._loop = EngineLoop(Engine(network))
        # By string from the tokenizer, and the eos of config.json and generation_config.json.
        self.stop_ids = processor.tokenizer.stop_ids | frozenset(config.eos_token_ids)

    def __repr__(self) -> str:
        return f"<phisight.Model {self.name} on {self.placement}>"

    def ask(
        self,
        prompt: str | Sequence[Message] | Prompt,
        images: Sequence[ImageSource] = (),
        *,
        max_tokens: int = _DEFAULTS.max_tokens,
        temperature: float = _DEFAULTS.temperature,
        top_p: float = _DEFAULTS.top_p,
        seed: int | None = _DEFAULTS.seed,
    ) -> Answer:
        """The answer to a question about some pictures (paths, bytes of files, PIL images).

        A plain string is one user message with the pictures before it; a string that starts with
        <|user|> or <|system|> is a raw prompt with <|image_n|> tags; messages are
        {"role", "content"} mappings whose content is a string or text and image parts. Other
        options as in SamplingParams. Raises InputError.
        """
        return self.stream(
            prompt,
            images,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        ).finish()

    def stream(
        self,
        prompt: str | Sequence[Message] | Prompt,
        images: Sequence[ImageSource] = (),
        *,
        max_tokens: int = _DEFAULTS.max_tokens,
        temperature: float = _DEFAULTS.temperature,
        top_p: float = _DEFAULTS.top_p,
        seed: int | None = _DEFAULTS.seed,
    ) -> Stream:
        """As `ask`, in pieces: iterate over the text, then read `.answer`."""
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        began = time.perf_counter()
        if not isinstance(prompt, Prompt):
            prompt = self.processor.prompt(prompt, images)
        elif images:
            raise PromptError("a Prompt already holds its pictures: leave `images` out")
        self._loop.check_fits(len(prompt.ids))  # before the pictures are encoded
        processed = time.perf_counter()
        encoded = [self._encode(picture) for picture in prompt.images]
        request = Request(prompt.ids, encoded, params, self.stop_ids)
        return Stream(
            self._loop,
            request,
            self.processor.tokenizer.text_stream(),
            Usage(len(prompt.ids), prompt.num_image_tokens),
            Timings(processing=processed - began, vision=time.perf_counter() - processed),
        )

    def _encode(self, picture: ImageCrops) -> EncodedImage:
        layout = picture.layout
        try:
            with torch.inference_mode():
                image = self.network.encode_image(picture.pixels, layout.rows, layout.cols)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BudgetError(
                f"no memory on {self.network.device} to encode {layout.num_crops} crops: "
                "use fewer crops (num_crops)"
            ) from None
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)  # or the time would be the prefill's
        return image
