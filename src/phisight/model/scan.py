"""What a checkpoint's files hold, found without building the network.

Owns the facts read off shapes and the search for NaN and infinity. Reads a piece at a time, so that
8 GB of weights need no more memory than 100 MB of them. Knows nothing of reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from phisight.config import ModelConfig
from phisight.model.weights import open_tensors

_PIECE = 32 * 2**20  # bytes looked at together
_FLOATS = ("BF16", "F16", "F32", "F64")  # others are no weights: position_ids, for one
# Where the weights themselves say a number of config.json: key, tensor, dimension.
_WITNESSES = (
    ("hidden_size", "model.norm.weight", 0),
    ("intermediate_size", "model.layers.0.mlp.down_proj.weight", 1),
    ("vocab_size", "lm_head.weight", 0),
)
Shape = tuple[int, ...]


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
    with open_tensors(path) as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        headers = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    return [
        StoredTensor(
            name,
            dtype,
            math.prod(shape),
            _num_bad(path, name, shape) if dtype in _FLOATS else 0,
        )
        for name, (shape, dtype) in headers.items()
    ]


def _num_bad(path: Path, name: str, shape: Shape) -> int:
    """NaN and infinite values, the file opened anew for every piece.

    Pages of a mapping stay in memory until it is closed.
    """
    if not shape:
        with open_tensors(path) as tensors:
            return _count(tensors.get_tensor(name))
    if not math.prod(shape):
        return 0
    rows = max(1, _PIECE * shape[0] // (8 * math.prod(shape)))
    bad = 0
    for start in range(0, shape[0], rows):
        with open_tensors(path) as tensors:
            bad += _count(tensors.get_slice(name)[start : start + rows])
    return bad


def _count(piece: torch.Tensor) -> int:
    # NaN and infinity survive any sum, and a sum takes a twentieth of the time of looking at each.
    if piece.sum(dtype=torch.float32).isfinite():
        return 0
    return int(piece.numel() - piece.isfinite().sum())
