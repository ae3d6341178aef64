"""Telling a lack of memory from other failures."""

from __future__ import annotations

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: CUDA has a type for it, the CPU allocator only a text."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
