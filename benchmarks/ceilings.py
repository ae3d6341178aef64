"""What a CUDA device can do at most, measured in the run that needs it."""

from __future__ import annotations

import time

import torch


def copy_rate() -> float:
    """Bytes per second of a large copy, read and written."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(times)
