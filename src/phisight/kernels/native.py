"""The C files beside this one, where they have been built: an option, never at a user's first run.

    python -m phisight.kernels.native

compiles them with the machine's C compiler (CC, else cc) into a library beside this file; `make
kernels` does the same. Without it everything runs, slower.

Dimensions: T rows, N outputs, K inputs, G groups.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

VERSION = 4  # of the C files together: a library of another is left alone
SOURCES = Path(__file__).with_name("c")
LIBRARY = Path(__file__).with_name("native.bin")  # not .so: Python would take it for a module
FEW_DENSE = 4  # rows: beyond, torch is as fast
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
        return library if library.phisight_version() == VERSION else None
    except (OSError, AttributeError):  # for another machine, or no such library
        return None


def int4(x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(T, G * GROUP) bfloat16 or float32 rows, as `packed.linear_int4`."""
    wide, codes = x.float().contiguous(), codes.contiguous()
    narrow = None
    if x.dtype == torch.bfloat16 and _built().phisight_multiplies_bfloat16():
        narrow = x.contiguous()
    y = torch.empty(len(x), len(codes))
    failed = _built().phisight_int4(
        _at(wide), _at(narrow), _at(codes), _at(scales), _at(offsets), _at(y),
        *map(ctypes.c_int64, (*x.shape[:1], len(codes), x.shape[1])), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for a linear layer")
    return y.to(x.dtype)


def int4_unpacked(codes: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """(N, G * GROUP) bfloat16 weights."""
    width = 2 * codes.shape[1]
    out = torch.empty(len(codes), width, dtype=torch.bfloat16)
    _built().phisight_int4_unpack(
        _at(codes), _at(scales), _at(offsets), _at(out),
        *map(ctypes.c_int64, (width, 0, len(codes))), torch.get_num_threads(),
    )  # fmt: skip
    return out


def int8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """(T, K) bfloat16 or float32 rows, as `packed.linear_int8`."""
    wide = x.float().contiguous()
    y = torch.empty(len(x), len(codes))
    _built().phisight_int8(
        _at(wide), _at(codes), _at(scales), _at(y),
        *map(ctypes.c_int64, (len(x), *codes.shape)), torch.get_num_threads(),
    )  # fmt: skip
    return y.to(x.dtype)


def dense(x: Tensor, weight: Tensor) -> Tensor:
    """(T, K) rows times an (N, K) weight, transposed, both bfloat16: where `can_multiply`."""
    x = x.contiguous()
    y = torch.empty(len(x), len(weight))
    _built().phisight_dense(
        _at(x), _at(weight), _at(y),
        *map(ctypes.c_int64, (len(x), *weight.shape)), torch.get_num_threads(),
    )  # fmt: skip
    return y.to(x.dtype)


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether `dense` takes these."""
    known = _is_plain(x, weight) and x.dtype == torch.bfloat16 == weight.dtype
    known = known and x.shape[-1] == weight.shape[1] and weight.shape[1] % 32 == 0
    known = known and weight.is_contiguous() and is_built()
    return known and bool(_built().phisight_multiplies_bfloat16())


def takes(x: Tensor, codes: Tensor, scales: Tensor, *offsets: Tensor) -> bool:
    """Whether `int4` or `int8` takes these. Raises TypeError for scales that are not bfloat16:
    somebody has converted the module that holds them."""
    if any(tensor.dtype != torch.bfloat16 for tensor in (scales, *offsets)):
        raise TypeError(f"scales in {scales.dtype}: packed weights cannot be converted")
    known = x.dtype in (torch.bfloat16, torch.float32)
    known = known and _is_plain(x, codes, scales, *offsets)
    return known and all(t.is_contiguous() for t in (codes, scales, *offsets)) and is_built()


def _is_plain(*tensors: Tensor) -> bool:
    """Whether all have memory of their own on the CPU: no subclass that only looks like it."""
    kinds = (Tensor, torch.nn.Parameter)
    return all(type(t) in kinds and t.device.type == "cpu" for t in tensors)


def attend(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, stored: Sequence[int]) -> Tensor:
    """(S, H, d) queries over bfloat16 stores (N, H, B, d), as `paged.attend_pages`."""
    count, heads, size = q.shape
    scaled = (q.float() * size**-0.5).contiguous()
    lengths = torch.tensor(stored, dtype=torch.int64)
    out = torch.empty(count, heads, size)
    failed = _built().phisight_attend(
        *map(_at, (scaled, keys, values, table, lengths, out)),
        *map(ctypes.c_int64, (count, heads, size, keys.shape[2], table.shape[1])),
        torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the scores of a sequence's tokens")
    return out.to(q.dtype)


def can_attend(q: Tensor, keys: Tensor) -> bool:
    """Whether `attend` takes these."""
    known = _is_plain(q, keys) and keys.dtype == torch.bfloat16 == q.dtype
    return known and q.shape[-1] % 16 == 0 and q.shape[-1] <= 256 and is_built()


def _built() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "callers ask is_built()"
    return library


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def build(path: Path) -> int:
    """Compile; whole or not at all, since others may be loading it. The exit status."""
    made = path.with_suffix(f".{os.getpid()}.new")
    sources = sorted(map(str, SOURCES.glob("*.c")))
    compiler = shlex.split(os.environ.get("CC", "cc"))
    for threads in (
        ["-fopenmp"],
        [],
    ):  # Apple's compiler has no OpenMP: one thread is less, not none
        command = [*compiler, *FLAGS, *threads, *sources, "-o", str(made), "-lm"]
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
