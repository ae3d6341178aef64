"""Tensors' bytes from safetensors files to where they are computed with.

Owns the way there: files are read in pieces into a few buffers and copied on from these, on CUDA by
the device itself while the next piece is read. Faulting in a mapping's pages, and copying from
memory that the device cannot reach, take several times as long (docs/log.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from phisight.errors import CheckpointError

_PIECE = 4 * 2**20  # bytes
_READERS = 4  # threads, each with two buffers of a piece
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
DTYPES |= {"U8": torch.uint8, "I8": torch.int8}


class Wanted(NamedTuple):
    """A tensor of a file, and what it is to be converted to."""

    file: Path
    dtype: torch.dtype


class _Piece(NamedTuple):
    file: Path
    start: int  # in the file, bytes
    size: int
    dtype: torch.dtype  # as stored
    target: Tensor  # flat


def read_tensors(wanted: Mapping[str, Wanted], device: torch.device) -> dict[str, Tensor]:
    """Tensors of whole files, whose headers have been checked, on a device.

    Beyond the tensors it takes 4 MiB, on CUDA 32 MiB of main memory and as much of the device's.
    Raises CheckpointError if a file is damaged or has become shorter, or a tensor's format is none
    we know. After an interrupt what is being read is finished, and nothing more begun.
    """
    device = torch.empty(0, device=device).device  # with its number
    state: dict[str, Tensor] = {}
    pieces: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
    for file in dict.fromkeys(entry.file for entry in wanted.values()):
        begin, header = _header(file)
        for name, (place, dtype) in wanted.items():
            if place == file:
                shape, stored, start = _entry(file, name, header)
                state[name] = torch.empty(shape, dtype=dtype, device=device)
                for piece in _pieces(file, begin + start, stored, state[name].view(-1)):
                    pieces.put(piece)
    on_cuda = device.type == "cuda"
    readers = _READERS if on_cuda else 1  # elsewhere a conversion takes all cores by itself
    with ThreadPoolExecutor(readers) as pool:
        read = _to_cuda if on_cuda else _to_memory
        try:
            for done in [pool.submit(read, pieces, device) for _ in range(readers)]:
                done.result()
        except BaseException:  # an interrupt, or a fault: the pool waits for what is not taken off
            _drain(pieces)
            raise
    return state


def _drain(pieces: queue.SimpleQueue[_Piece]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            pieces.get_nowait()


def _header(file: Path) -> tuple[int, dict[str, dict[str, object]]]:
    """Where the tensors begin, and what is said of them."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size - 8:
            raise CheckpointError(f"{file}: its header is longer than the file")
        try:
            header = json.loads(opened.read(length))
        except (ValueError, RecursionError):
            raise CheckpointError(f"{file}: its header is no JSON") from None
    return 8 + length, header


def _entry(
    file: Path, name: str, header: Mapping[str, Mapping[str, object]]
) -> tuple[list[int], torch.dtype, int]:
    try:
        stored, shape, offsets = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
    except (KeyError, TypeError):
        raise CheckpointError(f"{file}: its header does not tell where {name} is") from None
    if stored not in DTYPES:
        raise CheckpointError(f"{file}: {name} is stored as {stored}, which is not read")
    if not isinstance(shape, list) or not isinstance(offsets, list) or not offsets:
        raise CheckpointError(f"{file}: its header does not tell where {name} is")
    return shape, DTYPES[str(stored)], offsets[0]


def _pieces(file: Path, start: int, stored: torch.dtype, flat: Tensor) -> Iterator[_Piece]:
    count = max(1, _PIECE // stored.itemsize)
    for first in range(0, flat.numel(), count):
        target = flat[first : first + count]
        size = target.numel() * stored.itemsize
        yield _Piece(file, start + first * stored.itemsize, size, stored, target)


def _taken(pieces: queue.SimpleQueue[_Piece]) -> Iterator[tuple[_Piece, BinaryIO]]:
    """The next pieces that no other thread has taken, each with its open file."""
    opened: dict[Path, BinaryIO] = {}
    try:
        while True:
            try:
                piece = pieces.get_nowait()
            except queue.Empty:
                return
            if piece.file not in opened:
                opened[piece.file] = piece.file.open("rb", buffering=0)
            yield piece, opened[piece.file]
    finally:
        for file in opened.values():
            file.close()


def _read(piece: _Piece, file: BinaryIO, buffer: Tensor) -> Tensor:
    """The piece's elements, in the buffer."""
    view = memoryview((ctypes.c_char * piece.size).from_address(buffer.data_ptr())).cast("B")
    file.seek(piece.start)
    done = 0
    while done < piece.size:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{piece.file}: became shorter while it was read")
        done += count
    return buffer[: piece.size].view(piece.dtype)


def _to_memory(pieces: queue.SimpleQueue[_Piece], device: torch.device) -> None:
    buffer = torch.empty(_PIECE, dtype=torch.uint8)
    for piece, file in _taken(pieces):
        piece.target.copy_(_read(piece, file, buffer))


def _to_cuda(pieces: queue.SimpleQueue[_Piece], device: torch.device) -> None:
    """By a stream of its own, so that the readers' copies do not wait for each other."""
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    buffers = [torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in buffers]
    with torch.cuda.stream(stream):
        for number, (piece, file) in enumerate(_taken(pieces)):
            turn = number % len(buffers)
            copied[turn].synchronize()
            read = _read(piece, file, buffers[turn])
            if read.dtype != piece.target.dtype:
                # On the device: from pinned memory torch would convert on the CPU.
                read = read.to(device, non_blocking=True)
            piece.target.copy_(read, non_blocking=True)
            copied[turn].record(stream)
    stream.synchronize()
