"""What people and programs see: answers on stdout, notes on stderr."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phisight.answer import Answer, Stream
    from phisight.api import Model


def note(text: str) -> None:
    """One dim line on stderr."""
    from rich.console import Console  # 25 ms that --help does without

    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text, style="dim")


def note_model(model: Model) -> None:
    note(f"{model.name} on {model.placement}")
    if model.note:
        note(model.note)


def printable(text: str) -> str:
    """Without control characters: text read off a picture must not steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def show_stream(stream: Stream) -> Answer:
    """Write an answer as it comes."""
    for piece in stream:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    answer = stream.finish()
    if answer.finish_reason == "length":
        note(f"cut after {answer.usage.completion_tokens} tokens; --max-tokens allows more")
    if not answer.text.strip():
        note("the answer is empty")
    note(_costs(answer))
    return answer


def show_json(model: Model, question: str, images: Sequence[str], answer: Answer) -> None:
    """Write one answer as a JSON line."""
    record = {
        "model": model.name,
        "device": str(model.placement.device),
        "dtype": str(model.placement.dtype).removeprefix("torch."),
        "question": question,
        "images": list(images),
        **dataclasses.asdict(answer),
    }
    sys.stdout.write(json.dumps(record) + "\n")  # ASCII: fits any terminal and steers none
    sys.stdout.flush()


def _costs(answer: Answer) -> str:
    usage, seconds = answer.usage, answer.timings
    return (
        f"{seconds.total:.2f} s: pictures {seconds.processing + seconds.vision:.2f}, "
        f"reading {usage.prompt_tokens} tokens {seconds.prefill:.2f}, "
        f"writing {usage.completion_tokens} {seconds.decode:.2f}"
    )
