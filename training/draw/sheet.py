"""A picture being drawn, which remembers where each character stands.

The places are for training's helper loss: what is written in each cell of the picture.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from phisight.hd import hd_layout

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont
LEGIBLE = 12.5  # pixels of font size, in as many crops as these
LEGIBLE_CROPS = 4  # fewer than nano's own, which see half of all pictures half as large again


class Mark(NamedTuple):
    """A character and the centre of its box."""

    x: float
    y: float
    character: str


class Written(NamedTuple):
    """One line, its box beginning at (x, y)."""

    x: float
    y: float
    text: str
    font: Font
    fill: Color
    length: float
    spacing: float  # pixels more after each character


@functools.lru_cache(maxsize=100_000)
def _width(font: Font, character: str) -> float:
    return font.getlength(character)


@dataclass
class Sheet:
    image: Image.Image
    marks: list[Mark] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)  # height and text of each
    late: list[Written] | None = None  # texts that `vector` is still to write; None: drawn at once

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def smallest(self) -> int:
        """The smallest font size still to be read once the picture has been fitted to its crops."""
        layout = hd_layout(self.width, self.height, LEGIBLE_CROPS)
        return round(max(9, LEGIBLE * max(self.image.size) / layout.resized[0]))

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    @property
    def written(self) -> str:
        """All lines from top to bottom, where each stands alone at its height."""
        return "\n".join(text for _, text in sorted(self.lines))

    def text(
        self, x: float, y: float, text: str, font: Font, fill: Color, *, spacing: float = 0.0
    ) -> None:
        """One line, its box beginning at (x, y), `spacing` pixels more after each character."""
        length = spaced_length(font, text, spacing)
        written = Written(x, y, text, font, fill, length, spacing)
        if self.late is None:
            self.put(written)
        else:
            self.late.append(written)
        self.lines.append((y, text))
        middle = y + sum(font.getmetrics()) / 2
        widths = [_width(font, character) for character in text]
        kerned = 1.0 if spacing else length / max(1.0, sum(widths))
        for character, width in zip(text, widths, strict=True):
            if character != " ":
                self.marks.append(Mark(x + width * kerned / 2, middle, character))
            x += width * kerned + spacing

    def put(self, written: Written) -> None:
        """Draw a line with Pillow."""
        x, y, text, font, fill, _, spacing = written
        if not spacing:
            self.pen.text((x, y), text, font=font, fill=fill)
            return
        for character in text:
            self.pen.text((x, y), character, font=font, fill=fill)
            x += _width(font, character) + spacing


def spaced_length(font: Font, text: str, spacing: float) -> float:
    """How far a line reaches that is written with this spacing."""
    if not spacing:
        return font.getlength(text)
    return sum(_width(font, character) for character in text) + spacing * (len(text) - 1)


class Turn(NamedTuple):
    """One question, in one of several wordings, and its answer."""

    asks: tuple[str, ...]
    answer: str
    weight: float = 1.0


class Drawn(NamedTuple):
    """Pictures and what can be asked of them; the first turn is the whole description."""

    sheets: list[Sheet]
    turns: list[Turn]
