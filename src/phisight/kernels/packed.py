"""Linear layers whose weights are stored in 8 or 4 bits, on the CPU.

`unpack_int4` and `unpack_int8` define what the stored numbers mean. Rows are multiplied by
`kernels.native` where it has been built and is faster; else few by torch's own operation for 4
bits, and many by a matrix product in the rows' dtype, over weights unpacked a piece at a time.

Dimensions: T rows, N outputs, K inputs, G groups of GROUP inputs (the last may be part padding).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels import dense, native
from phisight.kernels.ways import GROUP, Kind

PLANE = 32  # of a group's codes, those at the same four bits of its 32 words of 16 bits
LEVELS = 15
FEW = 16  # rows, of torch's operation: beyond, unpacking costs less than it saves
# Weights unpacked at once: what is unpacked for a few rows should still be in the cache when they
# are multiplied (20 rows: 14 ms for 34); for many, larger products are the faster ones.
PIECE, LARGE_PIECE, MANY = 4 * 2**20, 16 * 2**20, 128
# Shares of a group's range that are tried. One extreme weight left out can let all others be
# stored closer: the choice is by squared error, and needs no data.
SHRINKS = (1.0, 0.94, 0.88, 0.82, 0.76)


def groups_of(width: int) -> int:
    return -(-width // GROUP)


def pack_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) weights to (N, G * GROUP / 2) uint8 codes, (N, G) bfloat16 scales and offsets."""
    padding = groups_of(weight.shape[1]) * GROUP - weight.shape[1]
    # Multiplied by zeros: any value within the range.
    padded = torch.cat([weight, weight[:, -1:].expand(-1, padding)], 1)
    w = padded.float().unflatten(1, (-1, GROUP))  # (N, G, GROUP)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    middle, span = (low + high) / 2, high - low
    scales, offsets = torch.zeros_like(span), torch.zeros_like(span)
    least = torch.full_like(span, torch.inf)
    for shrink in SHRINKS:
        scale = (span * (shrink / LEVELS)).bfloat16().float()
        offset = (middle + scale / 2).bfloat16().float()  # of code 8: 7.5 is the middle one
        error = _codes(w, scale, offset).sub_(8).mul_(scale).add_(offset).sub_(w)
        error[:, -1, GROUP - padding :] = 0
        error = error.square_().sum(-1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scales, offsets = torch.where(better, scale, scales), torch.where(better, offset, offsets)
    codes = _codes(w, scales, offsets).to(torch.int32).unflatten(-1, (4, PLANE))
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32)[:, None]
    words = (codes << shifts).sum(2).to(torch.uint16)  # (N, G, PLANE)
    stored = words.flatten(1).view(torch.uint8)
    return stored, scales[..., 0].bfloat16(), offsets[..., 0].bfloat16()


def _codes(w: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The nearest of (N, G, GROUP) weights, as floats."""
    steps = torch.where(scale > 0, 1 / scale, 0.0)
    return torch.sub(w, offset).mul_(steps).round_().add_(8).clamp_(0, LEVELS)


def unpack_int4(codes: Tensor, scales: Tensor, offsets: Tensor, width: int) -> Tensor:
    """What `pack_int4` stored, (N, K) in float32: (code - 8) * scale + offset."""
    words = codes.view(torch.uint16).to(torch.int32).unflatten(1, (-1, 1, PLANE))
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32)[:, None]
    numbers = ((words >> shifts) & LEVELS).flatten(2).float()  # (N, G, GROUP)
    wide = torch.addcmul(offsets.float()[..., None], numbers - 8, scales.float()[..., None])
    return wide.flatten(1)[:, :width]


def linear_int4(x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(T, K) times what is packed, transposed: (T, N) in the dtype of x."""
    if native.takes(x, codes, scales, offsets):
        if len(x) <= native.few(x):
            if padding := scales.shape[1] * GROUP - x.shape[1]:
                x = functional.pad(x, (0, padding))
            return native.int4(x, codes, scales, offsets)
        if len(x) <= native.most(x):
            return native.rows(x, Kind.INT4, codes, scales, offsets)
    pieces, (wide,) = [], dense.widest(x)
    for rows in _pieces(len(codes), x.shape[1], len(x)):
        part = codes[rows], scales[rows], offsets[rows]
        if x.dtype == torch.bfloat16 and native.takes(x, *part):
            weight = native.int4_unpacked(*part)[:, : x.shape[1]]
        else:
            weight = unpack_int4(*part, x.shape[1])
        pieces.append(functional.linear(wide, weight.to(wide.dtype)).to(x.dtype))
    return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]


def in_torchs_layout(
    codes: Tensor, scales: Tensor, offsets: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """For `linear_int4_by_torch` of rows in bfloat16 or float32; None where torch has no such
    operation for these weights."""
    if len(codes) % 16 or not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        return None
    words = codes.view(torch.uint16).to(torch.int32).unflatten(1, (-1, 1, PLANE))
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int32)[:, None]
    numbers = ((words >> shifts) & LEVELS).flatten(1)  # (N, G * GROUP)
    laid = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
    return laid, torch.stack([scales.T, offsets.T], -1).to(dtype).contiguous()  # (G, N, 2)


def linear_int4_by_torch(x: Tensor, laid: Tensor, ranges: Tensor) -> Tensor:
    """(T, K) rows, few, in the dtype of `ranges`, as `linear_int4`."""
    padded = functional.pad(x, (0, len(ranges) * GROUP - x.shape[1]))
    y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(padded, laid, GROUP, ranges)
    return y


def described() -> str:
    """What few rows are multiplied by."""
    if native.is_built():
        return "by the compiled kernels"
    return "by torch alone: `python -m phisight.kernels.native` compiles faster kernels"


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) weights to (N, K) int8 codes and (N,) bfloat16 scales."""
    w = weight.float()
    scales = (w.abs().amax(1) / 127).bfloat16()
    codes = (w / scales.float().clamp(min=1e-30)[:, None]).round().clamp(-127, 127)
    return codes.to(torch.int8), scales


def unpack_int8(codes: Tensor, scales: Tensor) -> Tensor:
    """What `pack_int8` stored, (N, K) in float32."""
    return codes.float() * scales.float()[:, None]


def linear_int8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """(T, K) times what is packed, transposed: (T, N) in the dtype of x."""
    if native.takes(x, codes, scales):
        if len(x) <= native.few(x):
            return native.int8(x, codes, scales)
        if len(x) <= native.most(x):
            return native.rows(x, Kind.INT8, codes, scales)
    pieces, (wide,) = [], dense.widest(x)
    for rows in _pieces(len(codes), codes.shape[1], len(x)):
        # The scale goes to the result: codes are exact in bfloat16.
        product = functional.linear(wide, codes[rows].to(wide.dtype))
        pieces.append((product * scales[rows].to(wide.dtype)).to(x.dtype))
    return torch.cat(pieces, -1) if len(pieces) > 1 else pieces[0]


def _pieces(outputs: int, width: int, rows: int) -> list[slice]:
    step = max(1, (LARGE_PIECE if rows > MANY else PIECE) // width)
    return [slice(start, start + step) for start in range(0, outputs, step)]
