"""Products of bfloat16 on processors that have none of their own (AVX2 alone: most laptops).

torch's are then six times slower than its float32's (CLIP, two cores of an EPYC: 84 s for 12.9), so
they are taken in float32, of weights widened a piece at a time, and rounded once: memory stays
bfloat16's.

Dimensions: T rows, N outputs, K inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels import reached

PIECE = 16 * 2**20  # bytes of float32 that weights are widened to at once


def widens(x: Tensor) -> bool:
    """Whether products of x are to be taken in float32. Never of what torch.compile traces: it
    would end its graph here."""
    if torch.compiler.is_compiling() or x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return False
    return not reached.torch_multiplies_bfloat16()


def widest(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In float32 where `widens` says so of the first, else as they are."""
    return tuple(x.float() for x in tensors) if widens(tensors[0]) else tensors


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K) by an (N, K) weight, transposed, to (..., N) in the dtype of x."""
    # autograd would keep the widened weights.
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if learns or weight.dtype != x.dtype or not widens(x):
        return functional.linear(x, weight, bias)
    wide, step = x.float(), max(1, PIECE // (4 * weight.shape[1]))
    pieces = [functional.linear(wide, part.float()) for part in weight.split(step)]
    y = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
    return (y if bias is None else y + bias.float()).to(x.dtype)
