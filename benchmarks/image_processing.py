"""A 4000x3000 JPEG through the processor at 16 crops, against Pillow's decode and resize alone.

    python benchmarks/image_processing.py [RUNS]

The two alternate in one process; the quotient is taken pair by pair, since the host's speed drifts.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np
from PIL import Image
from record import record, spread

from phisight.config import ProcessorConfig
from phisight.hd import hd_layout
from phisight.processing.image import cut_crops, open_image

CONFIG = ProcessorConfig(
    16, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


def photo() -> bytes:
    """A picture with the detail of a photograph: smooth colours and some noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8))
    smooth = np.asarray(small.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    data = photo()
    size = hd_layout(4000, 3000, 16).resized
    ours, pillow = [], []
    for _ in range(runs + 2):  # two to warm up
        began = time.perf_counter()
        with Image.open(io.BytesIO(data)) as image:
            image.resize(size, Image.Resampling.BILINEAR)
        between = time.perf_counter()
        cut_crops(open_image(data), CONFIG, 16)
        pillow.append(between - began)
        ours.append(time.perf_counter() - between)
    ours, pillow = ours[2:], pillow[2:]
    record(
        "image_processing",
        jpeg_bytes=len(data),
        ours_s=spread(ours),
        pillow_s=spread(pillow),
        ours_over_pillow=spread([a / b for a, b in zip(ours, pillow, strict=True)]),
        bar="p50 of the quotient at most 1.5",
    )


if __name__ == "__main__":
    main()
