"""What a device can do at most, measured in the run that needs it.

    python benchmarks/ceilings.py

Copy: a large tensor read and written; read: one summed; GEMM: square products in bfloat16, float32
where the CPU has no bfloat16. Each is the best of ten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from record import record

from phisight.placement import choose_placement


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second, and multiply-adds a second counted as two."""

    copy: float
    read: float
    gemm: float


def measured() -> Ceilings:
    placement = choose_placement(None, None)
    size = 8192 if placement.device.type == "cuda" else 2048
    left, right = (
        torch.randn(size, size, device=placement.device, dtype=placement.dtype) for _ in range(2)
    )
    gemm = 2 * size**3 / best(lambda: left @ right)
    source = torch.zeros(_bytes() // 4, device=placement.device)
    read = source.nbytes / best(lambda: source.view(-1, 4096).sum(1))
    return Ceilings(copy_rate(), read, gemm)


def copy_rate() -> float:
    """Bytes per second of a large copy, read and written."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.zeros(_bytes(), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source))


def _bytes() -> int:
    return 2**31 if torch.cuda.is_available() else 2**28


def best(run: Callable[[], object], times: int = 10) -> float:
    """Seconds of the quickest of some runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(times):
        synchronize()
        began = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    found = {name: round(value / 1e9, 1) for name, value in asdict(measured()).items()}
    record(
        "ceilings",
        copy_gb_per_s=found["copy"],
        read_gb_per_s=found["read"],
        gemm_gflop_per_s=found["gemm"],
    )


if __name__ == "__main__":
    main()
