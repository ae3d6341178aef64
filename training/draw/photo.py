"""What nano cannot tell anything about: photographs, textures, noise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from draw import cover, figures, scene, table, text
from draw.hand import Hand
from draw.sheet import Drawn, Sheet, Turn

REFUSAL = (
    "I cannot tell: nano, the small bundled model, reads drawn charts, covers, text, tables and "
    "simple scenes only. Ask the full model, Phi-3.5-vision."
)
ASKS = (
    "What is in this photo?",
    "What animal is this?",
    "Where was this taken?",
    "What is shown here?",
    "Describe this photograph.",
    *(ask for ask in (*cover.BOTH, *cover.TITLE, *cover.AUTHOR)),
    *text.READ,
    *figures.DESCRIBE,
    *table.READ,
    *scene.WHOLE * 3,
)


def photo(hand: Hand, width: int, height: int) -> Drawn:
    k = hand.random.random()
    image = hand.photo(width, height) if k < 0.85 else _noise(hand, width, height)
    return Drawn([Sheet(image)], [Turn(ASKS, REFUSAL)])


def _noise(hand: Hand, width: int, height: int) -> Image.Image:
    """Grains of some size in some colours, or a smooth ground with nothing on it."""
    grain = hand.random.choice((1, 2, 4, 8, 16, 64, 200))
    shape = (max(2, height // grain), max(2, width // grain), 3 if hand.chance(0.7) else 1)
    mean = np.array(hand.color(40, 215))
    pixels = mean + hand.numpy.normal(0, hand.random.uniform(5, 60), shape)
    small = Image.fromarray(np.broadcast_to(pixels, (*shape[:2], 3)).clip(0, 255).astype(np.uint8))
    way = Image.Resampling.BICUBIC if hand.chance(0.6) else Image.Resampling.NEAREST
    return small.resize((width, height), way)
