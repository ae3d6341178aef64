"""The Python door: `load()` and `Model`. Knows nothing of HTTP or of the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from phisight.answer import Answer, Stream, Timings, Usage
from phisight.chat import Chat
from phisight.config import ModelConfig, read_model_config
from phisight.cost import Cost
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.engine.request import Request
from phisight.errors import ConfigError, ImageError, InputError, OptionError, PromptError
from phisight.hub import ModelFolder, find_model
from phisight.model.identity import identity_of
from phisight.model.memory import budget_error
from phisight.model.phi3v import Crops, EncodedImage, Phi3V
from phisight.model.weights import load_model
from phisight.params import (
    EngineOptions,
    LoadOptions,
    SamplingOptions,
    SamplingParams,
    engine_config,
    sampling_params,
)
from phisight.placement import Placement, choose_placement
from phisight.processing.chat import Message
from phisight.processing.image import ImageCrops, ImageSource
from phisight.processing.processor import Processor, Prompt, ReadyImage
from phisight.rows import Row, answers

Question = str | Sequence[Message] | Prompt
Picture = ImageSource | ReadyImage


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    activations: str | None = None,
    num_crops: int | None = None,
    crops: str | None = None,
    **engine: Unpack[EngineOptions],
) -> Model:
    """Load a model: a folder, a name such as "phi-3.5-vision", a hub id in the local cache.

    Without a name: the one in PHISIGHT_MODEL, or chosen by `phisight use`, or the bundled `nano`,
    as `Model.chosen_by` says. Options are those of LoadOptions and EngineConfig: what is left out
    is chosen, as `Model.placement` tells. Raises ModelError, OptionError, DeviceError, BudgetError.
    """
    options = LoadOptions(
        device=device, dtype=dtype, weights=weights, activations=activations,
        num_crops=num_crops, crops=crops,
    )  # fmt: skip
    serving = engine_config(engine)
    folder = find_model(model)
    config = read_model_config(folder.path, options.weights, options.activations)
    placement = choose_placement(options.device, options.dtype, config.weights, config.activations)
    processor = Processor(folder.path, options.num_crops, options.crops)
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
        identity = identity_of(network, folder.path) if serving.cache_dir is not None else None
        made = Engine(network, serving, identity=identity)
    return Model(folder, config, network, processor, placement.noting(made.note), EngineLoop(made))


class Model:
    """A loaded model. Its methods may be called from several threads; requests run side by side.

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
        loop: EngineLoop,
    ) -> None:
        self.name, self.path = folder.name, folder.path
        self.note = folder.note  # one line a newcomer should know, or None
        self.chosen_by = folder.chosen_by  # "named", "PHISIGHT_MODEL", "phisight use", ...
        self.placement = placement
        self.config, self.network, self.processor = config, network, processor
        self._loop = loop
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
        max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
        frequency_penalty, logit_bias, seed, stop, ignore_eos, logprobs. Raises InputError.
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
        """A picture's image tokens, for any number of questions. Raises ImageError, BudgetError."""
        ready = _crops(self.processor.image(image))
        return ready if isinstance(ready, EncodedImage) else self._loop.encode(ready)

    def cost(self, prompt: Question, images: Sequence[Picture] = ()) -> Cost:
        """What a question would take, without running the model. Raises InputError as `ask` does,
        but not for a prompt that is too long: `Cost.fits` says that."""
        ready = self._prompt(prompt, images)
        crops = sum(len(image.pixels) for image in ready.images if isinstance(image, ImageCrops))
        return Cost(
            prompt_tokens=len(ready.ids),
            image_tokens=tuple(picture.num_tokens for picture in ready.images),
            context=self.config.max_positions,
            token_bytes=self._loop.bytes_per_token,
            cache_bytes=self._loop.cache_bytes,
            flops=self.network.flops(len(ready.ids), crops),
        )

    def ask_many(self, questions: Iterable[Mapping[str, Any]]) -> list[Answer]:
        """Answers to several questions at once, in their order.

        Each is a row of `map`; what begins alike, such as the same pictures, is read once."""
        return list(self.map(questions))

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
        """Answers to rows of any iterable, a Hugging Face dataset among them, in the rows' order;
        as many as `max_batch` (an option of `load`) are under way at once.

        A row is a mapping with `prompt`, perhaps `images` (a list), and options of its own that
        replace the common ones; `request` makes one of a row that has other columns. A row that
        cannot be asked raises its InputError, led by the row's number; with errors="return" the
        error stands in the answer's place and the rest go on.
        """
        if errors not in ("raise", "return"):
            raise OptionError(f"errors={errors!r}: expected 'raise' or 'return'")
        sampling_params(options)  # a mistake in them is no row's

        def start(row: Row) -> Stream:
            return self._stream(row.prompt, row.images, sampling_params(options, row.options))

        returned = errors == "return"
        return answers(rows, request, start, ahead=self._loop.max_batch, return_errors=returned)

    def _stream(
        self, prompt: Question, images: Sequence[Picture], params: SamplingParams
    ) -> Stream:
        began = time.perf_counter()
        prompt = self._prompt(prompt, images)
        size = self.config.vocab_size
        if max(params.logit_bias or (0,)) >= size:
            raise OptionError(f"logit_bias: only ids below {size} are in the vocabulary")
        pictures = [_crops(image) for image in prompt.images]
        return Stream(
            self._loop,
            Request(prompt.ids, pictures, params, self.stop_ids),
            self.processor.tokenizer,
            Usage(len(prompt.ids), prompt.num_image_tokens, spared_tokens=prompt.num_spared_tokens),
            Timings(processing=time.perf_counter() - began),
            prompt.images,
        )

    def _prompt(self, prompt: Question, images: Sequence[Picture]) -> Prompt:
        if not isinstance(prompt, Prompt):
            prompt = self.processor.prompt(prompt, images)
        elif images:
            raise PromptError("a Prompt already holds its pictures: leave `images` out")
        size = self.config.vocab_size
        if max(prompt.ids, default=0) >= size:
            raise PromptError(f"id {max(prompt.ids)} is outside the vocabulary of {size}")
        for image in prompt.images:
            if isinstance(image, EncodedImage) and image.encoder is not self.network.mark:
                raise ImageError(
                    f"{image} belongs to another loaded model: use this one's encode_image"
                )
        return prompt


def _crops(image: ReadyImage) -> EncodedImage | Crops:
    """A picture as the engine takes it."""
    if isinstance(image, EncodedImage):
        return image
    assert isinstance(image, ImageCrops), "all that a processor makes"
    rows, cols = image.layout.rows, image.layout.cols
    return Crops(image.pixels, rows, cols, image.num_tokens, image.key)
