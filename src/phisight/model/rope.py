"""Rotary position embedding with short and long factors (LongRoPE, "su").

Owns the choice between them: a sequence uses the short factors while its length is at most
`original_max_positions` (4,096 for Phi-3-V) and the long ones beyond, for all of its tokens.
cos and sin are computed in float32 and scaled alike in both regimes.

Dimensions: T tokens, d head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phisight.config import RopeConfig
from phisight.kernels import between


class Rotation(NamedTuple):
    """cos and sin at the positions of some tokens, each (..., T, d), in the model's dtype."""

    cos: Tensor
    sin: Tensor


class Rope:
    """Angles for one model on one device."""

    def __init__(self, config: RopeConfig, head_dim: int, device: torch.device) -> None:
        self.config = config
        exponents = torch.arange(0, head_dim, 2, device=device).float() / head_dim
        short, long = (
            torch.tensor(factor, dtype=torch.float32, device=device)
            for factor in (config.short_factor, config.long_factor)
        )
        self._short = 1.0 / (short * config.theta**exponents)  # (d/2,)
        self._long = 1.0 / (long * config.theta**exponents)

    def is_long(self, length: int) -> bool:
        """Whether a sequence of so many tokens is rotated with the long factors."""
        return length > self.config.original_max_positions

    def rotation(self, start: int, stop: int, *, length: int, dtype: torch.dtype) -> Rotation:
        """cos and sin of positions start..stop-1 in a sequence of `length` tokens."""
        positions = torch.arange(start, stop, device=self._short.device)
        is_long = torch.tensor(self.is_long(length), device=self._short.device)
        return self.rotation_at(positions, is_long, dtype)

    def rotation_at(self, positions: Tensor, is_long: Tensor, dtype: torch.dtype) -> Rotation:
        """cos and sin at (..., T) positions of sequences which are, or are not, long: (...)."""
        inverse = torch.where(is_long[..., None], self._long, self._short)  # (..., d/2)
        angles = positions.float()[..., None] * inverse[..., None, :]  # (..., T, d/2)
        angles = torch.cat([angles, angles], dim=-1)  # (..., T, d)
        scale = self.config.attention_scale
        return Rotation((angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn (..., T, 2, heads, d) queries and keys by their positions."""
    return between.rotate(x, *rotation)
