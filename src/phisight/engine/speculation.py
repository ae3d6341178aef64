"""Guesses of the next tokens: what followed the last ones when they came before.

Prompt lookup (Saxena 2023): answers often quote their prompt, or themselves. A guess costs a few
more rows in a step and is kept only where the model would have written the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_LONGEST, _SHORTEST = 3, 2  # ids that must have come before


def lookup(ids: Sequence[int], most: int) -> tuple[int, ...]:
    """Up to `most` ids that followed an earlier appearance of the last ids of text.

    Of several appearances the latest after which there is that much text, or else the most.
    """
    best: tuple[int, ...] = ()
    for length in range(_LONGEST, _SHORTEST - 1, -1):
        ending = list(ids[-length:])
        if best or len(ending) < length or min(ending) < 0:
            continue
        for start in range(len(ids) - length - 1, -1, -1):
            if ids[start] == ending[0] and list(ids[start : start + length]) == ending:
                following = ids[start + length : start + length + most]
                text = tuple(itertools.takewhile(lambda token: token >= 0, following))
                best = max(best, text, key=len)
                if len(best) == most:
                    return best
    return best
