"""The machine a report was made on: versions, processor, memory. No names of users or hosts."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path

import psutil
import torch

import phisight
from phisight.placement import Placement
from phisight.verify.report import gigabytes

_LIBRARIES = ("torch", "pillow", "numpy", "tokenizers", "safetensors")


def describe_machine(placement: Placement) -> dict[str, str]:
    """What to know of a machine to make sense of a report, by name."""
    facts = {
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "phisight": phisight.__version__,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "Python": platform.python_version(),
        "system": f"{_system()}, {platform.machine()}",
        "processor": f"{_processor()}; torch uses {torch.backends.cpu.get_cpu_capability()}",
        "threads": f"{torch.get_num_threads()} of {psutil.cpu_count()}",
        "memory": gigabytes(psutil.virtual_memory().total),
        "placement": str(placement),
    }
    if placement.device.type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(placement.device)
        facts["CUDA"] = str(torch.version.cuda)
    return facts


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


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
