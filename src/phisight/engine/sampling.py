"""Logits to the next token ids, and how likely they were, for a whole step at once.

The order is that of Hugging Face's `generate`: penalties, bias, mask, temperature, top-k, top-p,
min-p. A draw depends on the seed and the token's number alone, so neighbours in a batch, guesses
and a sequence read again change nothing. Knows nothing of text.

Dimensions: R rows, V vocabulary size.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phisight.errors import CheckpointError, OptionError
from phisight.params import SamplingParams

# A bit for each id that may come after these of the answer: (ceil(V / 32),) int32, lowest first.
AllowedTokens = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities as the model gives them, before any option acts."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # ids and logprobs of the likeliest, best first


@dataclass(frozen=True)
class Pick:
    """A chosen id."""

    token_id: int
    logprobs: Logprobs | None = None


class Sampler:
    """How the tokens of one answer are drawn, and those it has.

    `prompt_ids` count as already written for the repetition penalty, image slots (negative) not.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Iterable[int] = (),
        allowed_tokens: AllowedTokens | None = None,
    ) -> None:
        self.params, self.ids = params, list[int]()
        self.seed = random.getrandbits(32) if params.seed is None else params.seed
        self._seen = {token for token in prompt_ids if token >= 0}
        self._allowed = allowed_tokens

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token of the logits as they are is all there is to choose."""
        params = self.params
        return (
            not params.temperature
            and params.repetition_penalty == 1.0
            and not (params.presence_penalty or params.frequency_penalty or params.logit_bias)
            and self._allowed is None
            and params.logprobs is None
        )

    def append(self, token_id: int) -> None:
        """The answer has one more token."""
        self.ids.append(token_id)
        self._seen.add(token_id)

    def number(self, guesses: Sequence[int]) -> float:
        """Uniform in [0, 1): the draw for the token after the answer's and some guesses."""
        place = len(self.ids) + len(guesses)
        digest = hashlib.blake2b(b"%d:%d" % (self.seed, place), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) * 2.0**-53

    def changed(self, logits: Tensor, guesses: Sequence[int]) -> Tensor:
        """(V,) logits with penalties, bias and mask; the same tensor where there are none."""
        params = self.params
        if params.repetition_penalty != 1.0:
            logits = penalized(logits, self._seen.union(guesses), params.repetition_penalty)
        if params.presence_penalty or params.frequency_penalty:
            counts = Counter([*self.ids, *guesses])
            amounts = {
                token_id: -params.presence_penalty - params.frequency_penalty * count
                for token_id, count in counts.items()
            }
            logits = shifted(logits, amounts)
        if params.logit_bias:
            logits = shifted(logits, dict(params.logit_bias))
        if self._allowed is not None:
            logits = masked(logits, self._allowed([*self.ids, *guesses]))
        return logits


def likeliest(logits: Tensor, scores: Tensor) -> Tensor:
    """(3, R) of (R, V): whether the logits are finite, whether a score is, the best score's id."""
    best_score, token_ids = scores.max(-1)  # NaN is its own maximum
    finite = logits.amax(-1).isfinite()
    return torch.stack([finite.long(), best_score.isfinite().long(), token_ids])


def pick_plain(likely: Tensor) -> list[Pick | CheckpointError | OptionError]:
    """As `pick`, of (3, R) `likeliest`, for rows whose samplers are all plain."""
    return [
        Pick(token_id) if finite and possible else _failure(bool(finite))
        for finite, possible, token_id in zip(*likely.tolist(), strict=True)
    ]


def pick(
    logits: Tensor,
    rows: Sequence[tuple[Sampler, Sequence[int]]],
    plain: Tensor | None = None,
) -> list[Pick | CheckpointError | OptionError]:
    """One id for each of (R, V) logits: the likeliest at temperature 0, otherwise drawn.

    A row is for the token after a sampler's and some guesses. NaN and infinity give the row's error
    instead; -inf is a token that never comes. `plain` is `likeliest` of the logits as they are,
    where the step has it.
    """
    if not rows:
        return []  # and nothing to wait for
    given = list(logits)
    changed = [row[0].changed(one, row[1]) for one, row in zip(given, rows, strict=True)]
    same = all(new is old for new, old in zip(changed, given, strict=True))
    scores = logits if same else torch.stack(changed)
    known = plain if same and plain is not None else likeliest(logits, scores)
    finite, possible, best = known.tolist()  # one transfer for all that the host must know
    drawn = [i for i, row in enumerate(rows) if row[0].params.temperature and possible[i]]
    if drawn:
        for i, token_id in zip(drawn, _draw(scores[drawn], [rows[i] for i in drawn]), strict=True):
            best[i] = token_id
    asked = [i for i, (sampler, _) in enumerate(rows) if sampler.params.logprobs is not None]
    likely = dict(zip(asked, _logprobs(logits, asked, best, rows), strict=True))
    return [
        Pick(token_id, likely.get(i)) if finite[i] and possible[i] else _failure(bool(finite[i]))
        for i, token_id in enumerate(best)
    ]


def _failure(finite: bool) -> CheckpointError | OptionError:
    if finite:
        return OptionError("no token may come next: logit_bias or the answer's form forbids all")
    return CheckpointError(
        "the model computes NaN or infinity: its weights or numbers in its config.json are damaged"
    )


def _draw(scores: Tensor, rows: Sequence[tuple[Sampler, Sequence[int]]]) -> list[int]:
    """Ids drawn from (R, V) scores."""
    options = [sampler.params for sampler, _ in rows]
    numbers = [sampler.number(guesses) for sampler, guesses in rows]
    scores = scores.double() if scores.device.type != "mps" else scores.cpu().double()

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=scores.device)[:, None]  # (R, 1)

    # The maximum is taken off first: division by a tiny temperature would overflow otherwise.
    scaled = (scores - scores.amax(-1, keepdim=True)) / column([o.temperature for o in options])
    scaled, order = scaled.sort(descending=True, stable=True)  # (R, V)
    vocabulary = scaled.shape[-1]
    place = torch.arange(vocabulary, device=scores.device)
    most = column([min(o.top_k or vocabulary, vocabulary) for o in options])
    scaled = scaled.masked_fill(place >= most, -torch.inf)
    probabilities = scaled.softmax(-1)
    # Nucleus sampling (Holtzman et al. 2019): the likeliest that reach top_p together, at least 1.
    before = functional.pad(probabilities.cumsum(-1)[:, :-1], (1, 0))
    kept = (probabilities > 0) & (before < column([o.top_p for o in options]))
    kept[:, 0] = True
    kept &= probabilities >= column([o.min_p for o in options]) * probabilities[:, :1]
    reached = (probabilities * kept).cumsum(-1)
    # A uniform draw, inverted: one number a token, so that draws do not depend on each other.
    marks = column(numbers) * reached[:, -1:]
    chosen = (reached <= marks).sum(-1, keepdim=True).minimum(kept.sum(-1, keepdim=True) - 1)
    picked: list[int] = order.gather(-1, chosen)[:, 0].tolist()
    return picked


def _logprobs(
    logits: Tensor,
    asked: Sequence[int],
    ids: Sequence[int],
    rows: Sequence[tuple[Sampler, Sequence[int]]],
) -> list[Logprobs]:
    """How likely the ids of some rows were, and the likeliest.

    -9999 stands for what cannot come, as in OpenAI's API: JSON has no infinity.
    """
    if not asked:
        return []
    chosen = logits[list(asked)]
    wide = chosen.double() if chosen.device.type != "mps" else chosen.cpu().double()
    values = wide.log_softmax(-1).clamp(min=-9999.0)  # (rows asked, V)
    counts = [min(rows[i][0].params.logprobs or 0, values.shape[-1]) for i in asked]
    top = values.topk(max(counts))
    own = values.gather(-1, torch.tensor([[ids[i]] for i in asked], device=values.device))
    return [
        Logprobs(mine[0], tuple(zip(top_ids[:count], top_values[:count], strict=True)))
        for mine, top_ids, top_values, count in zip(
            own.tolist(), top.indices.tolist(), top.values.tolist(), counts, strict=True
        )
    ]


def penalized(logits: Tensor, seen: set[int], penalty: float) -> Tensor:
    """(V,) logits with those of seen ids divided by the penalty, or multiplied if negative.

    CTRL's rule (Keskar et al. 2019), with the sign taken into account as everyone has done since.
    """
    ids = torch.tensor(sorted(seen), device=logits.device, dtype=torch.long)
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))


def shifted(logits: Tensor, amounts: dict[int, float]) -> Tensor:
    """(V,) logits with an amount added to those of some ids."""
    ids = torch.tensor(list(amounts), device=logits.device, dtype=torch.long)
    added = torch.tensor(list(amounts.values()), device=logits.device, dtype=logits.dtype)
    return logits.index_add(0, ids, added)


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """(V,) logits, -inf where an id's bit is not set."""
    bits = torch.arange(32, dtype=torch.int32, device=allowed.device)
    set_ = ((allowed[:, None] >> bits) & 1).flatten()[: len(logits)].bool()
    return logits.masked_fill(~set_.to(logits.device), -torch.inf)
