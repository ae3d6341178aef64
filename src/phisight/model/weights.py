"""A checkpoint folder's safetensors to a Phi3V: strict, memory-mapped, one tensor at a time.

Owns which keys a checkpoint must, may and must not have. Reads safetensors and JSON only; nothing
in a model folder is ever imported or unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phisight import jsonfile
from phisight.config import ModelConfig
from phisight.errors import BudgetError, CheckpointError
from phisight.model.memory import free_bytes
from phisight.model.phi3v import Phi3V

_CHUNK = 4 * 2**20  # bytes converted at a time: what loading may need beyond the weights
_TOWER = "model.vision_embed_tokens.img_processor.vision_model."
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# The official class saves its token embeddings a second time, under the image embedding.
_TIED, _TIED_TO = "model.vision_embed_tokens.wte.weight", "model.embed_tokens.weight"
# Tensors some exports hold that are constants, not weights.
_CONSTANTS = re.compile(r".*\.(position_ids|rotary_emb\.inv_freq)")


def load_model(
    folder: Path, config: ModelConfig, *, device: torch.device, dtype: torch.dtype
) -> Phi3V:
    """The network with its weights, ready for inference.

    Weights already in `dtype` on the CPU are mapped, not copied; others are converted piece by
    piece, so that memory never exceeds 1.1 x the final weights for models of some size. Raises
    CheckpointError naming missing, left-over and misshapen keys, and BudgetError, before anything
    is allocated, where the converted weights would not fit the free memory.
    """
    with torch.device("meta"):
        model = Phi3V(config)
    files = _checked_files(folder, model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for file in dict.fromkeys(files[name] for name in sizes):
        names = [name for name in sizes if files[name] == file]
        state |= _mapped(file, names, device, dtype)
    converted = [name for name in sizes if name not in state]
    needed, free = sum(sizes[name] for name in converted) * dtype.itemsize, free_bytes(device)
    if needed > free:
        raise BudgetError(
            f"{folder}: the weights take {needed / 2**30:.2f} GiB in {dtype} and {device} has "
            f"{free / 2**30:.2f} GiB free: use another device or dtype"
        )
    for name in converted:
        state[name] = _converted(files[name], name, device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


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
    _check_keys(folder, wanted, stored_shapes(files), model.config)
    check_tied(files)
    return files


def locate_tensors(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, through the index where there is one. Raises CheckpointError."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        weight_map = jsonfile.read_json(index).get("weight_map")
        if not isinstance(weight_map, Mapping) or not weight_map:
            raise CheckpointError(f"{index}: has no weight_map")
        there = {path.name for path in folder.iterdir()}
        for file in weight_map.values():
            # A name, not a path: an index must not reach outside its folder.
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(
                    f"{index}: {jsonfile.brief(file)} is not the name of a file in the folder"
                )
            if file not in there:
                raise CheckpointError(
                    f"{folder}: shard {jsonfile.brief(file)} is missing; download it again"
                )
        return {str(name): folder / file for name, file in weight_map.items()}
    if single.exists():
        with open_tensors(single) as tensors:
            return dict.fromkeys(tensors.keys(), single)
    others = sorted(p.name for p in folder.glob("*.bin"))
    hint = f" ({others[0]} is a pickle and is never opened; convert it)" if others else ""
    raise CheckpointError(f"{folder}: no model.safetensors or its index{hint}")


def open_tensors(path: Path) -> safe_open:
    """A safetensors file, mapped. Raises CheckpointError if it is not whole."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise CheckpointError(f"{path}: not a regular file")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({type(error).__name__}); download it again"
        ) from None


def stored_shapes(files: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, from the files' headers. Raises CheckpointError."""
    shapes = {}
    for file in set(files.values()):
        with open_tensors(file) as tensors:
            stored = set(tensors.keys())
            for name in (name for name, place in files.items() if place == file):
                if name not in stored:
                    raise CheckpointError(f"{file}: lacks {name}, which the index places there")
                shapes[name] = tuple(tensors.get_slice(name).get_shape())
    return shapes


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
        and name != _TIED
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


def check_tied(files: Mapping[str, Path]) -> None:
    """Raise CheckpointError if the second copy of the token embeddings, where saved, differs."""
    if _TIED not in files:
        return
    with open_tensors(files[_TIED]) as copy, open_tensors(files[_TIED_TO]) as original:
        if not torch.equal(copy.get_tensor(_TIED), original.get_tensor(_TIED_TO)):
            raise CheckpointError(
                f"{files[_TIED]}: {_TIED} differs from {_TIED_TO}; two are not implemented"
            )


def _mapped(
    file: Path, names: list[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one file that can stay as they are, as views of its mapping."""
    state = {}
    with open_tensors(file) as tensors:
        for name in names:
            stored = tensors.get_slice(name).get_dtype()
            if stored not in _DTYPES:
                raise CheckpointError(
                    f"{file}: {name} is stored as {stored}; only {', '.join(_DTYPES)} are read"
                )
            if device.type == "cpu" and _DTYPES[stored] == dtype:
                state[name] = tensors.get_tensor(name)
    return state


def _converted(file: Path, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One tensor on another device or in another dtype, copied in pieces of about _CHUNK bytes.

    The file is opened anew for every piece: pages of a mapping stay in memory until it is closed.
    """
    with open_tensors(file) as tensors:
        shape = tensors.get_slice(name).get_shape()
    result = torch.empty(shape, dtype=dtype, device=device)
    rows = max(1, _CHUNK * shape[0] // (4 * result.numel()))
    for start in range(0, shape[0], rows):
        with open_tensors(file) as tensors:
            result[start : start + rows] = tensors.get_slice(name)[start : start + rows]
    return result
