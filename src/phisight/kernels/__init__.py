"""Operations whose way of being done is a choice; one a file, plain tensors in and out."""

from __future__ import annotations

from types import ModuleType

import torch


def has_fused(device: torch.device) -> bool:
    """Whether a decode step's operations run as Triton kernels there."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    try:
        import triton
    except ImportError:  # no part of torch on Windows
        return False
    return bool(triton.__version__)


def operations(device: torch.device) -> ModuleType:
    """A decode step's operations: `fused`, or their definition."""
    if has_fused(device):
        from phisight.kernels import fused

        return fused
    from phisight.kernels import reference

    return reference
