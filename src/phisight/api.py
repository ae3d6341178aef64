"""The Python door: `load()` and `Model`.

Joins processing, model and engine. Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

import torch

from phisight.answer import Answer, Stream, Timings, Usage
from phisight.chat import Chat
from phisight.config import ModelConfig, read_model_config
from phisight.cost import Cost
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.engine.request import Request
from phisight.errors import ConfigError, ImageError, InputError, OptionError, PromptError
from phisight.hub import ModelFolder, find_model
from phisight.model.memory import budget_error, free_bytes
from phisight.model.phi3v import EncodedImage, Phi3V
from phisight.model.weights import load_model
from phisight.params import LoadOptions, SamplingOptions, SamplingParams, sampling_params
from phisight.placement import Placement, choose_placement
from phisight.processing.chat import Message
from phisight.processing.image import ImageCrops, ImageSource
from phisight.processing.processor import Processor, Prompt, ReadyImage
from phisight.rows import answers

Question = str | Sequence[Message] | Prompt
Picture = ImageSource | ReadyImage


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    num_crops: int | None = None,
) -> Model:
    """Load a model: a folder, a name such as "phi-3.5-vision", a hub id in the local cache.

    Without a name it is the one in PHISIGHT_MODEL, or chosen by `phisight use`, or the bundled
    `nano`; `Model.chosen_by` says which of these. `device` and `dtype` are chosen if left out, and
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
    with budget_error(
        f"no memory on {placement.device} for {folder.name} in {placement.dtype}: "
        'use another device (device="cpu") or dtype="bfloat16"'
    ):
        network = load_model(folder.path, config, device=placement.device, dtype=placement.dtype)
    return Model(folder, config, network, processor, placement)


class Model:
    """A loaded model. Its methods may be called from several threads; requests wait their turn.

    Wherever a method takes pictures, they are paths, URLs, bytes of files, PIL images, or what
    `encode_image` gave. Sampling options are those of SamplingParams; unknown ones are refused.
    """

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
        self.chosen_by = folder.chosen_by  # "named", "PHISIGHT_MODEL", "phisight use", ...
        self.placement = placement
        self.config, self.network, self.processor = config, network, processor
        self._loop = EngineLoop(Engine(network))
        # By string from the tokenizer, and the eos of config.json and generation_config.json.
        self.stop_ids = processor.tokenizer.stop_ids | frozenset(config.eos_token_ids)

    def __repr__(self) -> str:
        return f"<phisight.Model {self.name} on {self.placement}>"

    def ask(
        self,
        prompt: Question,
        images: Sequence[Picture] = (),
        **options: Unpack[SamplingOptions],
    ) -> Answer:
        """The answer to a question about some pictures.

        A plain string is one user message with the pictures before it; a string that starts with
        <|user|> or <|system|> is a raw prompt with <|image_n|> tags; messages are
        {"role", "content"} mappings whose content is a string or text and image parts. Options:
        max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, logprobs.
        Raises InputError.
        """
        return self.stream(prompt, images, **options).finish()

    def stream(
        self,
        prompt: Question,
        images: Sequence[Picture] = (),
        **options: Unpack[SamplingOptions],
    ) -> Stream:
        """As `ask`, in pieces: iterate over the text, then read `.answer`."""
        return self._stream(prompt, images, sampling_params(options))

    def chat(self, messages: Sequence[Message] = ()) -> Chat:
        """A conversation that remembers its turns, begun with earlier messages if there are any."""
        return Chat(self, messages)

    def encode_image(self, image: Picture) -> EncodedImage:
        """A picture's image tokens, to be asked about any number of times with this loaded model.

        Saves opening, cutting and the vision tower each time. Raises ImageError and BudgetError.
        """
        return self._encoded(self.processor.image(image))

    def cost(self, prompt: Question, images: Sequence[Picture] = ()) -> Cost:
        """What a question would take, without running the model. Raises InputError as `ask` does,
        but not for a prompt that is too long: `Cost.fits` says that."""
        ready = self._prompt(prompt, images)
        crops = sum(len(image.pixels) for image in ready.images if isinstance(image, ImageCrops))
        return Cost(
            prompt_tokens=len(ready.ids),
            image_tokens=tuple(picture.num_tokens for picture in ready.images),
            context=self.config.max_positions,
            prompt_bytes=self.network.bytes_to_read(len(ready.ids)),
            token_bytes=self.network.bytes_per_token_cached(),
            flops=self.network.flops(len(ready.ids), crops),
            free_bytes=free_bytes(self.network.device),
        )

    @overload
    def map(
        self,
        rows: Iterable[Any],
        request: Callable[[Any], Mapping[str, Any]] | None = None,
        *,
        errors: Literal["raise"] = "raise",
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Answer]: ...

    @overload
    def map(
        self,
        rows: Iterable[Any],
        request: Callable[[Any], Mapping[str, Any]] | None = None,
        *,
        errors: Literal["return"],
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Answer | InputError]: ...

    def map(
        self,
        rows: Iterable[Any],
        request: Callable[[Any], Mapping[str, Any]] | None = None,
        *,
        errors: str = "raise",
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Answer | InputError]:
        """Answers to rows of any iterable, a Hugging Face dataset among them, in the rows' order.

        A row is a mapping with `prompt`, perhaps `images` (a list), and options of its own that
        replace the common ones; `request` makes one of a row that has other columns. Rows are read
        as answers are taken. A row that cannot be asked raises its InputError, led by the row's
        number; with errors="return" the error stands in the answer's place and the rest go on.
        """
        if errors not in ("raise", "return"):
            raise OptionError(f"errors={errors!r}: expected 'raise' or 'return'")
        sampling_params(options)  # a mistake in them is no row's
        return answers(
            rows,
            request,
            lambda row: self._stream(
                row.prompt, row.images, sampling_params(options, row.options)
            ).finish(),
            return_errors=errors == "return",
        )

    def _stream(
        self, prompt: Question, images: Sequence[Picture], params: SamplingParams
    ) -> Stream:
        began = time.perf_counter()
        prompt = self._prompt(prompt, images)
        self._loop.check_fits(len(prompt.ids))  # before the pictures are encoded
        processed = time.perf_counter()
        encoded = [self._encoded(picture) for picture in prompt.images]
        request = Request(prompt.ids, encoded, params, self.stop_ids)
        return Stream(
            self._loop,
            request,
            self.processor.tokenizer,
            Usage(len(prompt.ids), prompt.num_image_tokens),
            Timings(processing=processed - began, vision=time.perf_counter() - processed),
        )

    def _prompt(self, prompt: Question, images: Sequence[Picture]) -> Prompt:
        if not isinstance(prompt, Prompt):
            prompt = self.processor.prompt(prompt, images)
        elif images:
            raise PromptError("a Prompt already holds its pictures: leave `images` out")
        if max(prompt.ids, default=0) >= self.config.vocab_size:
            raise PromptError(
                f"id {max(prompt.ids)} is outside the vocabulary of {self.config.vocab_size}"
            )
        for image in prompt.images:
            if isinstance(image, EncodedImage) and image.encoder is not self.network.mark:
                raise ImageError(
                    f"{image} belongs to another loaded model: use this one's encode_image"
                )
        return prompt

    def _encoded(self, picture: ReadyImage) -> EncodedImage:
        if isinstance(picture, EncodedImage):
            return picture
        assert isinstance(picture, ImageCrops), "all that a processor makes"
        layout = picture.layout
        needed = f"no memory on {self.network.device} to encode {layout.num_crops} crops"
        with budget_error(f"{needed}: use fewer crops (num_crops)"), torch.inference_mode():
            image = self.network.encode_image(picture.pixels, layout.rows, layout.cols)
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)  # or the time would be the prefill's
        return image
