"""A conversation: every question is asked with all the turns before it.

Owns the history. Knows nothing of how a model answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Unpack

from phisight.answer import Answer, Stream
from phisight.errors import PromptError
from phisight.params import SamplingOptions
from phisight.processing.chat import Message
from phisight.processing.image import ImageSource
from phisight.processing.processor import ReadyImage


class Answerer(Protocol):
    """What a conversation needs of a model."""

    def encode_image(self, source: ImageSource | ReadyImage) -> ReadyImage: ...

    def stream(self, prompt: Sequence[Message], **options: Unpack[SamplingOptions]) -> Stream: ...


class Chat:
    """A conversation with a model, begun by `Model.chat`.

    `messages` is the history, in the form that `Model.ask` takes. Its pictures are encoded, each
    once, however many turns follow. A question whose answer failed, or was left before its end, is
    not in it.
    """

    def __init__(self, model: Answerer, messages: Sequence[Message] = ()) -> None:
        self._model = model
        self.messages: list[Message] = [self._with_encoded_images(turn) for turn in messages]

    def __repr__(self) -> str:
        return f"<phisight.Chat of {len(self.messages)} messages>"

    def ask(
        self,
        question: str,
        images: Sequence[ImageSource | ReadyImage] = (),
        **options: Unpack[SamplingOptions],
    ) -> Answer:
        """The answer to a question and the pictures that come with it. Raises InputError."""
        return self.stream(question, images, **options).finish()

    def stream(
        self,
        question: str,
        images: Sequence[ImageSource | ReadyImage] = (),
        **options: Unpack[SamplingOptions],
    ) -> Stream:
        """As `ask`, in pieces; the turn joins the history with its last piece."""
        if not isinstance(question, str):
            raise PromptError(f"a question must be a string, got {type(question).__name__}")
        if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
            raise PromptError(
                f"images must be a list of pictures, got {type(images).__name__}: images=[...]"
            )
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        parts.append({"type": "text", "text": question})
        turn = self._with_encoded_images({"role": "user", "content": parts})
        stream = self._model.stream([*self.messages, turn], **options)
        stream.when_complete(lambda answer: self._remember(turn, answer))
        return stream

    def _remember(self, turn: Message, answer: Answer) -> None:
        self.messages += [turn, {"role": "assistant", "content": answer.text}]

    def _with_encoded_images(self, message: Message) -> Message:
        """The message with each picture encoded; what is no message is refused when it is asked."""
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, (list, tuple)):
            return message
        return {**message, "content": [self._encoded(part) for part in content]}

    def _encoded(self, part: Any) -> Any:
        if not isinstance(part, Mapping) or part.get("image") is None:
            return part
        return {**part, "image": self._model.encode_image(part["image"])}
