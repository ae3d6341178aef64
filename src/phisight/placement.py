"""Which device and number format a model runs in, and why.

The only place that looks for devices; the reason is always given, so that no choice is silent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from phisight.errors import DeviceError
from phisight.kernels import packed, reached, rounded

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Placement:
    """A device, a dtype, and the reasons for what the caller did not choose."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def noting(self, more: str) -> Placement:
        """With one more thing that the caller did not choose; as it is if there is nothing."""
        reason = "; ".join(part for part in (self.reason, more) if part)
        return dataclasses.replace(self, reason=reason)

    def __str__(self) -> str:
        name = f"{self.device}, {str(self.dtype).removeprefix('torch.')}"
        return f"{name} ({self.reason})" if self.reason else name


def choose_placement(
    device: str | None,
    dtype: str | None,
    weights: str | None = None,
    activations: str | None = None,
) -> Placement:
    """Fill in what is None. Raises DeviceError for a device that is not there.

    Packed `weights` run on the CPU, so that without a device this is the CPU.
    """
    reasons = []
    if device is None and weights is not None:
        chosen = torch.device("cpu")
        reasons.append(f"weights in {weights} run there")
    elif device is None:
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        reasons.append("a CUDA device is there" if chosen.type == "cuda" else "no CUDA device")
    else:
        chosen = _checked(device)
    if dtype is None:
        number, why = _native_dtype(chosen)
        reasons.append(why)
    else:
        number = _DTYPES[dtype]
    if weights is not None:
        reasons.append(f"{weights} {packed.described()}")
    if weights is not None and activations is not None:
        reasons.append(f"inputs in {activations}, {rounded.described(weights)}")
    return Placement(chosen, number, "; ".join(reasons))


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    count = counts.get(device.type, 0)
    if (device.index or 0) >= count:
        there = ", ".join(f"{kind} ({number})" for kind, number in counts.items() if number)
        raise DeviceError(f"device {name!r} is not on this machine; there are: {there}")
    return device


def _native_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """bfloat16 where the device computes in it, and on every CPU, where it halves the memory."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            computes = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        computes = reached.torch_multiplies_bfloat16()
    else:
        computes = False
    if computes:
        return torch.bfloat16, f"{device.type} computes in bfloat16"
    if device.type == "cpu":
        return torch.bfloat16, "half of float32's memory; cpu multiplies it in float32"
    return torch.float32, f"{device.type} does not compute in bfloat16"
