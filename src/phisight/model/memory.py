"""How much memory a device has free, and telling a lack of it from other failures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phisight.errors import BudgetError
from phisight.machine import free_memory


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; what torch holds in reserve counts as free."""
    if device.type != "cuda":
        return free_memory()
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


@contextmanager
def budget_error(message: str) -> Iterator[None]:
    """Raise BudgetError with this message if memory runs out inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BudgetError(message) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: CUDA has a type for it, the CPU allocator only a text."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
