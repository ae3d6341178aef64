"""Operations whose way of being done is a choice; one a file, plain tensors in and out."""

from __future__ import annotations

import functools
from types import ModuleType

import torch


@functools.cache
def fused_fault(device: torch.device) -> str | None:
    """Why a step's operations do not run as Triton kernels there; None if they do.

    Found by running one: Triton builds a launcher with the machine's C compiler, which may be
    missing, as may Python's headers or a place to write.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return f"{device} runs no Triton kernels"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{device} is older than Triton's kernels are made for"
    try:
        from phisight.kernels import fused

        with torch.cuda.device(device):
            x = torch.ones(1, 16, device=device, dtype=torch.bfloat16)
            fused.rms_norm(x, x[0], 1e-5)
            torch.cuda.synchronize(device)
    except Exception as error:  # Triton's and its compilers' are of many kinds
        return f"Triton does not work here ({type(error).__name__})"
    return None


def steps_note(device: torch.device, fault: str | None) -> str:
    """How steps run there and why; empty where there is no choice."""
    if device.type != "cuda":
        return ""
    return "steps in fused kernels" if fault is None else f"no fused kernels: {fault}"


def has_fused(device: torch.device) -> bool:
    return fused_fault(device) is None


def operations(device: torch.device) -> ModuleType:
    """A decode step's operations: `fused`, or their definition."""
    if has_fused(device):
        from phisight.kernels import fused

        return fused
    from phisight.kernels import reference

    return reference
