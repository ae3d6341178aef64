"""What a kernel asks of its inputs and of the processor before it takes them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def is_inferring() -> bool:
    """In inference mode, and run rather than traced: to ask for the mode while torch.compile traces
    ends its graph, and a training step in so many graphs took an H100 0.23 s for 0.14."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def is_plain(*tensors: Tensor) -> bool:
    """Whether all have memory of their own on the CPU: no subclass that only looks like it."""
    kinds = (Tensor, torch.nn.Parameter)
    return all(type(t) in kinds and t.device.type == "cpu" for t in tensors)


@functools.cache
def torch_multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, which torch then takes."""
    flags = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")
    return any(torch.cpu.get_capabilities().get(flag) for flag in flags)
