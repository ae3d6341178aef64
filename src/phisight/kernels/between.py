"""What stands between the matrix products of a layer: one pass in the compiled kernels where the
numbers are bfloat16 and nothing is traced or differentiated, else plain torch. (CLIP's activation
is one pass on CUDA too.)

Dimensions: D hidden size, I intermediate size, N sequences, T tokens, H heads, d head size.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels import native, native_attention, operations, reached, reference
from phisight.kernels.dense import widest


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), CLIP's activation, of (..., I). What x was may be overwritten: as many
    new numbers cost more than the activation, since the system clears their memory first."""
    if x.is_cuda and reached.is_inferring():
        made: Tensor = operations(x.device).quick_gelu(x)
        return made
    if not _takes(x):
        return reference.quick_gelu(x)
    native.built().phisight_quick_gelu(native.at(x), *_sizes(x))
    return x


def silu_product(gate_up: Tensor) -> Tensor:
    """(..., 2I), gates first, to (..., I), as `reference.silu_product`."""
    if not _takes(gate_up):
        return reference.silu_product(gate_up)
    y = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    native.built().phisight_silu_product(native.at(gate_up), native.at(y), *_sizes(y))
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(..., D) to (..., D), as `reference.rms_norm`."""
    if not _takes(x, weight):
        return reference.rms_norm(x, weight, eps)
    y = torch.empty_like(x)
    rows, width, threads = _sizes(y)
    native.built().phisight_rms_norm(
        *map(native.at, (x, weight, y)), rows, width, ctypes.c_float(eps), threads
    )
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., T, 2, H, d) queries and keys, turned by (..., T, d) cos and sin, to the same shape."""
    inner = x.shape[-3] * x.shape[-2] * x.shape[-1]
    plain = x.dim() == 4 and x.stride()[1:] == (inner // 2, x.shape[-1], 1)
    plain = plain and cos.shape == sin.shape == (x.shape[0], x.shape[3])
    if plain and x.dtype == torch.bfloat16 and _takes(cos, sin) and reached.is_plain(x):
        y = torch.empty(x.shape, dtype=x.dtype)
        sizes = (x.shape[0], x.stride(0), 2 * x.shape[2], x.shape[3])
        native.built().phisight_rotate(
            *map(native.at, (x, cos, sin, y)), *map(ctypes.c_int64, sizes), torch.get_num_threads()
        )
        return y
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    result: Tensor = x * cos[..., None, None, :] + turned * sin[..., None, None, :]
    return result


def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, T, H, d) queries, all over all keys and values, to (N, T, H, d)."""
    if reached.is_inferring() and native_attention.can_mix(q, k, v):
        return native_attention.mix(q, k, v)
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2) for x in widest(q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).to(dtype)


def _takes(*tensors: Tensor) -> bool:
    """With rows of a multiple of 32 numbers: two halves of 16 lanes."""
    if not reached.is_inferring() or not reached.is_plain(*tensors):
        return False
    known = all(x.dtype == torch.bfloat16 and x.is_contiguous() for x in tensors)
    return known and tensors[0].shape[-1] % 32 == 0 and native.is_built()


def _sizes(y: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64, int]:
    width = y.shape[-1]
    rows = y.numel() // max(1, width)
    return ctypes.c_int64(rows), ctypes.c_int64(width), torch.get_num_threads()
