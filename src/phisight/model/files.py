"""A checkpoint folder's safetensors files: which tensor is where, and of what shape.

Knows no model. Reads headers; nothing is copied, imported or unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from phisight import jsonfile
from phisight.errors import CheckpointError

# The official class saves its token embeddings a second time, under the image embedding.
TIED, _TIED_TO = "model.vision_embed_tokens.wte.weight", "model.embed_tokens.weight"


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


def check_tied(files: Mapping[str, Path]) -> None:
    """Raise CheckpointError if the second copy of the token embeddings, where saved, differs."""
    if TIED not in files:
        return
    with open_tensors(files[TIED]) as copy, open_tensors(files[_TIED_TO]) as original:
        if not torch.equal(copy.get_tensor(TIED), original.get_tensor(_TIED_TO)):
            raise CheckpointError(
                f"{files[TIED]}: {TIED} differs from {_TIED_TO}; two are not implemented"
            )
