"""A model folder with packed weights from one with full weights: what `phisight quantize` does."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from phisight import jsonfile
from phisight.config import TEXT_FILES, read_model_config
from phisight.errors import CheckpointError, OptionError
from phisight.hub import find_model
from phisight.model.weights import load_model, save_model, stored_bytes
from phisight.packing import packed_config
from phisight.params import LoadOptions

WEIGHTS_FILE = "model.safetensors"
_KEPT = {*TEXT_FILES, "generation_config.json", "processor_config.json", "special_tokens_map.json",
         "added_tokens.json", "chat_template.json", "chat_template.jinja", "README.md", "LICENSE",
         "LICENSE.md", "LICENSE.txt"}  # fmt: skip
_RESERVE = 10**8  # bytes left free on the disk


def quantize(model: str | os.PathLike[str], destination: Path, weights: str) -> Path:
    """Write a model's folder anew with its language model's weights in `weights`.

    The vision tower and the projector stay in bfloat16. Whole or not at all: the folder gets its
    name when everything in it is written. Raises OptionError if there is something at
    `destination`, the model is packed already or the disk is too small, and ModelError.
    """
    LoadOptions(weights=weights)
    source = find_model(model).path
    config = read_model_config(source)
    if config.weights is not None:
        raise OptionError(f"{source}: its weights are in {config.weights} already")
    destination = destination.expanduser()
    if os.path.lexists(destination):
        raise OptionError(f"{destination} is there already: name a folder that is not")
    config = replace(config, weights=weights)
    parent = destination.absolute().parent
    if not parent.is_dir():
        raise OptionError(f"{parent} is no folder: make it first")
    needed, free = stored_bytes(config, torch.bfloat16) + _RESERVE, shutil.disk_usage(parent).free
    if needed > free:
        raise OptionError(
            f"{destination}: needs {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB free"
        )
    network = load_model(source, config, device=torch.device("cpu"), dtype=torch.bfloat16)
    texts = {path: path.read_bytes() for path in source.iterdir() if path.name in _KEPT}
    values = jsonfile.read_json(source / "config.json")
    values["quantization_config"] = packed_config(weights)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=parent) as made:
            folder = Path(made) / "model"
            folder.mkdir()
            for path, text in texts.items():
                (folder / path.name).write_bytes(text)
            (folder / "config.json").write_text(json.dumps(values, indent=2))
            save_model(network, folder / WEIGHTS_FILE)
            (folder / WEIGHTS_FILE).chmod(0o644)
            folder.rename(destination)
    except OSError as error:
        raise CheckpointError(f"{destination}: cannot be written ({error.strerror})") from None
    return destination
