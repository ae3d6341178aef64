"""A checkpoint folder's safetensors to a Phi3V: strict, memory-mapped or piece by piece.

Owns which keys a checkpoint must, may and must not have. Reads safetensors and JSON only; nothing
in a model folder is ever imported or unpickled.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from phisight.config import ModelConfig
from phisight.errors import BudgetError, CheckpointError, DeviceError
from phisight.model.files import TIED, check_tied, locate_tensors, open_tensors, stored_shapes
from phisight.model.memory import free_bytes
from phisight.model.packed import (
    PARTS,
    layers_to_settle,
    norm_before,
    pack_pieces,
    packed_layers,
    rows_at_once,
)
from phisight.model.phi3v import Phi3V
from phisight.model.staging import DTYPES, Wanted, read_tensors

_TOWER = "model.vision_embed_tokens.img_processor.vision_model."
_DTYPES = {name: DTYPES[name] for name in ("BF16", "F16", "F32")}
_PACKED_DTYPES = {name: DTYPES[name] for name in ("U8", "I8")}
_AT_ONCE = 16  # pieces to be packed that are read at once
# Tensors some exports hold that are constants, not weights.
_CONSTANTS = re.compile(r".*\.(position_ids|rotary_emb\.inv_freq)")


def load_model(
    folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Phi3V:
    """The network with its weights, ready for inference.

    Weights already in `dtype` on the CPU are mapped, not copied, and packed ones as they are;
    others are converted or packed piece by piece, so that memory never exceeds 1.1 x the final
    weights for models of some size. Raises CheckpointError naming missing, left-over and misshapen
    keys, DeviceError for packed weights on a device that has no operations for them, and
    BudgetError, before anything is allocated, where the converted weights would not fit the free
    memory.
    """
    if config.weights is not None and device.type != "cpu":
        raise DeviceError(
            f'weights in {config.weights} run on the CPU only: use device="cpu", or full weights'
        )
    with torch.device("meta"):
        model = Phi3V(config)
    files = _checked_files(folder, model)
    parameters = dict(model.named_parameters())
    to_pack = {name: layer for name, layer in packed_layers(model) if f"{name}.codes" not in files}
    made = {f"{name}.{part}" for name in to_pack for part in PARTS}
    stored = [name for name in parameters if name not in made]
    state: dict[str, Tensor] = {}
    for file in dict.fromkeys(files[name] for name in stored):
        names = [name for name in stored if files[name] == file]
        state |= _mapped(file, {n: final_dtype(parameters[n], dtype) for n in names}, device)
    missing = [name for name in parameters if name not in state]
    needed = sum(
        parameters[name].numel() * final_dtype(parameters[name], dtype).itemsize for name in missing
    )
    needed += sum(layer.bytes_to_settle(dtype) for layer in layers_to_settle(model))
    free = free_bytes(device)
    if needed > free:
        raise BudgetError(
            f"{folder}: the weights take {needed / 2**30:.2f} GiB in {config.weights or dtype} and "
            f"{device} has {free / 2**30:.2f} GiB free: use another device or dtype"
        )
    state |= read_tensors(
        {
            name: Wanted(files[name], final_dtype(parameters[name], dtype))
            for name in stored
            if name not in state
        },
        device,
    )
    before = dict(state)
    for name, layer in to_pack.items():
        pieces = _rows(files[f"{name}.weight"], f"{name}.weight", rows_at_once(layer))
        norm = norm_before(name)
        scale = None if norm is None else before[f"{norm}.weight"]
        shift = None if norm is None else before.get(f"{norm}.bias")
        parts, added = pack_pieces(layer, pieces, scale, shift)
        state |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        if scale is not None:
            state[f"{norm}.weight"] = torch.ones_like(scale)
        if shift is not None and added is not None:
            state[f"{norm}.bias"] = torch.zeros_like(shift)
            state[f"{name}.bias"] = (state[f"{name}.bias"].float() + added).to(dtype)
    model.load_state_dict(state, strict=True, assign=True)
    for four_bits in layers_to_settle(model):
        four_bits.settle(dtype)
    return model.requires_grad_(False).eval()


def save_model(model: Phi3V, path: Path) -> None:
    """All weights to one safetensors file that `load_model` maps. Raises OSError."""
    try:
        save_file(model.state_dict(), path, metadata={"format": "pt"})
    except SafetensorError as error:  # what the system said is in its text only
        raise OSError(errno.EIO, str(error).strip()) from None


def stored_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """How large the weights are, packed as the configuration says and else in `dtype`."""
    with torch.device("meta"):
        model = Phi3V(config)
    return sum(p.numel() * final_dtype(p, dtype).itemsize for p in model.parameters())


def final_dtype(parameter: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Of a parameter made with torch's default dtype, `dtype`; packed parts have their own."""
    return dtype if parameter.dtype == torch.float32 else parameter.dtype


def check_weights(folder: Path, config: ModelConfig) -> None:
    """Raise the CheckpointError that `load_model` would raise for keys and shapes; load nothing."""
    with torch.device("meta"):
        model = Phi3V(config)
    _checked_files(folder, model)


def unread_keys(config: ModelConfig) -> tuple[str, ...]:
    """Prefixes of the tensors a checkpoint holds that inference never reads."""
    vision = config.vision
    layers = range(vision.num_layers, vision.num_stored_layers)
    return (*(f"{_TOWER}encoder.layers.{i}." for i in layers), f"{_TOWER}post_layernorm.")


def _checked_files(folder: Path, model: Phi3V) -> dict[str, Path]:
    """Tensor name -> file, once all the model's parameters are there in their shapes."""
    files = locate_tensors(folder)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for name, layer in packed_layers(model):
        if f"{name}.weight" in files:  # still to be packed
            for part in PARTS:
                wanted.pop(f"{name}.{part}", None)
            wanted[f"{name}.weight"] = (layer.out_features, layer.in_features)
    _check_keys(folder, wanted, stored_shapes(files), model.config)
    check_tied(files)
    return files


def _check_keys(
    folder: Path,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
) -> None:
    unread = unread_keys(config)
    missing = [name for name in wanted if name not in found]
    extra = [
        name
        for name in found
        if name not in wanted
        and not name.startswith(unread)
        and not _CONSTANTS.fullmatch(name)
        and name != TIED
    ]
    misshapen = [
        f"{name} is {list(found[name])}, config.json asks for {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{len(names)} {kind}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("unknown", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json. " + " | ".join(problems)
        )


def _mapped(
    file: Path, wanted: Mapping[str, torch.dtype], device: torch.device
) -> dict[str, Tensor]:
    """The tensors of one file that can stay as they are, as views of its mapping."""
    state = {}
    with open_tensors(file) as tensors:
        for name, dtype in wanted.items():
            stored = tensors.get_slice(name).get_dtype()
            packed = dtype in _PACKED_DTYPES.values()
            known = _PACKED_DTYPES if packed else _DTYPES
            if stored not in known or (packed and known[stored] != dtype):
                expected = str(dtype).removeprefix("torch.") if packed else ", ".join(_DTYPES)
                raise CheckpointError(
                    f"{file}: {name} is stored as {stored}; only {expected} is read"
                )
            if device.type == "cpu" and known[stored] == dtype:
                state[name] = tensors.get_tensor(name)
    return state


def _rows(file: Path, name: str, count: int) -> Iterator[Tensor]:
    """A tensor's rows, `count` at a time. The file is opened anew for every few, which takes 3 ms:
    all that has been read of a mapping counts as ours as long as it is open."""
    with open_tensors(file) as tensors:
        total = tensors.get_slice(name).get_shape()[0]
        if (stored := tensors.get_slice(name).get_dtype()) not in _DTYPES:
            raise CheckpointError(f"{file}: {name} is stored as {stored}, and cannot be packed")
    for start in range(0, total, _AT_ONCE * count):
        with open_tensors(file) as tensors:
            some = tensors.get_slice(name)[start : start + _AT_ONCE * count]
        yield from some.split(count)
