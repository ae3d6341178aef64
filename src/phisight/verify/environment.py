"""The machine a report was made on: versions, processor, memory. No names of users or hosts."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

import phisight
from phisight.machine import free_memory, total_memory
from phisight.placement import Placement
from phisight.verify.report import gigabytes

_LIBRARIES = ("torch", "pillow", "numpy", "tokenizers", "safetensors")


def describe_machine(placement: Placement) -> dict[str, str]:
    """What to know of a machine to make sense of a report, by name."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "phisight": phisight.__version__,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "Python": platform.python_version(),
        "system": f"{_system()}, {platform.machine()}",
        "processor": f"{_processor()}; torch uses {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "memory": f"{gigabytes(free_memory())} free of {gigabytes(total_memory())}",
        "placement": str(placement),
    }
    if placement.device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(placement.device)
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def _system() -> str:
    if platform.system() == "Linux":
        try:
            return platform.freedesktop_os_release()["PRETTY_NAME"]
        except (OSError, KeyError):
            return "Linux"
    return f"{platform.system()} {platform.release()}"


def _processor() -> str:
    """The model's name: Linux has it in a file only."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
