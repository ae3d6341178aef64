"""A question and its pictures to a `Prompt`: token ids with image slots, and crops.

Owns how text and pictures are joined: tags, order, counts. The id layout is the official
`processing_phi3_v.py`'s: `<s>` at the start and after every image. Knows nothing of the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from phisight.config import read_processor_config
from phisight.errors import ImageError, PromptError
from phisight.hd import fewest_crops, hd_layout
from phisight.jsonfile import brief
from phisight.processing.chat import (
    ChatTemplate,
    Message,
    check_text,
    encode_messages,
    message_images,
)
from phisight.processing.image import ImageCrops, ImageSource, cut_crops, open_image, picture_name
from phisight.processing.tokenizer import Tokenizer

RAW_STARTS = ("<|user|>", "<|system|>")
_TAG = re.compile(r"<\|image_(\d+)\|>")


@runtime_checkable
class ReadyImage(Protocol):
    """A picture that knows its tokens: ImageCrops here, or what a model has encoded from them."""

    @property
    def num_tokens(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model is given. `ids` holds -n at every position of picture n (counted from 1)."""

    ids: tuple[int, ...]
    images: tuple[ReadyImage, ...]

    def __post_init__(self) -> None:
        slots = Counter(token for token in self.ids if token < 0)
        needed = {-n: image.num_tokens for n, image in enumerate(self.images, start=1)}
        if slots != needed:
            raise PromptError(
                f"a Prompt's ids have {slots.total()} places for pictures, which are not the "
                f"{sum(needed.values())} of its {len(self.images)} pictures in order"
            )

    @property
    def num_image_tokens(self) -> int:
        return sum(image.num_tokens for image in self.images)

    @property
    def num_spared_tokens(self) -> int:
        """What the pictures would take beyond that, were none cut into fewer crops."""
        return sum(image.spared for image in self.images if isinstance(image, ImageCrops))


class Processor:
    """Tokenizer, chat template and crop settings of one checkpoint folder.

    `num_crops` replaces the checkpoint's own; with crops="auto" small pictures have fewer. Raises
    ConfigError for files that do not fit.
    """

    def __init__(
        self, folder: Path, num_crops: int | None = None, crops: str | None = None
    ) -> None:
        self.config = read_processor_config(folder)
        self.num_crops, self.crops = num_crops or self.config.num_crops, crops
        self.tokenizer = Tokenizer(folder)
        self._template = ChatTemplate(folder)

    def image(self, source: ImageSource | ReadyImage) -> ReadyImage:
        """A picture opened and cut; one that is ready already stays as it is."""
        if isinstance(source, ReadyImage):
            return source
        opened = open_image(source)
        width, height, most = opened.width, opened.height, self.num_crops
        try:
            if self.crops is None:
                return cut_crops(opened, self.config, most)
            full = hd_layout(width, height, most)
            cut = cut_crops(opened, self.config, fewest_crops(width, height, most))
            return replace(cut, spared=full.num_tokens - cut.num_tokens)
        except ImageError as error:
            raise ImageError(f"{picture_name(source)}: {error}") from None

    def prompt(
        self,
        question: str | Sequence[Message],
        images: Sequence[ImageSource | ReadyImage] = (),
    ) -> Prompt:
        """A Prompt from a question, messages, or a raw prompt (starts with <|user|> or <|system|>).

        A plain question is one user message with the pictures before it. In messages, a part
        {"type": "image"} takes the next of `images`, or brings its own as "image". Raises
        PromptError and ImageError.
        """
        if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
            raise PromptError(
                f"images must be a list of pictures, got {type(images).__name__}: images=[...]"
            )
        if isinstance(question, str):
            if question.startswith(RAW_STARTS):
                return self.raw_prompt(question, images)
            parts = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
            return self.message_prompt([{"role": "user", "content": parts}], images)
        return self.message_prompt(question, images)

    def raw_prompt(self, text: str, images: Sequence[ImageSource | ReadyImage] = ()) -> Prompt:
        """A prompt in the how-to's own format, control tokens and <|image_n|> tags included.

        Each picture must have exactly one tag, and the tag's number says which picture stands
        there, in any order. (The reference puts them in list order whatever the tags say.)
        """
        pieces, tags = split_tags(text, len(images))
        return self._join([self.tokenizer.encode(piece) for piece in pieces], tags, images)

    def message_prompt(
        self, messages: Sequence[Message], images: Sequence[ImageSource | ReadyImage] = ()
    ) -> Prompt:
        """A prompt from messages; no text in them can become a control token or an image slot."""
        if not isinstance(messages, Sequence):
            raise PromptError(f"a prompt is a string or messages, got {type(messages).__name__}")
        pieces = encode_messages(messages, self._template, self.tokenizer)
        queue, pictures = list(images), []
        for own in message_images(messages):
            if own is None and not queue:
                raise PromptError(
                    f"{len(pieces) - 1} image parts but only {len(images)} images: "
                    "give an image part its own picture as 'image', or pass more images"
                )
            pictures.append(queue.pop(0) if own is None else own)
        if queue:
            raise PromptError(
                f"{len(images)} images but only {len(images) - len(queue)} image parts for them; "
                "add {'type': 'image'} parts where the pictures belong"
            )
        return self._join(pieces, list(range(1, len(pictures) + 1)), pictures)

    def _join(
        self,
        pieces: list[list[int]],
        tags: list[int],
        images: Sequence[ImageSource | ReadyImage],
    ) -> Prompt:
        ready = tuple(map(self.image, images))
        ids = join_pieces(pieces, tags, [image.num_tokens for image in ready])
        return Prompt(tuple(ids), ready)


def count_tags(text: str) -> int:
    """How many <|image_n|> tags a raw prompt has."""
    return len(_TAG.findall(text))


def split_tags(text: str, num_images: int) -> tuple[list[str], list[int]]:
    """A raw prompt's text between its <|image_n|> tags, and their numbers in the text's order.

    Raises PromptError if the numbers are not those of `num_images` pictures, each once.
    """
    check_text(text)
    pieces, numbers = _TAG.split(text)[::2], _TAG.split(text)[1::2]
    # 0 is no picture's number: it stands for numbers too long for any list of pictures.
    tags = [int(number) if len(number) < 10 else 0 for number in numbers]
    if sorted(tags) != list(range(1, num_images + 1)):
        raise PromptError(_tag_mismatch(numbers, num_images))
    return pieces, tags


def join_pieces(
    pieces: Sequence[Sequence[int]], tags: Sequence[int], counts: Sequence[int]
) -> list[int]:
    """Ids of the pieces, with -n between them as often as picture n has tokens (`counts`)."""
    ids = list(pieces[0])
    for tag, piece in zip(tags, pieces[1:], strict=True):
        ids += [-tag] * counts[tag - 1] + list(piece)
    return ids


def _tag_mismatch(numbers: list[str], num_images: int) -> str:
    found = ", ".join(f"<|image_{brief(number)[1:-1]}|>" for number in numbers[:20]) or "none"
    if num_images == 0:
        return f"no picture was given, but the prompt has image tags: {found}"
    names = "<|image_1|>" if num_images == 1 else f"each of <|image_1|> to <|image_{num_images}|>"
    return f"{num_images} picture(s) need {names} exactly once in a raw prompt; found: {found}"
