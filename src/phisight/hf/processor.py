"""Text and pictures to the model's inputs, in the official `Phi3VProcessor`'s form.

Owns how a batch is put together: which pictures belong to which text, padding, chat messages with
image parts. How text and pictures of one prompt are joined is `processing.processor`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from phisight.errors import OptionError, PromptError
from phisight.hf.image_processor import Phi3VImageProcessor, as_list
from phisight.hf.messages import plain_messages
from phisight.processing.image import ImageCrops, ImageSource
from phisight.processing.processor import count_tags, join_pieces, split_tags


class Phi3VProcessor(ProcessorMixin):  # transformers finds it by this name
    """`processor(text, images, return_tensors="pt")`, for one prompt or a batch."""

    def __init__(
        self,
        image_processor: Phi3VImageProcessor,
        tokenizer: Any,
        chat_template: str | None = None,
    ) -> None:
        template = chat_template or getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=template)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As transformers'; `num_crops` may be given here. Runs no code from the folder."""
        num_crops = kwargs.pop("num_crops", None)
        kwargs["trust_remote_code"] = False
        # The tokenizer's: pipelines pad by themselves. The official files say right, where
        # `generate` cannot go on.
        kwargs.setdefault("padding_side", "left")
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if num_crops is not None:
            processor.image_processor.num_crops = num_crops
        return processor

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', which no longer writes preprocessor_config.json; everything else that
        reads this model family asks for it."""
        self.image_processor.save_pretrained(save_directory, *args, **kwargs)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
        *,
        padding_side: str = "left",
    ) -> BatchFeature:
        """`input_ids` and `attention_mask` (B, T); with pictures also `pixel_values` (N, crops, 3,
        336, 336) and `image_sizes` (N, 2), row by row.

        `images` is a picture, a list of them, or a list of lists, one for each text. A flat list
        for several texts is dealt out by their tags. -n in `input_ids` is a place of the row's
        picture n. Padding is on the left, as `generate` needs it. Raises PromptError, ImageError.
        """
        texts = as_list(text)
        if not texts or not all(isinstance(one, str) for one in texts):
            raise PromptError(
                "processor(text, images) takes a string or a list of strings first, got "
                f"{type(text).__name__}"
            )
        per_text = _deal(texts, images)
        if not any(per_text) and (truncation or not any(map(count_tags, texts))):
            return BatchFeature(
                self.tokenizer(
                    texts,
                    padding=padding,
                    truncation=truncation,
                    max_length=max_length,
                    padding_side=padding_side,
                    return_tensors=return_tensors,
                )
            )
        crops = [[self.image_processor.crops(image) for image in own] for own in per_text]
        rows = [self._ids(one, own) for one, own in zip(texts, crops, strict=True)]
        longest = max(map(len, rows))
        if truncation and max_length is not None and longest > max_length:
            raise OptionError(
                f"truncation to {max_length} would cut a prompt of {longest} tokens with pictures "
                "in it: shorten the text, or use fewer crops (num_crops)"
            )
        if not padding and return_tensors and len(set(map(len, rows))) > 1:
            raise OptionError(
                f"prompts of {min(map(len, rows))} to {longest} tokens make no tensor: padding=True"
            )
        batch = self.tokenizer.pad(
            {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]},
            padding=padding,
            max_length=max_length,
            padding_side=padding_side,
            return_tensors=return_tensors,
        )
        every = [picture for own in crops for picture in own]
        if every:
            pictures = self.image_processor.pad(every, return_tensors)
            batch |= {key: pictures[key] for key in ("pixel_values", "image_sizes")}
        return BatchFeature(dict(batch))

    def _ids(self, text: str, images: Sequence[ImageCrops]) -> list[int]:
        pieces, tags = split_tags(text, len(images))
        encoded = [self.tokenizer(piece).input_ids for piece in pieces]
        return join_pieces(encoded, tags, [image.num_tokens for image in images])

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = False,
        padding: bool | str = False,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The prompt of a conversation, or of several; with `tokenize` its ids, and with
        `return_dict` the model's inputs.

        A message's content is a string, tags and all, or parts: {"type": "text", "text": ...} and
        {"type": "image", "image": ...} (or "url", "path"), numbered in the order they stand. An
        image part without a picture only gets its tag.
        """
        several = bool(conversation) and not isinstance(conversation[0], Mapping)
        prompts, pictures = self.render(
            conversation if several else [conversation],
            chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        if not tokenize:
            return prompts if several else prompts[0]
        if any(None in own for own in pictures):
            raise PromptError(
                "an image part names no picture: {'type': 'image', 'image': ...}, or leave "
                "tokenize out and give the pictures to processor(prompt, images)"
            )
        inputs = self(
            prompts,
            pictures if any(pictures) else None,
            return_tensors=return_tensors,
            **{"padding": padding, **(processor_kwargs or {})},
        )
        return inputs if return_dict else inputs["input_ids"]

    def render(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
    ) -> tuple[list[str], list[list[ImageSource | None]]]:
        """The prompts of some conversations, and the pictures of their parts, None where a part
        leaves its picture open: {"type": "image"}."""
        plain, pictures = zip(*map(plain_messages, conversations), strict=True)
        prompts = self.tokenizer.apply_chat_template(
            list(plain),
            chat_template=chat_template or self.chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tokenize=False,
        )
        return prompts, list(pictures)

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """The tokenizer's, also of ids with image places, which read as id 0, as `generate`'s."""
        return self.tokenizer.decode(_text_ids(token_ids), **options)

    def batch_decode(self, sequences: Any, **options: Any) -> Any:
        """The tokenizer's, image places as in `decode`."""
        return self.tokenizer.batch_decode(_text_ids(sequences), **options)

    def post_process_image_text_to_text(self, generated_outputs: Any, **options: Any) -> Any:
        """The texts of generated ids: what pipelines call."""
        return self.batch_decode(generated_outputs, **options)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_sizes"]


def _deal(texts: Sequence[str], images: Any) -> list[list[ImageSource]]:
    """The pictures of each text. Raises PromptError if they do not come out even."""
    given = [] if images is None else as_list(images)
    if any(isinstance(one, (list, tuple)) for one in given):
        if len(given) != len(texts):
            raise PromptError(f"{len(given)} lists of images for {len(texts)} texts: one for each")
        return [[] if own is None else as_list(own) for own in given]
    if len(texts) == 1:
        return [given]
    queue: Iterator[ImageSource] = iter(given)
    counts = [count_tags(text) for text in texts]
    if sum(counts) != len(given):
        raise PromptError(
            f"{len(texts)} texts have {sum(counts)} image tags in all and {len(given)} images were "
            "given: one for each tag, or a list of images for each text"
        )
    return [[next(queue) for _ in range(count)] for count in counts]


def _text_ids(ids: Any) -> Any:
    """The ids with image places as 0; a tensor, an array, or lists of ids."""
    if isinstance(ids, (list, tuple)):
        return [_text_ids(one) for one in ids]
    return ids.clip(0) if hasattr(ids, "clip") else max(ids, 0)
