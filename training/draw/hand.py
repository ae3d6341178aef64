"""One source of chance, and what it draws with: fonts, words, colours, backgrounds.

`split` is "train" or "held": fonts, words, names, named things' pictures and photographs are
divided between the two, so that nothing an evaluation shows was trained on.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from draw.sheet import Color, Font, Sheet

HELD_SHARE = 20  # one word in so many is held out
# Of training's sheets alone, which practise what is hard; an evaluation's stay as they were.
PATTERNED = 0.12  # have a ground with a pattern
BY_RESVG = 0.1  # have their text set by another renderer, at three times the time


@functools.lru_cache(maxsize=1500)
def _font(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


class Hand:
    def __init__(self, materials: Path, seed: int, split: str = "train") -> None:
        self.practises = split == "train"
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.fonts = [str(path) for path in sorted((materials / "fonts" / split).iterdir())]
        self.photos = sorted((materials / "photos" / split).glob("*.jpg"))
        self.emoji = sorted((materials / "emoji").glob("*.png"))
        words = json.loads((materials / "words.json").read_text())
        self.words, self.names, self.companies = (
            _part(words[key], split) for key in ("words", "names", "companies")
        )

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def word(self, longest: int = 12) -> str:
        for _ in range(20):
            word = self.random.choice(self.words)
            if len(word) <= longest:
                return word
        return word[:longest]

    def number(self) -> str:
        r, k = self.random, self.random.random()
        if k < 0.35:
            return str(r.randint(0, 9999))
        if k < 0.6:
            return f"{r.uniform(0, 1000):.{r.randint(1, 2)}f}"
        if k < 0.75:
            return f"{r.choice('$€£')}{r.randint(1, 999)}.{r.randint(0, 99):02d}"
        if k < 0.85:
            return f"{r.randint(1, 999)},{r.randint(0, 999):03d}"
        if k < 0.93:
            return f"{r.randint(1, 100)}%"
        return f"{r.randint(1, 28)}/{r.randint(1, 12)}/{r.randint(1950, 2030)}"

    def font_path(self) -> str:
        return self.random.choice(self.fonts)

    def font(self, path: str, size: float) -> Font:
        return _font(path, max(6, round(size)))

    def fitted(self, path: str, text: str, width: float, size: float, smallest: float) -> Font:
        """The largest font up to `size` in which the text fits the width, no smaller than asked."""
        font = self.font(path, size)
        length = font.getlength(text)
        return font if length <= width else self.font(path, max(smallest, size * width / length))

    def color(self, low: int = 0, high: int = 255) -> Color:
        r = self.random
        return r.randint(low, high), r.randint(low, high), r.randint(low, high)

    def ink(self, ground: Color, contrast: float = 90) -> Color:
        """A colour that can be read on another."""
        for _ in range(20):
            ink = self.color()
            if abs(brightness(ink) - brightness(ground)) > contrast:
                return ink
        return (0, 0, 0) if brightness(ground) > 128 else (255, 255, 255)

    def inks(self, ground: Color, count: int) -> list[Color]:
        """Colours that can be told from the ground and from one another."""
        found: list[Color] = []
        for _ in range(count):
            ink = max((self.ink(ground, 40) for _ in range(4)), key=lambda ink: _apart(ink, found))
            found.append(ink)
        return found

    def ink_at(self, sheet: Sheet, x: float, y: float, length: float, font: Font) -> Color:
        """A colour that can be read where this text is to stand; a plate is laid if none can."""
        box = [round(v) for v in (x - 4, y, x + length + 4, y + font.size * 1.2)]
        box = [max(0, box[0]), max(0, box[1]), min(sheet.width, box[2]), min(sheet.height, box[3])]
        if box[0] >= box[2] or box[1] >= box[3]:
            return (0, 0, 0)
        seen = np.asarray(sheet.image.crop(box).resize((24, 6)).convert("L"), dtype=float)
        darkest, lightest = np.percentile(seen, (3, 97))
        middle = seen.mean()
        for _ in range(12):
            ink = self.color()
            own = brightness(ink)
            if own < darkest - 60 or own > lightest + 60:
                return ink
        if darkest > 110:
            return (0, 0, 0)
        if lightest < 145:
            return (255, 255, 255)
        plate = (255, 255, 255) if middle > 128 else (0, 0, 0)
        sheet.pen.rectangle(box, fill=plate)
        return self.ink(plate)

    def sheet(self, image: Image.Image) -> Sheet:
        """Text on it is drawn by Pillow, or by resvg when all is there."""
        return Sheet(image, late=[] if self.practises and self.chance(BY_RESVG) else None)

    def paper(self, width: int, height: int) -> tuple[Sheet, Color]:
        """An empty sheet with one of many grounds, and the ground's mean colour."""
        if self.practises and self.chance(PATTERNED):
            from draw.pattern import pattern  # needs this class

            ground = self.color(200, 255) if self.chance(0.6) else self.color()
            return self.sheet(pattern(self, width, height, ground)), ground
        k = self.random.random()
        ground = self.color(200, 255) if self.chance(0.5) else self.color()
        if k < 0.25:
            ground = (255, 255, 255)
        if k < 0.55:
            return self.sheet(Image.new("RGB", (width, height), ground)), ground
        if k < 0.65 and self.photos:
            return self._photo_paper(width, height)
        other = np.array(self.color())
        first = np.array(ground, dtype=float)
        second = first * 0.7 + other * 0.3
        across = np.linspace(0, 1, 64)
        ramp = np.add.outer(across, across) / 2 if self.chance(0.4) else np.tile(across, (64, 1))
        if self.chance(0.5):
            ramp = ramp.T
        pixels = first + (second - first) * ramp[..., None]
        if self.chance(0.4):
            pixels += self.numpy.normal(0, self.random.uniform(2, 9), (64, 64, 1))
        small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        mean = (first + second) / 2
        sheet = self.sheet(small.resize((width, height), Image.Resampling.BICUBIC))
        return sheet, (int(mean[0]), int(mean[1]), int(mean[2]))

    def photo(self, width: int, height: int) -> Image.Image:
        """A random piece of a photograph."""
        with Image.open(self.random.choice(self.photos)) as opened:
            photo = opened.convert("RGB")
        r, share = self.random, self.random.uniform(0.4, 1)
        scale = share * min(photo.width / width, photo.height / height)
        w, h = max(8, int(width * scale)), max(8, int(height * scale))
        x, y = r.randint(0, photo.width - w), r.randint(0, photo.height - h)
        piece = photo.resize((width, height), Image.Resampling.BILINEAR, (x, y, x + w, y + h))
        return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.chance(0.5) else piece

    def _photo_paper(self, width: int, height: int) -> tuple[Sheet, Color]:
        """A photograph washed out until text can be read on it."""
        ground = self.color(215, 255) if self.chance(0.7) else self.color(0, 40)
        flat = Image.new("RGB", (width, height), ground)
        sheet = Image.blend(self.photo(width, height), flat, self.random.uniform(0.72, 0.9))
        return self.sheet(sheet), ground


def brightness(color: tuple[float, float, float]) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _apart(color: Color, others: list[Color]) -> int:
    return min((sum(abs(a - b) for a, b in zip(color, other, strict=True)) for other in others),
               default=0)  # fmt: skip


def _part(items: list[str], split: str) -> list[str]:
    cut = len(items) // HELD_SHARE
    return items[:cut] if split == "held" else items[cut:]
