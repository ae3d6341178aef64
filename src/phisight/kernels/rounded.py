"""Linear layers whose inputs are rounded to 8 bits too, so that whole numbers are multiplied.

`round_rows` defines what an input becomes. A factor for each span of a row, not one for the row:
the few large inputs of real models then cost their own span alone its small ones (llama.cpp's Q8
formats do so, by 32). Spans are the weights' groups of 128; in the vision tower, whose weights are
packed here, of 512: what is done once a span takes tile registers as long as 128 products.

Dimensions: T rows, N outputs, K inputs, S spans (the last may be shorter).
"""

from __future__ import annotations

import ctypes
import functools
import threading

import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels import between, native, packed
from phisight.kernels.ways import GROUP, Bytes, Kind

MOST = 127
KEPT = 32 * 2**20  # bytes that a thread keeps to work in
SPAN = 512  # of weights in 7 bits, as in c/round.h
OUTS, INS = 32, 64  # of a block of them: WIDTH and FOURS of c/bytes.h
LEVELS = 127  # of 7 bits, without a sign: two products by 8 bits still fit 16, which AVX2 adds in


@functools.cache
def best_way() -> Bytes:
    return Bytes(native.built().phisight_best_bytes()) if native.is_built() else Bytes.NONE


def round_rows(x: Tensor, span: int) -> Tensor:
    """(T, K) to the nearest multiples of a 127th of the largest of each span, in float32."""
    width = x.shape[1]
    padded = functional.pad(x.float(), (0, -width % span))
    parts = padded.unflatten(1, (-1, span))
    top = parts.abs().amax(-1, keepdim=True)
    # Divided: of a number by a tensor torch makes a product with its reciprocal.
    steps = torch.where(top > 1e-30, torch.full_like(top, MOST) / top, 0.0)
    rounded: Tensor = (parts * steps).round() * (top / MOST)
    return rounded.flatten(1)[:, :width]


def span_of(kind: Kind) -> int:
    return SPAN if kind == Kind.INT7 else GROUP


def pack_int7(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) weights to uint8 codes, as `blocks_of` lays them, and (N, S) bfloat16 scales and
    offsets."""
    width, padded = weight.shape[1], weight.float()
    if padding := -width % SPAN:  # multiplied by zeros: any value within the range
        padded = torch.cat([padded, padded[:, -1:].expand(-1, padding)], 1)
    w = padded.unflatten(1, (-1, SPAN))  # (N, S, SPAN)
    low, high = torch.aminmax(w, dim=-1, keepdim=True)
    scales = ((high - low) / LEVELS).bfloat16()
    offsets = ((low + high) / 2 + scales.float() / 2).bfloat16()  # of code 64: 63.5 is the middle
    steps = torch.where(scales > 0, 1 / scales.float(), 0.0)
    codes = torch.sub(w, offsets.float()).mul_(steps).round_().add_(64).clamp_(0, LEVELS)
    stored = codes.flatten(1)[:, :width].to(torch.uint8)
    return blocks_of(stored), scales[..., 0], offsets[..., 0]


def blocks_of(codes: Tensor) -> Tensor:
    """(N, K) codes to (N / OUTS, K / INS, OUTS, INS), as the compiled kernels multiply them; zeros
    where there are none."""
    rows, width = codes.shape
    padded = functional.pad(codes, (0, -width % GROUP, 0, -rows % OUTS))
    blocks = padded.unflatten(1, (-1, INS)).unflatten(0, (-1, OUTS))
    return torch.transpose(blocks, 1, 2).contiguous()


def unpack_int7(codes: Tensor, scales: Tensor, offsets: Tensor, width: int) -> Tensor:
    """What `pack_int7` stored, (N, K) in float32: (code - 64) * scale + offset."""
    factors = (part.float().repeat_interleave(SPAN, 1)[:, :width] for part in (scales, offsets))
    scale, offset = factors
    numbers = codes.transpose(1, 2).flatten(2).flatten(0, 1)[: len(scales), :width]
    return torch.addcmul(offset, numbers.float() - 64, scale)


def linear(
    x: Tensor, kind: Kind, codes: Tensor, scales: Tensor, offsets: Tensor | None = None,
    bias: Tensor | None = None, *, gelu: bool = False,
) -> Tensor:  # fmt: skip
    """(T, K) rows, rounded, times (N, ...) packed weights, transposed: (T, N) in the dtype of x;
    with `gelu` through CLIP's activation, `between.quick_gelu`."""
    stored = [part for part in (scales, offsets) if part is not None]
    if native.takes(x, codes, *stored) and can_multiply(kind, best_way()):
        return multiply(x, kind, codes, scales, offsets, bias, gelu=gelu)
    near = round_rows(x, span_of(kind))
    if kind == Kind.INT8:
        y = packed.linear_int8(near, codes, scales)
    else:
        assert offsets is not None, "only 8 bits have none"
        make = packed.linear_int4 if kind == Kind.INT4 else linear_int7
        y = make(near, codes, scales, offsets)
    y = (y if bias is None else y + bias.float()).to(x.dtype)
    return between.quick_gelu(y) if gelu else y


def linear_int7(x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(T, K) float32 rows times what is packed, transposed: (T, N)."""
    return functional.linear(x, unpack_int7(codes, scales, offsets, x.shape[1]))


def described(weights: str) -> str:
    """How rounded rows are multiplied by packed weights, and by the vision tower's."""
    if best_way() == Bytes.NONE:
        return "multiplied as float32: no kernels for them"
    if not can_multiply(Kind[weights.upper()], best_way()):
        return (
            f"multiplied as float32 but for the vision tower's: AVX2 has no products for {weights}"
        )
    return "multiplied as whole numbers"


def can_multiply(kind: Kind, way: Bytes) -> bool:
    """AVX2 adds two products in 16 bits, which those of 8 bits by 8 do not fit."""
    return way != Bytes.NONE and (kind != Kind.INT8 or way != Bytes.PAIRS)


def few_rows(kind: Kind, way: Bytes, width: int) -> int:
    """Up to how many rows are multiplied by rows of weights as they lie, rather than by blocks."""
    if kind == Kind.INT7 or (kind == Kind.INT8 and (way < Bytes.WIDE_FOURS or width % GROUP)):
        return 0
    return 4


def multiply(
    x: Tensor, kind: Kind, codes: Tensor, scales: Tensor, offsets: Tensor | None = None,
    bias: Tensor | None = None, *, gelu: bool = False, way: Bytes | None = None,
) -> Tensor:  # fmt: skip
    """`linear` in the compiled kernels."""
    way = best_way() if way is None else way
    if bias is None and not gelu and 0 < len(x) <= few_rows(kind, way, x.shape[1]):
        return native.rounded_few(x, kind, codes, scales, offsets, way=way, bits=8)
    x = x.contiguous()
    y = torch.empty(len(x), len(scales), dtype=x.dtype)
    added = None if bias is None else bias.float().contiguous()
    sizes = [ctypes.c_int64(size) for size in (*x.shape, len(scales))]
    within = gelu and x.dtype == torch.bfloat16 and way >= Bytes.WIDE_FOURS
    room = _room(native.built().phisight_rounded_room(*sizes[:2], int(kind)))
    failed = native.built().phisight_rounded(
        *map(native.at, (x, codes, scales, offsets, added, y)), *sizes, native.at(room),
        int(kind), int(x.dtype == torch.bfloat16), int(within), int(way), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for a linear layer")
    return between.quick_gelu(y) if gelu and not within else y


_held = threading.local()


def _room(size: int) -> Tensor:
    """Bytes to work in, the calling thread's own: kept, since new ones must be cleared first."""
    room: Tensor | None = getattr(_held, "room", None)
    if room is None or len(room) < size:
        room = torch.empty(size, dtype=torch.uint8)
        if size <= KEPT:
            _held.room = room
    return room
