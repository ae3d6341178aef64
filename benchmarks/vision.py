"""The vision tower and the projector: crops of several requests in one batch, beside CLIP's own.

    python benchmarks/vision.py [MODEL | random] [PICTURES ...]

Each picture has 16 crops and its global view (4 and one for nano on a CPU). The ceiling is the
multiply-adds over the rate of a large product in the same run.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from ceilings import best, measured
from peers.hf_native import clip
from random_model import random_model
from record import record

import phisight
from phisight.hd import CROP
from phisight.model.phi3v import Crops
from phisight.params import EngineConfig


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "nano"
    counts = [int(word) for word in sys.argv[2:]] or [1, 2, 4]
    ceiling = measured()
    model = random_model(EngineConfig(kv_memory=1)) if name == "random" else phisight.load(name)
    network, side = model.network, 4 if name == "random" else 2
    device, dtype = network.device, network.dtype
    peer = clip(network.config, str(device)).to(dtype)
    pixels = torch.randn(side * side + 1, 3, CROP, CROP, device=device, dtype=dtype)
    rows: dict[str, dict[str, Any]] = {}
    for count in counts:
        shown = [Crops(pixels, side, side, 0, bytes([number])) for number in range(count)]
        with torch.inference_mode():
            ours = best(lambda shown=shown: network.encode_images(shown))
            together = pixels.repeat(count, 1, 1, 1)
            theirs = best(lambda together=together: peer(together).last_hidden_state)
        least = network.flops(0, count * len(pixels)) / ceiling.gemm
        rows[str(count)] = {
            "crops": count * len(pixels),
            "ours_s": round(ours, 5),
            "share_of_gemm": round(least / ours, 3),
            "transformers_clip_s": round(theirs, 5),
            "ours_over_clip": round(ours / theirs, 3),
        }
    record(
        "vision",
        model=name,
        dtype=str(dtype).removeprefix("torch."),
        gemm_tflop_per_s=round(ceiling.gemm / 1e12, 2),
        pictures=rows,
        note="ours with the projector, CLIP's without; FLOPs without it",
    )


if __name__ == "__main__":
    main()
