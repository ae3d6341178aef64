"""Conversations with pictures to a training batch whose labels are the assistant's words only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import BatchFeature

from phisight.errors import PromptError
from phisight.hf.processor import Phi3VProcessor
from phisight.processing.image import ImageSource
from phisight.processing.processor import count_tags

IGNORED = -100  # the label that a loss does not count
_OPENS, _ENDS = "<|assistant|>", "<|end|>"


class Phi3VCollator:
    """`collate_fn` for a DataLoader; `data_collator` for a Trainer, which then needs
    `remove_unused_columns=False`.

    An example is {"messages": [...], "images": [...]}: messages as `apply_chat_template` takes
    them, the last from the assistant; `images` are those of image parts that name none, in order,
    and of tags in strings.
    """

    def __init__(self, processor: Phi3VProcessor) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        self._opens, self._ends = tokenizer.convert_tokens_to_ids([_OPENS, _ENDS])
        # What the template puts between <|assistant|> and the answer: "\n", or nothing where the
        # token swallows it.
        self._lead = len(tokenizer(_OPENS + "\n", add_special_tokens=False).input_ids) - 1

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`forward`'s arguments, `labels` (B, T) among them; padded on the right.

        Raises PromptError, naming the example by its place in the batch, for one that would teach
        nothing or the wrong thing.
        """
        chats = [example["messages"] for example in examples]
        for number, messages in enumerate(chats):
            if not messages or messages[-1].get("role") != "assistant":
                raise PromptError(f"example {number}: the last message must be the assistant's")
        texts, named = self.processor.render(chats)
        images = [
            _filled(own, example.get("images") or ())
            for own, example in zip(named, examples, strict=True)
        ]
        for number, (text, own, messages) in enumerate(zip(texts, images, chats, strict=True)):
            if len(own) != count_tags(text):
                raise PromptError(
                    f"example {number}: {len(own)} pictures for {count_tags(text)} image tags"
                )
            if text.count(_OPENS) != sum(message["role"] == "assistant" for message in messages):
                raise PromptError(
                    f"example {number}: {_OPENS} in its text would pass for an answer: remove it"
                )
        batch = self.processor(texts, images, padding=True, padding_side="right")
        batch["labels"] = self.labels(batch["input_ids"])
        return batch

    def labels(self, input_ids: Tensor) -> Tensor:
        """(B, T) ids where the assistant speaks, its <|end|> included, and -100 elsewhere."""
        labels = input_ids.new_full(input_ids.shape, IGNORED)
        for row, ids in enumerate(input_ids.tolist()):
            start = None
            for at, token in enumerate(ids):
                if token == self._opens:
                    start = at + 1 + self._lead
                elif token == self._ends and start is not None:
                    labels[row, start : at + 1] = input_ids[row, start : at + 1]
                    start = None
        return labels


def _filled(
    named: Sequence[ImageSource | None], images: Sequence[ImageSource]
) -> list[ImageSource]:
    """The pictures of the parts in order, those left open taken from `images`, then the rest."""
    queue = list(images)
    own = [queue.pop(0) if one is None and queue else one for one in named]
    return [one for one in own if one is not None] + queue
