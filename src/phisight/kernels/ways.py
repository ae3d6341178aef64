"""How weights are stored and what multiplies them, by the numbers that the C files know."""

from __future__ import annotations

import enum

GROUP = 128  # packed weights that share a scale, as in c/weights.h


class Kind(enum.IntEnum):
    """How weights are stored, as in c/weights.h."""

    INT8, INT4, INT7 = range(3)


class Way(enum.IntEnum):
    """What `rows` multiplies with, as in c/tiles.h."""

    FLOAT, BFLOAT16, TILES = range(3)


class Bytes(enum.IntEnum):
    """What rounded rows are multiplied with, as in c/bytes.h; a processor may have one without
    those before."""

    NONE, PAIRS, FOURS, WIDE_FOURS, TILES = range(5)
