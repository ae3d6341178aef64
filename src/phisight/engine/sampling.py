"""Logits to the next token id."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from phisight.errors import CheckpointError
from phisight.params import SamplingParams


class Sampler:
    """Draws the tokens of one request; the same seed draws the same tokens from the same logits."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._random = random.Random(params.seed)

    def pick(self, logits: Tensor) -> int:
        """The next id from (V,) logits: the likeliest at temperature 0, otherwise drawn.

        Nucleus sampling (Holtzman et al. 2019) keeps the fewest likeliest tokens whose
        probabilities reach top_p, and always the likeliest one. Raises CheckpointError for NaN.
        """
        if bool(logits.isnan().any()):
            raise CheckpointError(
                "the model computes NaN: its weights or numbers in its config.json are damaged"
            )
        if self._params.temperature == 0.0:
            return int(logits.argmax())
        logits = logits.cpu().double()
        # The maximum is taken off first: division by a tiny temperature would overflow otherwise.
        scaled = (logits - logits.max()) / self._params.temperature
        probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
        reached = probabilities.cumsum(0)  # (V,)
        kept = int(torch.searchsorted(reached, self._params.top_p)) + 1
        kept = min(kept, len(reached))
        # A uniform draw, inverted: one number a token, so that draws do not depend on each other.
        mark = self._random.random() * float(reached[kept - 1])
        chosen = int(torch.searchsorted(reached[:kept], mark, right=True))
        return int(order[min(chosen, kept - 1)])
