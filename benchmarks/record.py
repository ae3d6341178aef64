"""One JSON line per measurement: what, on which device, with which versions, at which commit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import phisight

RESULTS = Path(__file__).with_name("results")


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
    """Minimum, median and maximum of some timings in seconds, and how many."""
    return {
        "min": round(min(seconds), 4),
        "p50": round(statistics.median(seconds), 4),
        "max": round(max(seconds), 4),
        "runs": len(seconds),
    }


def device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    flags = torch.cpu.get_capabilities()
    return f"{flags.get('cpu_name', platform.machine())}, {torch.get_num_threads()} threads"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def record(name: str, **figures: Any) -> None:
    """Print the figures and append them to results/NAME.jsonl."""
    commit = _git("describe", "--always")
    if _git("status", "--porcelain", "--", ":/", ":!/benchmarks/results"):
        commit += "-dirty"
    line = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "device": device(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "phisight": phisight.__version__,
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),  # slower when set, on a quiet machine
        "commit": commit or "unknown",
        **figures,
    }
    print(json.dumps(line, indent=1))
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
