"""What cameras, scanners and compression do to a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from draw.hand import Hand
from draw.sheet import Mark, Sheet

CLEAN = 0.45  # share of pictures that nothing happens to


def distorted(hand: Hand, sheet: Sheet) -> Sheet:
    if hand.chance(CLEAN):
        return sheet
    r, image, marks = hand.random, sheet.image, sheet.marks
    if hand.chance(0.3):
        image, marks = _tilted(hand, image, marks)
    if hand.chance(0.2):
        image = _lit(hand, image)
    if hand.chance(0.2):  # less contrast
        grey = Image.new("RGB", image.size, hand.color(90, 200))
        image = Image.blend(image, grey, r.uniform(0.05, 0.4))
    if hand.chance(0.3):
        image = image.filter(_blur(r.uniform(0.3, 0.9)))
    if hand.chance(0.25):
        scale = r.uniform(0.75, 1.5)
        small = (max(8, int(image.width * scale)), max(8, int(image.height * scale)))
        image = image.resize(small, Image.Resampling.BILINEAR)
        image = image.resize(sheet.image.size, Image.Resampling.BILINEAR)
    if hand.chance(0.25):
        image = _noisy(hand, image, r.uniform(2, 12))
    if hand.chance(0.5):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=r.randint(35, 92))
        image = Image.open(stream).convert("RGB")
    return Sheet(image, marks)


def _blur(sigma: float) -> ImageFilter.Kernel:
    """Gaussian, cut to 3 x 3: a sixth of the time of Pillow's, which is for any width."""
    side = float(np.exp(-0.5 / sigma**2))
    corner = side * side
    return ImageFilter.Kernel((3, 3), (corner, side, corner, side, 1, side, corner, side, corner))


def _noisy(hand: Hand, image: Image.Image, sigma: float) -> Image.Image:
    grain = hand.numpy.standard_normal(2**16, dtype=np.float32) * sigma
    pixels = np.asarray(image, dtype=np.int16)
    # One table of noise read from random places: drawing it anew takes ten times as long.
    rows = hand.numpy.integers(0, 2**16 - image.width, image.height)
    noise = grain.astype(np.int16)[rows[:, None] + np.arange(image.width)]
    return Image.fromarray((pixels + noise[..., None]).clip(0, 255).astype(np.uint8))


def _tilted(hand: Hand, image: Image.Image, marks: list[Mark]) -> tuple[Image.Image, list[Mark]]:
    """Turned and seen from the side a little, on some background; marks move along."""
    w, h = image.size
    r = hand.random
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)], dtype=float)
    angle = np.radians(r.uniform(-4, 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([w / 2, h / 2])
    seen = (corners - middle) @ turn.T * r.uniform(0.88, 1.0) + middle
    seen += hand.numpy.uniform(-0.02, 0.02, (4, 2)) * (w, h)
    low, high = seen.min(0), seen.max(0)
    # Nothing may leave the picture: fitted back into it.
    scale = min(1.0, *((w, h) / (high - low)))
    seen = (seen - (low + high) / 2) * scale + middle
    forward, back = _homography(corners, seen), _homography(seen, corners)
    ground = hand.color() if hand.chance(0.5) else (255, 255, 255)
    coefficients = tuple((back / back[2, 2]).flatten()[:8])
    turned = image.transform(
        (w, h), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR,
        fillcolor=ground,
    )  # fmt: skip
    moved = []
    for mark in marks:
        x, y, z = forward @ (mark.x, mark.y, 1)
        moved.append(Mark(x / z, y / z, mark.character))
    return turned, moved


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The 3x3 matrix that takes four points to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solved = np.linalg.solve(np.array(rows), target.flatten())
    return np.append(solved, 1.0).reshape(3, 3)


def _lit(hand: Hand, image: Image.Image) -> Image.Image:
    """A shadow that falls across."""
    across = np.linspace(0, 1, 32)
    a, b = hand.numpy.uniform(-1, 1, 2)
    field = np.add.outer(a * across, b * across)
    field = (field - field.min()) / max(1e-6, np.ptp(field))
    if hand.chance(0.4):
        field = 1 / (1 + np.exp(-(field - 0.5) * 20))
    shade = (255 * (1 - hand.random.uniform(0.15, 0.45) * field)).astype(np.uint8)
    veil = Image.fromarray(shade).resize(image.size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint16) * np.asarray(veil, dtype=np.uint16)[..., None]
    return Image.fromarray((pixels // 255).astype(np.uint8))
