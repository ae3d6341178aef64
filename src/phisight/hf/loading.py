"""What `from_pretrained` of ours asks of a model folder beyond transformers.

Owns that no pickle is opened, that a folder's weights are the model's, all of them and no others,
and which ids end an answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import cached_file

from phisight.config import ModelConfig
from phisight.errors import CheckpointError, OptionError, PhisightWarning
from phisight.jsonfile import read_json
from phisight.model.files import check_tied, locate_tensors, stored_shapes
from phisight.processing.tokenizer import Tokenizer

# Options with which the weights are not the folder's model.safetensors.
_ELSEWHERE = ("state_dict", "variant", "gguf_file")
_HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
)


def check_files(name: Any, options: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a folder without whole safetensors, before anything is loaded."""
    if options.get("use_safetensors") is False:
        raise OptionError(
            "use_safetensors=False asks for a pickle, which can run code as it is opened: phisight "
            "opens model.safetensors only; convert the weights and leave this option out"
        )
    if name is None or any(options.get(key) is not None for key in _ELSEWHERE):
        return
    folder = Path(name) / (options.get("subfolder") or "")
    if not folder.is_dir() or (folder / "adapter_config.json").exists():
        return  # the hub's, or an adapter that names its base model
    config = folder / "config.json"
    quantization = read_json(config).get("quantization_config") if config.exists() else None
    if isinstance(quantization, Mapping) and quantization.get("quant_method") == "phisight":
        raise CheckpointError(
            f"{folder}: its weights are packed for phisight.load; give transformers the full ones"
        )
    files = locate_tensors(folder)
    stored_shapes(files)  # reads every file's header: a file cut short ends here
    check_tied(files)


def check_info(name: Any, info: Mapping[str, Any], *, may_mismatch: bool) -> None:
    """Raise CheckpointError if transformers left, made up or reshaped a tensor."""
    misshapen = [
        f"{key} is {list(found)}, config.json asks for {list(wanted)}"
        for key, found, wanted in sorted(info["mismatched_keys"])
    ]
    wrong = {
        "missing": sorted(info["missing_keys"]),
        "unknown": sorted(info["unexpected_keys"]),
        "misshapen": [] if may_mismatch else misshapen,
    }
    problems = [
        f"{len(names)} {kind}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}"
        for kind, names in wrong.items()
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{name}: the weights do not fit config.json. " + " | ".join(problems)
        )


def add_stop_ids(
    generation: GenerationConfig, structure: ModelConfig, name: Any, options: Mapping[str, Any]
) -> None:
    """Let answers end where a turn ends: config.json's ids alone never come from these models."""
    eos = generation.eos_token_id
    own = {eos} if isinstance(eos, int) else set(eos or ())
    file = cached_file(
        name,
        "tokenizer.json",
        **{key: options[key] for key in _HUB_OPTIONS if key in options},
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is not None:
        own |= Tokenizer(Path(file).parent).stop_ids
    elif own <= set(structure.eos_token_ids):  # generation_config.json knows no more either
        warnings.warn(
            f"{name} has no tokenizer.json: answers stop at the ids of its config.json only, "
            "which for the published models never come",
            PhisightWarning,
            stacklevel=3,
        )
        return
    generation.eos_token_id = sorted(own.union(structure.eos_token_ids))
