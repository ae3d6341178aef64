"""Conversations with pictures to a training batch whose labels are the assistant's words only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature

from phisight.errors import InputError, PromptError
from phisight.hf.image_processor import as_list
from phisight.hf.processor import Phi3VProcessor
from phisight.jsonfile import brief
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
        self._pad = tokenizer.pad_token_id or 0  # which id is the same to a masked place
        # What the template puts between <|assistant|> and the answer: "\n", or nothing where the
        # token swallows it.
        self._lead = len(tokenizer(_OPENS + "\n", add_special_tokens=False).input_ids) - 1

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """`forward`'s arguments, `labels` (B, T) among them; padded on the right.

        Raises an InputError, naming the example by its place in the batch, for one that cannot be
        read, or would teach nothing or the wrong thing.
        """
        if not examples:
            raise PromptError("a batch of no examples")
        rows = [self._row(number, example) for number, example in enumerate(examples)]
        fills = {"input_ids": self._pad, "attention_mask": 0, "labels": IGNORED}
        batch = {
            key: pad_sequence([row[key][0] for row in rows], batch_first=True, padding_value=fill)
            for key, fill in fills.items()
        }
        seeing = [row for row in rows if "pixel_values" in row]
        for key in ("pixel_values", "image_sizes") if seeing else ():
            batch[key] = torch.cat([row[key] for row in seeing])
        return BatchFeature(batch)

    def _row(self, number: int, example: Mapping[str, Any]) -> BatchFeature:
        try:
            return self._encoded(example)
        except InputError as error:
            raise type(error)(f"example {number}: {error}") from None

    def _encoded(self, example: Mapping[str, Any]) -> BatchFeature:
        """One example as a batch of its own."""
        messages = _messages(example)
        [text], [named] = self.processor.render([messages])
        given = example.get("images")
        pictures = _filled(named, [] if given is None else as_list(given))
        if len(pictures) != count_tags(text):
            raise PromptError(f"{len(pictures)} pictures for {count_tags(text)} image tags")
        num_answers = sum(message.get("role") == "assistant" for message in messages)
        # What labels are read from: each must be the template's, not spelled out in a message.
        for token, wanted in ((_OPENS, num_answers), (_ENDS, len(messages))):
            if text.count(token) != wanted:
                raise PromptError(f"{token} in its text would pass for a turn's own: remove it")
        row = self.processor(text, pictures or None)
        row["labels"] = self.labels(row["input_ids"])
        return row

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


def _messages(example: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """An example's messages, the last of them an answer. Raises PromptError."""
    messages = example.get("messages") if isinstance(example, Mapping) else None
    if not isinstance(messages, (list, tuple)) or not all(isinstance(m, Mapping) for m in messages):
        raise PromptError(
            "expected {'messages': [{'role': ..., 'content': ...}, ...], 'images': [...]}, got "
            f"{brief(example)} (a Trainer takes them away without remove_unused_columns=False)"
        )
    if not messages or messages[-1].get("role") != "assistant":
        raise PromptError("the last message must be the assistant's")
    return messages


def _filled(
    named: Sequence[ImageSource | None], images: Sequence[ImageSource]
) -> list[ImageSource]:
    """The pictures of the parts in order, those left open taken from `images`, then the rest."""
    queue = list(images)
    own = [queue.pop(0) if one is None and queue else one for one in named]
    return [one for one in own if one is not None] + queue
