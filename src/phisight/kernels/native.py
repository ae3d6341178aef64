"""The C files beside this one, where they have been built: an option, never at a user's first run.

    python -m phisight.kernels.native

compiles them with the machine's C compiler (CC, else cc) into a library beside this file; `make
kernels` does the same. Without it everything runs, slower.

Dimensions: T rows, N outputs, K inputs, G groups.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from phisight.kernels import reached
from phisight.kernels.reached import is_plain
from phisight.kernels.ways import GROUP, Bytes, Kind, Way

VERSION = 12  # of the C files together: a library of another is left alone
SOURCES = Path(__file__).with_name("c")
LIBRARY = Path(__file__).with_name("native.bin")  # not .so: Python would take it for a module
# Rows up to which full weights are multiplied here: beyond, torch is as fast. Where the processor
# has no products of bfloat16, the weights must be widened for it first.
FEW_DENSE, FEW_WIDENED = 4, 16
FLAGS = ("-O3", "-Wno-psabi", "-fPIC", "-shared")


def is_built() -> bool:
    return _library() is not None


@functools.cache
def _library() -> ctypes.CDLL | None:
    return opened(LIBRARY)


def opened(path: Path) -> ctypes.CDLL | None:
    """The library if there is one that this machine can load. torch's OpenMP is loaded before it,
    and serves both."""
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.phisight_rounded_room.restype = ctypes.c_int64
        return library if library.phisight_version() == VERSION else None
    except (OSError, AttributeError):  # for another machine, or no such library
        return None


def int4(x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(T, G * GROUP) bfloat16 or float32 rows, as `packed.linear_int4`."""
    if way := way_of_words(x, Kind.INT4):
        return rounded_few(x, Kind.INT4, codes, scales, offsets, way=way, bits=16)
    wide = x.float().contiguous()
    y = torch.empty(len(x), len(codes))
    failed = built().phisight_int4(
        *map(at, (wide, codes, scales, offsets, y)),
        *map(ctypes.c_int64, (len(x), len(codes), x.shape[1])), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for a linear layer")
    return y.to(x.dtype)


def way_of_words(x: Tensor, kind: Kind) -> Bytes:
    """What multiplies few rows in bfloat16, their 8 digits rounded to 16 bits of the largest of a
    group: half the time of float32 with AVX2, and with AVX-512 (one row, 16384 x 3072) 18 GB/s for
    its 15 in 8 bits, in 4 bits 17.7 for the 16.7 of bfloat16's own products. NONE where none."""
    if x.dtype != torch.bfloat16:
        return Bytes.NONE
    if built().phisight_has_bytes(int(Bytes.WIDE_FOURS)):
        return Bytes.WIDE_FOURS if x.shape[1] % GROUP == 0 else Bytes.NONE
    pairs = kind == Kind.INT4 and built().phisight_has_bytes(int(Bytes.PAIRS))
    return Bytes.PAIRS if pairs else Bytes.NONE


def rounded_few(
    x: Tensor, kind: Kind, codes: Tensor, scales: Tensor, offsets: Tensor | None, *, way: Bytes,
    bits: int,
) -> Tensor:  # fmt: skip
    """(T, K) bfloat16 or float32 rows, few, as `rounded.linear`, or rounded to 16 bits."""
    x = x.contiguous()
    y = torch.empty(len(x), len(codes), dtype=x.dtype)
    failed = built().phisight_rounded_few(
        *map(at, (x, codes, scales, offsets, y)), *map(ctypes.c_int64, (*x.shape, len(codes))),
        int(kind), int(x.dtype == torch.bfloat16), int(way), bits, torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for a linear layer")
    return y


def int4_unpacked(codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(N, G * GROUP) bfloat16 weights."""
    width = 2 * codes.shape[1]
    out = torch.empty(len(codes), width, dtype=torch.bfloat16)
    built().phisight_int4_unpack(
        at(codes), at(scales), at(offsets), at(out),
        *map(ctypes.c_int64, (width, 0, len(codes))), torch.get_num_threads(),
    )  # fmt: skip
    return out


def int8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """(T, K) bfloat16 or float32 rows, as `packed.linear_int8`."""
    if way := way_of_words(x, Kind.INT8):
        return rounded_few(x, Kind.INT8, codes, scales, None, way=way, bits=16)
    wide = x.float().contiguous()
    y = torch.empty(len(x), len(codes))
    built().phisight_int8(
        at(wide), at(codes), at(scales), at(y),
        *map(ctypes.c_int64, (len(x), *codes.shape)), torch.get_num_threads(),
    )  # fmt: skip
    return y.to(x.dtype)


@functools.cache
def best_way() -> Way:
    return Way(built().phisight_best_way())


def few(x: Tensor) -> int:
    """Up to how many rows `int4` and `int8` are faster than `rows`."""
    return {Way.FLOAT: 16, Way.BFLOAT16: 8, Way.TILES: 2}[_way_for(x)]


def most(x: Tensor) -> float:
    """Up to how many rows `rows` is faster than torch."""
    if x.dtype == torch.float32:
        return 64
    return math.inf if _way_for(x) == Way.TILES else 128


def _way_for(x: Tensor) -> Way:
    return best_way() if x.dtype == torch.bfloat16 else Way.FLOAT


def rows(
    x: Tensor, kind: Kind, codes: Tensor, scales: Tensor, offsets: Tensor | None = None,
    *, way: Way | None = None,
) -> Tensor:  # fmt: skip
    """(T, K) bfloat16 or float32 rows times (N, ...) weights, transposed; any number of rows.

    Offsets belong to 4 bits. In float32 unless x is bfloat16 and the machine multiplies it. No more
    than a few blocks are ever unpacked.
    """
    way = _way_for(x) if way is None else way
    x_ = (x.float() if way == Way.FLOAT else x).contiguous()
    width = 2 * codes.shape[1] if kind == Kind.INT4 else codes.shape[1]
    y = torch.empty(len(x), len(codes), dtype=x_.dtype)
    failed = built().phisight_rows(
        *map(at, (x_, codes, scales, offsets, y)),
        *map(ctypes.c_int64, (*x.shape, len(codes), width)), int(kind), int(way),
        torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for a linear layer")
    return y.to(x.dtype)


def dense(x: Tensor, weight: Tensor, *, way: Way | None = None) -> Tensor:
    """(T, K) rows times an (N, K) weight, transposed, both bfloat16: where `can_multiply`."""
    x, way = x.contiguous(), best_way() if way is None else way
    y = torch.empty(len(x), len(weight))
    built().phisight_dense(
        at(x), at(weight), at(y), *map(ctypes.c_int64, (len(x), *weight.shape)),
        int(way != Way.FLOAT), torch.get_num_threads(),
    )  # fmt: skip
    return y.to(x.dtype)


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether `dense` takes these, and is faster."""
    known = is_plain(x, weight) and x.dtype == torch.bfloat16 == weight.dtype
    known = known and x.shape[-1] == weight.shape[1] and weight.shape[1] % 32 == 0
    if not (known and weight.is_contiguous() and is_built()):
        return False
    if best_way() != Way.FLOAT:
        return len(x) <= FEW_DENSE
    return len(x) <= FEW_WIDENED and not reached.torch_multiplies_bfloat16()


def takes(x: Tensor, codes: Tensor, scales: Tensor, *offsets: Tensor) -> bool:
    """Whether `int4` or `int8` takes these. Raises TypeError for scales that are not bfloat16:
    somebody has converted the module that holds them."""
    if any(tensor.dtype != torch.bfloat16 for tensor in (scales, *offsets)):
        raise TypeError(f"scales in {scales.dtype}: packed weights cannot be converted")
    known = x.dtype in (torch.bfloat16, torch.float32)
    known = known and is_plain(x, codes, scales, *offsets)
    return known and all(t.is_contiguous() for t in (codes, scales, *offsets)) and is_built()


def built() -> ctypes.CDLL:
    """The library, where `is_built`."""
    library = _library()
    assert library is not None, "callers ask is_built()"
    return library


def at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def build(path: Path, lanes: int | None = None) -> int:
    """Compile; whole or not at all, since others may be loading it. The exit status.

    A library runs on every processor of a kind; `lanes`, of c/wide.h, make it quick on this one.
    """
    made = path.with_suffix(f".{os.getpid()}.new")
    lanes = lanes or (16 if torch.cpu.get_capabilities().get("avx512_f") else 8)
    sources = sorted(map(str, SOURCES.glob("*.c")))
    compiler = shlex.split(os.environ.get("CC", "cc"))
    # Apple's compiler has no OpenMP: one thread is less, not none.
    for threads in (["-fopenmp"], []):
        command = [
            *compiler,
            *FLAGS,
            f"-DLANES={lanes}",
            *threads,
            *sources,
            "-o",
            str(made),
            "-lm",
        ]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"phisight: {shlex.join(command)}: {error}\n")
            continue
        made.replace(path)
        sys.stderr.write(f"phisight: built {path}{'' if threads else ', for one thread'}\n")
        return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(build(LIBRARY))
