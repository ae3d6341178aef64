"""A conversation: every question is asked with all the turns before it.

Owns the history. Knows nothing of how a model answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Unpack

from phisight.answer import Answer, Stream
from phisight.errors import PromptError
from phisight.params import SamplingOptions
from phisight.processing.chat import Message
from phisight.processing.image import ImageSource
from phisight.processing.processor import ReadyImage


class Answerer(Protocol):
    """What a conversation needs of a model."""

    def stream(self, prompt: Sequence[Message], **options: Unpack[SamplingOptions]) -> Stream: ...


class Chat:
    """A conversation with a model, begun by `Model.chat`.

    `messages` is the history, in the form that `Model.ask` takes. Its pictures are opened and cut
    once, however many turns follow, and read again only where their keys and values had to make
    room. A question whose answer failed, or was left before its end, is not in it.
    """

    def __init__(self, model: Answerer, messages: Sequence[Message] = ()) -> None:
        self._model = model
        self.messages: list[Message] = list(messages)

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
        asked: list[Message] = [*self.messages, {"role": "user", "content": parts}]
        stream = self._model.stream(asked, **options)
        encoded = iter(stream.images)
        turns = [_with_images(message, encoded) for message in asked]
        stream.when_complete(lambda answer: self._remember(turns, answer))
        return stream

    def _remember(self, turns: list[Message], answer: Answer) -> None:
        self.messages[: len(turns) - 1] = turns[:-1]
        self.messages += [turns[-1], {"role": "assistant", "content": answer.text}]


def _with_images(message: Message, encoded: Iterator[ReadyImage]) -> Message:
    """The message with the next encoded pictures in its image parts."""
    if isinstance(message["content"], str):
        return message
    content = [
        {**part, "image": next(encoded)} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": content}
