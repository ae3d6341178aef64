"""A plan to one forward: pictures first, then every slice's tokens side by side.

Owns the order of rows in a step. Knows nothing of which requests there are, or why.

Dimensions: T tokens of a step, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phisight.engine.cache import PagedCache, Part
from phisight.engine.graphs import Decoder, Step
from phisight.engine.images import ImageCache
from phisight.engine.inputs import Row
from phisight.engine.sequence import Slice
from phisight.model.phi3v import Crops, Phi3V
from phisight.model.rope import Rotation


@dataclass(frozen=True)
class Rows:
    """Logits of a step, (rows, V), for each slice which rows are its own, and `sampling.likeliest`
    of them where it has been computed. `step` is what gave them, if all its rows are wanted."""

    logits: Tensor
    of: list[range]
    plain: Tensor | None = None
    step: Step | None = None


class Runner:
    """One model, its cache and its pictures."""

    def __init__(
        self, model: Phi3V, cache: PagedCache, images: ImageCache, decoder: Decoder | None
    ) -> None:
        self._model, self._rope = model, model.rope()
        self._cache, self._images, self._decoder = cache, images, decoder
        self.crops_done = 0  # of the pictures being encoded; for whoever watches

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Crops]) -> None:
        """Crops of several requests through the vision tower together."""
        try:
            images = self._model.encode_images(pictures, self._saw)
            for crops, image in zip(pictures, images, strict=True):
                self._images.put(crops.key, image.features)
        finally:
            self.crops_done = 0

    def _saw(self, num_crops: int) -> None:
        self.crops_done += num_crops

    @torch.inference_mode()
    def clear(self, new_blocks: Sequence[int]) -> None:
        """For a step that reads nothing: a later one may read a part of these."""
        self._cache.clear(new_blocks)

    @torch.inference_mode()
    def read(self, slices: Sequence[Slice], new_blocks: Sequence[int]) -> Rows:
        """Store every slice's keys and values; logits after the last token of those that give one,
        and after each of their guesses."""
        model, device = self._model, self._model.device
        if self._decoder is None:  # whose operations read nothing that has not been written
            self._cache.clear(new_blocks)
        wanted, of = _wanted(slices)
        at = torch.tensor(wanted, device=device, dtype=torch.long)
        if self._decoder is not None and _size(slices) <= self._decoder.most:
            step = self._decoder.step(self._rows(slices))
            if len(wanted) == len(step.logits):
                return Rows(step.logits, of, step.plain, step)
            return Rows(step.logits[at], of, step.plain[:, at])
        slots: list[int] = []
        pieces: list[Tensor] = []
        positions: list[int] = []
        regimes: list[bool] = []
        for part in slices:
            ids, features = self._slots(part, -len(pieces))
            pieces += features
            slots += ids
            positions += range(part.start, part.start + len(ids))
            regimes += [part.sequence.is_long] * len(ids)
        x = model.model.embed(torch.tensor(slots, device=device), pieces)  # (T, D)
        places, is_long = torch.tensor(positions), torch.tensor(regimes)
        angles = self._rope.rotation_at(places.to(device)[:, None], is_long.to(device), x.dtype)
        rotation = Rotation(angles.cos[:, 0], angles.sin[:, 0])  # (T, d)
        parts = [
            Part(part.sequence.blocks, part.start, part.count + len(part.guesses))
            for part in slices
        ]
        if self._decoder is not None:
            hidden = self._decoder.read(x, rotation, parts)
        else:
            hidden = model(x, rotation, self._cache.attention(parts))
        return Rows(model.logits(hidden[at]), of)

    def read_next(self, slices: Sequence[Slice]) -> Step:
        """After a step of these slices, one token each, another: each one's likeliest token."""
        assert self._decoder is not None
        return self._decoder.next_step([part.sequence.blocks for part in slices])

    def _rows(self, slices: Sequence[Slice]) -> list[Row]:
        """All tokens of a step."""
        rows = []
        for part in slices:
            sequence = part.sequence
            ids, pieces = self._slots(part, 0)
            features = iter(torch.cat(pieces) if pieces else ())
            rows += [
                Row(token_id, length, sequence.is_long, sequence.blocks,
                    next(features) if token_id < 0 else None)
                for length, token_id in enumerate(ids, start=part.start + 1)
            ]  # fmt: skip
        return rows

    def _slots(self, part: Slice, last: int) -> tuple[list[int], list[Tensor]]:
        """A slice's ids, and the image tokens in it: those of the step's piece n stand at -n.

        `last` is the number that the piece before these has.
        """
        sequence, stop = part.sequence, part.start + part.count
        numbers, pieces = {}, []
        for number in sequence.images_in(part.start, stop):
            image = sequence.images[number]
            features = self._images[image.key]
            pieces.append(features[image.before(part.start) : image.before(stop)])
            numbers[-number - 1] = last - len(pieces)
        ids = [numbers.get(token, token) for token in sequence.ids[part.start : stop]]
        return [*ids, *part.guesses], pieces


def _size(slices: Sequence[Slice]) -> int:
    return sum(part.count + len(part.guesses) for part in slices)


def _wanted(slices: Sequence[Slice]) -> tuple[list[int], list[range]]:
    """Of a step's tokens those whose logits are asked for, and which of these are each slice's."""
    wanted: list[int] = []
    of, stop = [], 0
    for part in slices:
        stop += part.count + len(part.guesses)
        begin = len(wanted)
        if part.gives_token:
            wanted += range(stop - len(part.guesses) - 1, stop)
        of.append(range(begin, len(wanted)))
    return wanted, of
