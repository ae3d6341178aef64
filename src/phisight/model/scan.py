"""What a checkpoint's files hold, found without building the network.

Owns the facts read off shapes and the search for NaN and infinity. Reads a piece at a time, so that
8 GB of weights need no more memory than 100 MB of them. Knows nothing of reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from phisight.config import ModelConfig
from phisight.errors import CheckpointError
from phisight.model.files import open_tensors

_PIECE = 32 * 2**20  # bytes looked at together
_FLOATS = ("BF16", "F16", "F32", "F64")  # others are no weights: position_ids, for one
# Where the weights themselves say a number of config.json: key, tensor, dimension.
_WITNESSES = (
    ("hidden_size", "model.norm.weight", 0),
    ("intermediate_size", "model.layers.0.mlp.down_proj.weight", 1),
    ("vocab_size", "lm_head.weight", 0),
)
Shape = tuple[int, ...]
Piece = tuple[str, int, int]  # a tensor's name, its first row and the one after the last


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file; `num_bad` of its values are NaN or infinite."""

    name: str
    dtype: str  # as safetensors spells it: "BF16"
    num_values: int
    num_bad: int


def another_models_config(shapes: Mapping[str, Shape], config: ModelConfig) -> str | None:
    """The first width in which config.json and the weights differ, as a sentence; else None."""
    for key, tensor, dimension in _WITNESSES:
        shape, expected = shapes.get(tensor, ()), getattr(config, key)
        if len(shape) > dimension and shape[dimension] != expected:
            return (
                f"config.json says {key}={expected}, the weights have {shape[dimension]}: "
                "config.json is another model's"
            )
    return None


def scan_file(path: Path) -> list[StoredTensor]:
    """Every tensor of a safetensors file, looked through. Raises CheckpointError."""
    if path.exists() and not path.is_file():  # a pipe or a device, which may never end
        raise CheckpointError(f"{path}: not a regular file")
    with open_tensors(path) as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        headers = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    num_bad = dict.fromkeys(headers, 0)
    floats = {name: shape for name, (shape, dtype) in headers.items() if dtype in _FLOATS}
    for batch in _batches(floats):
        with open_tensors(path) as tensors:
            for name, start, stop in batch:
                whole = not floats[name]  # a scalar, which has no slices
                stored = tensors.get_tensor(name) if whole else tensors.get_slice(name)[start:stop]
                num_bad[name] += _count(stored)
    return [
        StoredTensor(name, dtype, math.prod(shape), num_bad[name])
        for name, (shape, dtype) in headers.items()
    ]


def _batches(shapes: Mapping[str, Shape]) -> Iterator[list[Piece]]:
    """All rows of all tensors, about _PIECE bytes together.

    A file is opened anew for every batch, as pages of a mapping stay in memory until it is closed;
    not for every tensor, as each opening reads the names of all.
    """
    batch: list[Piece] = []
    size = 0
    for name, shape in shapes.items():
        num_rows, row = (shape[0] if shape else 1), 8 * math.prod(shape[1:])  # bytes, of F64
        start = 0
        while start < num_rows and row:
            stop = min(num_rows, start + max(1, (_PIECE - size) // row))
            batch.append((name, start, stop))
            size += (stop - start) * row
            start = stop
            if size >= _PIECE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _count(piece: torch.Tensor) -> int:
    # NaN and infinity survive any sum, and a sum takes a twentieth of the time of looking at each.
    if piece.sum(dtype=torch.float32).isfinite():
        return 0
    return int(piece.numel() - piece.isfinite().sum())
