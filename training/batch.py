"""Samples to batches of one shape: ids, canvases, labels. Worker processes draw; nothing of torch's
device is touched there.

Prompts and crops come from phisight's own processor, so that training and use cannot differ; only
the last steps of cutting (normalizing, the global view) are left to the GPU, by the same formula.

Dimensions: B samples, M pictures each, H, W canvas height and width, T tokens, R, C crop grid.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from draw.hand import Hand
from draw.sample import Sample, draw_sample
from draw.sheet import Sheet
from phisight.hd import CELLS, CROP, HDLayout, hd_layout
from phisight.processing.image import padded_rgb
from phisight.processing.processor import Processor

CELL = CROP // CELLS  # pixels of a picture that one image token stands for
PER_CELL = 3  # characters of a cell that the helper head is asked for
FIRST, LAST = 33, 126  # code points with a label of their own; 0 is for no character
NUM_LABELS = LAST - FIRST + 2
SHARES = {"cover": 0.2, "text": 0.25, "chart": 0.36, "table": 0.05, "scene": 0.04, "pair": 0.08,
          "photo": 0.02}  # fmt: skip
TOKENS_A_BATCH = 66_000  # image and text tokens: 68 pictures of 2 x 2 crops, 53 of 2 x 3
LONGEST = 576  # bytes of an answer
FEWER_CROPS, FEWER = 4, 0.1  # at most so many for this share, for people who ask for fewer


@dataclass(frozen=True)
class Canvas:
    """A picture resized and padded, (H, W, 3) uint8; a ready picture to the processor."""

    pixels: np.ndarray
    layout: HDLayout
    labels: np.ndarray  # (R * 12, C * 12, PER_CELL) uint8

    @property
    def num_tokens(self) -> int:
        return self.layout.num_tokens


class Example(NamedTuple):
    ids: list[int]  # with -n at the places of picture n
    answers: list[slice]  # of the ids
    canvases: list[Canvas]

    @property
    def shape(self) -> tuple[int, ...]:
        layouts = [canvas.layout for canvas in self.canvases]
        return tuple(n for layout in layouts for n in (layout.rows, layout.cols))


class Batch(NamedTuple):
    ids: torch.Tensor  # (B, T) int16, -n at picture n
    # Indices into B * T, found here: to look for them on the device would make it wait.
    before_answer: torch.Tensor  # of tokens whose next one is the answer's
    image_slots: list[torch.Tensor]  # M of B * N: where picture n's tokens go
    canvases: list[torch.Tensor]  # M of (B, H, W, 3) uint8
    labels: list[torch.Tensor]  # M of (B, R * 12, C * 12, PER_CELL) uint8


def example(processor: Processor, sample: Sample, num_crops: int) -> Example:
    """Ids in the chat format; every answer ends with the token that ends a turn."""
    canvases = [canvas(sheet, num_crops) for sheet in sample.sheets]
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in canvases]
    messages: list[dict[str, Any]] = []
    end = processor.tokenizer.encode("<|end|>")[-1]
    answers = []
    for question, answer in sample.turns:
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        ids = list(processor.prompt(messages, canvases).ids)
        start = len(ids)
        ids += [*processor.tokenizer.encode_plain(answer), end]
        answers.append(slice(start, len(ids)))
        messages.append({"role": "assistant", "content": answer})
        parts = []
    return Example(ids, answers, canvases)


def canvas(sheet: Sheet, num_crops: int) -> Canvas:
    layout = hd_layout(sheet.width, sheet.height, num_crops)
    rows, cols = layout.rows * CELLS, layout.cols * CELLS
    labels = np.zeros((rows, cols, PER_CELL), np.uint8)
    filled = np.zeros((rows, cols), np.uint8)
    long, short = max(sheet.image.size), min(sheet.image.size)
    along, across = layout.resized[0] / long, layout.resized[1] / short
    scale_x, scale_y = (across, along) if layout.transposed else (along, across)
    for mark in sorted(sheet.marks):
        x, y = mark.x * scale_x, mark.y * scale_y
        x, y = (x + layout.pad_before, y) if layout.transposed else (x, y + layout.pad_before)
        i, j = int(y // CELL), int(x // CELL)
        code = ord(mark.character)
        if not (FIRST <= code <= LAST and 0 <= i < rows and 0 <= j < cols):
            continue
        if filled[i, j] < PER_CELL:
            labels[i, j, filled[i, j]] = code - FIRST + 1
            filled[i, j] += 1
    return Canvas(padded_rgb(sheet.image, layout), layout, labels)


def batches(materials: Path, folder: Path, seed: int, split: str) -> Iterator[Batch]:
    """Batches without end, each of pictures of one shape; deterministic for a seed."""
    hand = Hand(materials, seed, split)
    kinds = random.Random(seed)
    processor = Processor(folder)
    waiting: dict[tuple[int, ...], list[Example]] = {}
    while True:
        (kind,) = kinds.choices(list(SHARES), list(SHARES.values()))
        num_crops = FEWER_CROPS if kinds.random() < FEWER else processor.num_crops
        made = example(processor, draw_sample(hand, kind), num_crops)
        if any(answer.stop - answer.start > LONGEST for answer in made.answers):
            continue
        waiting.setdefault(made.shape, []).append(made)
        size = max(2, TOKENS_A_BATCH // (sum(c.num_tokens for c in made.canvases) + 200))
        if len(waiting[made.shape]) >= size:
            yield stacked(waiting.pop(made.shape))


def stacked(examples: list[Example]) -> Batch:
    longest = max(len(made.ids) for made in examples)
    width = -(-longest // 32) * 32
    ids = np.zeros((len(examples), width), np.int16)
    is_answer = np.zeros((len(examples), width), bool)
    for row, made in enumerate(examples):
        ids[row, : len(made.ids)] = made.ids
        for answer in made.answers:
            is_answer[row, answer] = True
    pictures = range(len(examples[0].canvases))
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(np.flatnonzero(is_answer) - 1),
        [torch.from_numpy(np.flatnonzero(ids == -1 - n)) for n in pictures],
        [torch.from_numpy(np.stack([e.canvases[n].pixels for e in examples])) for n in pictures],
        [torch.from_numpy(np.stack([e.canvases[n].labels for e in examples])) for n in pictures],
    )
