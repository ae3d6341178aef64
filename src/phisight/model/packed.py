"""Linear layers in 8, 7 or 4 bits: modules that stand where `nn.Linear` stands.

Owns which layers are packed, and the names of their parts in a checkpoint: those of the language
model, the last, which gives the logits, never in 4 bits. Where inputs are rounded, the vision
tower and the projector are packed too, in 7 bits; the last layer's inputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from phisight.config import ModelConfig
from phisight.kernels import dense, native, packed, reached, rounded
from phisight.kernels.ways import GROUP, Kind

PIECE = 2**18  # numbers packed at a time: the passes over them stay in the processor's cache


class FullLinear(nn.Linear):
    """In the weights' own format. Few rows are bound by reading the weights: on two cores torch
    reads 12 GB/s of bfloat16, the compiled kernel 20."""

    def forward(self, x: Tensor) -> Tensor:
        # Of the engine alone: what traces, exports or differentiates a module sees torch's own.
        if reached.is_inferring() and self.bias is None:
            rows = x.reshape(-1, x.shape[-1])
            if native.can_multiply(rows, self.weight):
                return native.dense(rows, self.weight).view(*x.shape[:-1], self.out_features)
        return dense.linear(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """(..., K) to (..., N); (N, K) int8 codes and (N,) bfloat16 scales."""

    def __init__(self, in_features: int, out_features: int, *, rounds: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rounds = in_features, out_features, rounds
        self.codes = _stored(out_features, in_features, dtype=torch.int8)
        self.scales = _stored(out_features, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        _check_width(x, self.in_features)
        rows = x.reshape(-1, x.shape[-1])
        if self.rounds:
            y = rounded.linear(rows, Kind.INT8, self.codes, self.scales)
        else:
            y = packed.linear_int8(rows, self.codes, self.scales)
        return y.view(*x.shape[:-1], self.out_features)

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        codes, scales = packed.pack_int8(weight)
        return {"codes": codes, "scales": scales}


class Int4Linear(nn.Module):
    """(..., K) to (..., N); (N, G * GROUP / 2) uint8 codes, (N, G) bfloat16 scales and offsets."""

    def __init__(self, in_features: int, out_features: int, *, rounds: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rounds = in_features, out_features, rounds
        groups = packed.groups_of(in_features)
        self.codes = _stored(out_features, groups * GROUP // 2, dtype=torch.uint8)
        self.scales = _stored(out_features, groups, dtype=torch.bfloat16)
        self.offsets = _stored(out_features, groups, dtype=torch.bfloat16)
        self._laid: tuple[Tensor, Tensor] | None = None  # once more, as torch's operation wants it

    def forward(self, x: Tensor) -> Tensor:
        _check_width(x, self.in_features)
        rows = x.reshape(-1, x.shape[-1])
        if self._laid is not None and len(rows) <= packed.FEW:
            rows = rounded.round_rows(rows, GROUP).to(x.dtype) if self.rounds else rows
            y = packed.linear_int4_by_torch(rows, *self._laid)
        elif self.rounds:
            y = rounded.linear(rows, Kind.INT4, self.codes, self.scales, self.offsets)
        else:
            y = packed.linear_int4(rows, self.codes, self.scales, self.offsets)
        return y.view(*x.shape[:-1], self.out_features)

    def settle(self, dtype: torch.dtype) -> None:
        """Make ready for inputs of a dtype: without compiled kernels a step would unpack all."""
        if self.bytes_to_settle(dtype):
            self._laid = packed.in_torchs_layout(self.codes, self.scales, self.offsets, dtype)

    def bytes_to_settle(self, dtype: torch.dtype) -> int:
        """What `settle` will take."""
        wanted = dtype in (torch.bfloat16, torch.float32) and not native.is_built()
        return self.codes.numel() if wanted else 0

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        codes, scales, offsets = packed.pack_int4(weight)
        return {"codes": codes, "scales": scales, "offsets": offsets}


class Int7Linear(nn.Module):
    """(..., K), rounded, to (..., N): codes, scales and offsets of `rounded.pack_int7`, and an (N,)
    bias in the model's dtype."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        spans = -(-in_features // rounded.SPAN)
        width = packed.groups_of(in_features) * GROUP
        blocks = (-(-out_features // rounded.OUTS), width // rounded.INS)
        self.codes = _stored(*blocks, rounded.OUTS, rounded.INS, dtype=torch.uint8)
        self.scales = _stored(out_features, spans, dtype=torch.bfloat16)
        self.offsets = _stored(out_features, spans, dtype=torch.bfloat16)
        self.bias = nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """With `gelu`, CLIP's activation is applied to what comes out."""
        _check_width(x, self.in_features)
        rows, parts = x.reshape(-1, x.shape[-1]), (self.codes, self.scales, self.offsets)
        y = rounded.linear(rows, Kind.INT7, *parts, self.bias, gelu=gelu)
        return y.view(*x.shape[:-1], self.out_features)

    @staticmethod
    def pack(weight: Tensor) -> dict[str, Tensor]:
        codes, scales, offsets = rounded.pack_int7(weight)
        return {"codes": codes, "scales": scales, "offsets": offsets}


PackedLinear = Int8Linear | Int7Linear | Int4Linear
PARTS = ("codes", "scales", "offsets")  # what `pack` makes


def linear(config: ModelConfig, in_features: int, out_features: int) -> nn.Module:
    """A layer of the language model, without bias."""
    if config.weights == "int4":
        return Int4Linear(in_features, out_features, rounds=config.activations is not None)
    return _linear8(config, in_features, out_features, rounds=config.activations is not None)


def last_linear(config: ModelConfig, in_features: int, out_features: int) -> nn.Module:
    """The layer that gives the logits."""
    return _linear8(config, in_features, out_features, rounds=False)


def layers_to_settle(model: nn.Module) -> list[Int4Linear]:
    return [module for module in model.modules() if isinstance(module, Int4Linear)]


def pack_tower(tower: nn.Module) -> None:
    """Put an Int7Linear in the place of every linear layer."""
    for module in list(tower.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, Int7Linear(layer.in_features, layer.out_features))


def packed_layers(model: nn.Module) -> Iterator[tuple[str, PackedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, (Int8Linear, Int7Linear, Int4Linear)):
            yield name, module


# The norm whose weight scales a layer's inputs. It is multiplied into the layer before packing, and
# becomes ones (its bias goes into the layer's): what is left of a norm are inputs of about one
# size, for which the nearest stored weight is also the one that changes the outputs least. Where a
# few norm weights are large (real models have them) and the columns that meet them small, these
# columns would be lost, and with rounded inputs all others beside the large ones.
_NORMS = {
    "self_attn.qkv_proj": "input_layernorm",
    "mlp.gate_up_proj": "post_attention_layernorm",
    "lm_head": "model.norm",
    "self_attn.q_proj": "layer_norm1",
    "self_attn.k_proj": "layer_norm1",
    "self_attn.v_proj": "layer_norm1",
    "mlp.fc1": "layer_norm2",
}


def norm_before(layer: str) -> str | None:
    """The name of the norm before a layer; None if there is none."""
    for end, norm in _NORMS.items():
        if layer.endswith(end):
            return f"{layer.removesuffix(end)}{norm}"
    return None


def rows_at_once(layer: PackedLinear) -> int:
    """Rows of its weight to be packed at a time: whole blocks of outputs."""
    return max(1, PIECE // layer.in_features // rounded.OUTS) * rounded.OUTS


def pack_pieces(
    layer: PackedLinear,
    pieces: Iterator[Tensor],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """A layer's parts from its (N, K) weight, of which some rows come at a time, and what is added
    to its (N,) bias; `scale` and `shift` are the (K,) weight and bias of the norm before it."""
    made, added = [], []
    for piece in pieces:
        wide = piece.float()
        if shift is not None:
            added.append(wide @ shift.float())
        made.append(layer.pack(wide if scale is None else wide * scale.float()))
    parts = {name: torch.cat([part[name] for part in made]) for name in made[0]}
    return parts, torch.cat(added) if added else None


def _linear8(
    config: ModelConfig, in_features: int, out_features: int, *, rounds: bool
) -> nn.Module:
    if config.weights is not None:
        return Int8Linear(in_features, out_features, rounds=rounds)
    return FullLinear(in_features, out_features, bias=False)


def _check_width(x: Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ValueError(f"inputs of width {x.shape[-1]}: this layer takes {width}")


def _stored(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
