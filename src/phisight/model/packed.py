"""Linear layers in 8 or 4 bits: modules that stand where `nn.Linear` stands.

Owns which layers are packed, and the names of their parts in a checkpoint: those of the language
model, not the vision tower or the projector; the last, which gives the logits, never in 4 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from phisight.config import ModelConfig
from phisight.kernels import native, packed

ROWS = 256  # outputs packed at a time: the passes over them stay in the processor's cache


class Int8Linear(nn.Module):
    """(..., K) to (..., N); (N, K) int8 codes and (N,) bfloat16 scales."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.codes = _stored(out_features, in_features, dtype=torch.int8)
        self.scales = _stored(out_features, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        y = packed.linear_int8(x.flatten(0, -2), self.codes, self.scales)
        return y.unflatten(0, x.shape[:-1])

    def settle(self, dtype: torch.dtype) -> None:
        """Nothing is to be made ready."""

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        codes, scales = packed.pack_int8(weight)
        return {"codes": codes, "scales": scales}


class Int4Linear(nn.Module):
    """(..., K) to (..., N); (N, G * GROUP / 2) uint8 codes, (N, G) bfloat16 scales and offsets."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        groups = packed.groups_of(in_features)
        self.codes = _stored(out_features, groups * packed.GROUP // 2, dtype=torch.uint8)
        self.scales = _stored(out_features, groups, dtype=torch.bfloat16)
        self.offsets = _stored(out_features, groups, dtype=torch.bfloat16)

        self._laid: tuple[Tensor, Tensor] | None = None  # once more, as torch's operation wants it

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if self._laid is not None and len(rows) <= packed.FEW:
            y = packed.linear_int4_by_torch(rows, *self._laid)
        else:
            y = packed.linear_int4(rows, self.codes, self.scales, self.offsets)
        return y.unflatten(0, x.shape[:-1])

    def settle(self, dtype: torch.dtype) -> None:
        """Make ready for inputs of a dtype: without compiled kernels a step would unpack all."""
        if dtype == torch.bfloat16 and not native.is_built():
            self._laid = packed.in_torchs_layout(self.codes, self.scales, self.offsets)

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        codes, scales, offsets = packed.pack_int4(weight)
        return {"codes": codes, "scales": scales, "offsets": offsets}


PackedLinear = Int8Linear | Int4Linear


def linear(config: ModelConfig, in_features: int, out_features: int) -> nn.Module:
    """A layer of the language model, without bias."""
    if config.weights == "int4":
        return Int4Linear(in_features, out_features)
    return _linear8(config, in_features, out_features)


def last_linear(config: ModelConfig, in_features: int, out_features: int) -> nn.Module:
    """The layer that gives the logits."""
    return _linear8(config, in_features, out_features)


def packed_layers(model: nn.Module) -> Iterator[tuple[str, PackedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, (Int8Linear, Int4Linear)):
            yield name, module


def pack_pieces(layer: PackedLinear, pieces: Iterator[Tensor]) -> dict[str, Tensor]:
    """A layer's parts from its (N, K) weight, of which ROWS rows come at a time."""
    made = [layer.pack(piece) for piece in pieces]
    return {name: torch.cat([part[name] for part in made]) for name in made[0]}


def _linear8(config: ModelConfig, in_features: int, out_features: int) -> nn.Module:
    if config.weights is not None:
        return Int8Linear(in_features, out_features)
    return nn.Linear(in_features, out_features, bias=False)


def _stored(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
