"""Does this machine's Pillow and torch cut pictures to the official processor's bits?

Independent of any model: pictures are computed here, the hashes come with the package. The maker
must stay that of the goldens (tests/reference/images.py, kind "mix"): integer arithmetic only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from phisight.config import ProcessorConfig
from phisight.jsonfile import read_json
from phisight.processing.image import cut_crops
from phisight.verify.declared import CLIP_MEAN, CLIP_STD
from phisight.verify.report import Finding, listed, worst


def check_processor() -> tuple[Finding, bool]:
    """Make the pictures, cut them, compare hashes."""
    cases = cases_shipped()
    drawn, cut = [], []
    for case in cases:
        name = f"{case['width']}x{case['height']} in {case['num_crops']} crops"
        picture = make_picture(case["width"], case["height"], case["seed"])
        if not _sha256(picture).startswith(case["picture_sha256"]):
            drawn.append(name)
            continue
        config = ProcessorConfig(case["num_crops"], CLIP_MEAN, CLIP_STD)
        crops = cut_crops(Image.fromarray(picture), config, case["num_crops"])
        if _sha256(crops.pixels.numpy()) != case["crops_sha256"]:
            cut.append(name)
    faults = []
    if drawn:
        faults.append(f"numpy computes other test pictures here: {listed(drawn, 3)}")
    if cut:
        faults.append(
            f"{len(cut)} of {len(cases)} pictures get other bits than the official processor's "
            f"({listed(cut, 3)}): Pillow or torch resizes differently on this machine"
        )
    fine = f"{len(cases)} of {len(cases)} pictures get the official processor's bits"
    return worst("processor", faults, [], fine), not faults


def cases_shipped() -> list[dict[str, Any]]:
    """Sizes, seeds and hashes out of the goldens."""
    path = Path(__file__).parents[1] / "assets" / "selftest.json"
    cases: list[dict[str, Any]] = read_json(path)["cases"]
    return cases


def make_picture(width: int, height: int, seed: int) -> np.ndarray:
    """Gradients, noise and rectangles, (height, width, 3) uint8, the same on every machine."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    draws = _draws(seed, 64).tolist()
    pixels = np.zeros((height, width, 3), np.int64)
    slopes = (
        x * 255 // max(width - 1, 1),
        y * 255 // max(height - 1, 1),
        (x + y) * 255 // max(width + height - 2, 1),
    )
    for channel in range(3):
        slope = slopes[draws[channel] % 3]
        pixels[..., channel] = slope if draws[8 + channel] % 2 else 255 - slope
    noise = (_draws(seed + 1000, pixels.size) >> np.uint64(40)).astype(np.int64)
    pixels += noise.reshape(pixels.shape) % 41 - 20
    for i in range(6):
        left, top, wide, high, *colour = draws[20 + 7 * i : 27 + 7 * i]
        left, top = left % width, top % height
        right, bottom = left + 1 + wide % (width // 3 + 1), top + 1 + high % (height // 3 + 1)
        pixels[top:bottom, left:right] = [value % 256 for value in colour]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _draws(seed: int, count: int) -> np.ndarray:
    """Random uint64 from a state written out, so that no version of numpy draws others."""
    digest = hashlib.sha256(f"phi3v-image:{seed}".encode()).digest()
    state: Any = {
        "bit_generator": "PCG64",
        "has_uint32": 0,
        "uinteger": 0,
        "state": {
            "state": int.from_bytes(digest[:16], "little"),
            "inc": int.from_bytes(digest[16:], "little") | 1,
        },
    }
    generator = np.random.PCG64()
    generator.state = state
    draws: np.ndarray = generator.random_raw(count)
    return draws


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
