"""Logits to the next token id, and how likely it was.

The order is that of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p,
min-p. Knows nothing of text.

Dimensions: V vocabulary size, K tokens kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from phisight.errors import CheckpointError
from phisight.params import SamplingParams


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities as the model gives them, before any option acts."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # ids and logprobs of the likeliest, best first


class Sampler:
    """Draws the tokens of one request; the same seed draws the same tokens from the same logits.

    `prompt_ids` count as already written for the repetition penalty, image slots (negative) not.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int] = ()) -> None:
        self._params = params
        self._random = random.Random(params.seed)
        self._seen = {token for token in prompt_ids if token >= 0}

    def pick(self, logits: Tensor) -> int:
        """The next id from (V,) logits: the likeliest at temperature 0, otherwise drawn.

        Raises CheckpointError for NaN and infinity; -inf is a token that never comes.
        """
        if not bool(logits.max().isfinite()):  # NaN is its own maximum
            raise CheckpointError(
                "the model computes NaN or infinity: its weights or numbers in its config.json are "
                "damaged"
            )
        if self._params.repetition_penalty != 1.0:
            logits = penalized(logits, self._seen, self._params.repetition_penalty)
        token_id = int(logits.argmax()) if self._params.temperature == 0.0 else self._draw(logits)
        self._seen.add(token_id)
        return token_id

    def _draw(self, logits: Tensor) -> int:
        logits = logits.cpu().double()
        # The maximum is taken off first: division by a tiny temperature would overflow otherwise.
        scaled = (logits - logits.max()) / self._params.temperature
        scaled, order = scaled.sort(descending=True, stable=True)  # (V,)
        if self._params.top_k is not None:
            scaled = scaled[: self._params.top_k]
        probabilities = scaled.softmax(-1)
        probabilities = probabilities[: nucleus(probabilities, self._params.top_p)]
        probabilities = probabilities[probabilities >= self._params.min_p * probabilities[0]]
        reached = probabilities.cumsum(0)  # (K,)
        # A uniform draw, inverted: one number a token, so that draws do not depend on each other.
        mark = self._random.random() * float(reached[-1])
        chosen = int(torch.searchsorted(reached, mark, right=True))
        return int(order[min(chosen, len(reached) - 1)])


def penalized(logits: Tensor, seen: set[int], penalty: float) -> Tensor:
    """(V,) logits with those of seen ids divided by the penalty, or multiplied if negative.

    CTRL's rule (Keskar et al. 2019), with the sign taken into account as everyone has done since.
    """
    ids = torch.tensor(sorted(seen), device=logits.device, dtype=torch.long)
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))


def nucleus(probabilities: Tensor, top_p: float) -> int:
    """How many of some probabilities, largest first, reach `top_p` together; at least 1.

    Nucleus sampling (Holtzman et al. 2019).
    """
    return min(int(torch.searchsorted(probabilities.cumsum(0), top_p)) + 1, len(probabilities))


def logprobs(logits: Tensor, token_id: int, num_top: int) -> Logprobs:
    """How likely an id was among (V,) logits, and the likeliest ids.

    -9999 stands for what cannot come, as in OpenAI's API: JSON has no infinity.
    """
    values = logits.cpu().double().log_softmax(-1).clamp(min=-9999.0)  # MPS has no float64
    top = values.topk(min(num_top, len(values)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Logprobs(float(values[token_id]), tuple(pairs))
