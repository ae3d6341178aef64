"""Scenes of coloured shapes and of named things, each in one of nine places."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from draw.hand import Hand
from draw.sheet import Color, Drawn, Sheet, Turn

COLORS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220), "yellow": (240, 210, 40),
    "orange": (245, 140, 30), "purple": (140, 60, 190), "pink": (245, 130, 180),
    "brown": (130, 80, 40), "black": (20, 20, 20), "gray": (130, 130, 130),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "cross", "hexagon")
PLACES = (
    "top left", "top center", "top right", "middle left", "center", "middle right", "bottom left",
    "bottom center", "bottom right",
)  # fmt: skip
WHOLE = (
    "Describe the image.",
    "What objects are in the image?",
    "What is in the picture?",
    "What do you see?",
    "What does this image show?",
    "Describe this picture.",
)


class Thing(NamedTuple):
    place: int  # of PLACES
    name: str  # "red circle", "fire engine"

    @property
    def noun(self) -> str:
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


def scene(hand: Hand, width: int, height: int) -> Drawn:
    things = random_things(hand, hand.random.randint(1, 6))
    turns = [
        Turn(WHOLE, f"The image shows {with_places(things)}.", 6),
        Turn(("How many objects are in the image?", "How many things are there?"),
             str(len(things)), 0.8),
        _at(hand, things),
        _where(hand, things),
        _is_there(hand, things),
    ]  # fmt: skip
    return Drawn([draw_scene(hand, things, width, height)], turns)


def random_things(hand: Hand, count: int) -> list[Thing]:
    places = sorted(hand.random.sample(range(9), count))
    k = hand.random.random()  # all shapes, all named things, or both
    named = 0.0 if k < 0.35 else 1.0 if k < 0.6 else 0.5
    return [Thing(place, random_name(hand, named)) for place in places]


def random_name(hand: Hand, named: float) -> str:
    if hand.emoji and hand.chance(named):
        return hand.random.choice(hand.emoji).stem.replace("-", " ")
    return f"{hand.random.choice(list(COLORS))} {hand.random.choice(SHAPES)}"


def with_places(things: list[Thing]) -> str:
    return joined([f"{thing.noun} at the {PLACES[thing.place]}" for thing in things])


def joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _at(hand: Hand, things: list[Thing]) -> Turn:
    place = hand.random.randrange(9)
    here = [thing for thing in things if thing.place == place]
    if not here and hand.chance(0.7):
        here = [hand.random.choice(things)]
        place = here[0].place
    answer = f"{here[0].noun.capitalize()}." if here else "Nothing."
    return Turn(
        (f"What is at the {PLACES[place]}?", f"What is in the {PLACES[place]}?"), answer, 1.2
    )


def _where(hand: Hand, things: list[Thing]) -> Turn:
    name = hand.random.choice(things).name
    places = joined([f"at the {PLACES[thing.place]}" for thing in things if thing.name == name])
    return Turn((f"Where is the {name}?",), f"The {name} is {places}.", 0.7)


def _is_there(hand: Hand, things: list[Thing]) -> Turn:
    thing = hand.random.choice(things)
    if hand.chance(0.5):
        thing = Thing(0, random_name(hand, 0.5))
    places = [f"at the {PLACES[other.place]}" for other in things if other.name == thing.name]
    absent = f"No, there is no {thing.name} in the image."
    answer = f"Yes, {joined(places)}." if places else absent
    return Turn((f"Is there {thing.noun} in the image?", f"Do you see {thing.noun}?"), answer, 0.7)


def draw_scene(hand: Hand, things: list[Thing], width: int, height: int) -> Sheet:
    r = hand.random
    sheet = Sheet(Image.new("RGB", (width, height), hand.color(235, 255)))
    if hand.chance(0.2):
        sheet = hand.paper(width, height)[0]
    for thing in things:
        size = min(width, height) / 6 * r.uniform(0.5, 0.92)
        x = width * ((thing.place % 3 + 0.5) / 3 + r.uniform(-0.05, 0.05))
        y = height * ((thing.place // 3 + 0.5) / 3 + r.uniform(-0.05, 0.05))
        color, _, shape = thing.name.partition(" ")
        if color in COLORS and shape in SHAPES:
            fill = _near(hand, COLORS[color])
            box = (int(x - size), int(y - size), int(x + size), int(y + size))
            seen = np.asarray(sheet.image.crop(box).resize((4, 4)), dtype=float)
            if np.abs(seen - np.array(fill)).sum(-1).min() < 110:  # would vanish
                plate = (255, 255, 255) if sum(fill) < 500 else (60, 60, 60)
                s = size * 1.15
                sheet.pen.rectangle((x - s, y - s, x + s, y + s), fill=plate)
            draw_shape(sheet.pen, shape, x, y, size, fill)
        else:
            path = next(p for p in hand.emoji if p.stem.replace("-", " ") == thing.name)
            with Image.open(path) as opened:
                side = max(8, round(2 * size))
                icon = opened.convert("RGBA").resize((side, side), Image.Resampling.BILINEAR)
            if hand.chance(0.3):
                icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            sheet.image.paste(icon, (round(x - size), round(y - size)), icon)
    return sheet


def _near(hand: Hand, color: Color) -> Color:
    a, b, c = (min(255, max(0, value + hand.random.randint(-15, 15))) for value in color)
    return a, b, c


def draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, s: float, fill: Color
) -> None:
    def corners(n: int, radius: float = 1.0, turn: float = 0.0) -> list[tuple[float, float]]:
        angles = [2 * math.pi * i / n - math.pi / 2 + turn for i in range(n)]
        return [(x + s * radius * math.cos(a), y + s * radius * math.sin(a)) for a in angles]

    if shape == "circle":
        pen.ellipse((x - s, y - s, x + s, y + s), fill=fill)
    elif shape == "square":
        pen.rectangle((x - s * 0.85, y - s * 0.85, x + s * 0.85, y + s * 0.85), fill=fill)
    elif shape == "triangle":
        pen.polygon(corners(3), fill=fill)
    elif shape == "diamond":
        pen.polygon([(x, y - s), (x + s * 0.7, y), (x, y + s), (x - s * 0.7, y)], fill=fill)
    elif shape == "hexagon":
        pen.polygon(corners(6), fill=fill)
    elif shape == "star":
        tips, dents = corners(5), corners(5, 0.42, math.pi / 5)
        pen.polygon([p for pair in zip(tips, dents, strict=True) for p in pair], fill=fill)
    elif shape == "cross":
        pen.rectangle((x - s, y - s * 0.3, x + s, y + s * 0.3), fill=fill)
        pen.rectangle((x - s * 0.3, y - s, x + s * 0.3, y + s), fill=fill)
    elif shape == "heart":
        pen.ellipse((x - s, y - s * 0.8, x, y + s * 0.2), fill=fill)
        pen.ellipse((x, y - s * 0.8, x + s, y + s * 0.2), fill=fill)
        pen.polygon(
            [(x - s * 0.95, y - s * 0.1), (x + s * 0.95, y - s * 0.1), (x, y + s)], fill=fill
        )
