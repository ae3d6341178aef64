"""From a model's name to its folder. Knows nothing of what is inside.

A name is a bundled model, a short name of a published one, a folder, or a hub id; published models
are looked up in the local cache only, and nothing is ever downloaded here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from phisight.errors import ModelNotFoundError, OptionError

BUNDLED = "nano"
PUBLISHED = {
    "phi-3-vision": "microsoft/Phi-3-vision-128k-instruct",
    "phi-3.5-vision": "microsoft/Phi-3.5-vision-instruct",
}
_NOTES = {
    BUNDLED: "bundled; reads drawn charts, covers, text, tables and simple shapes in pictures like "
    f"its training ones. For photographs: hf download {PUBLISHED['phi-3.5-vision']}, "
    "then --model phi-3.5-vision"
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: how it was named, where it lies, one line a newcomer should know."""

    name: str
    path: Path
    note: str | None


def find_model(name: str | os.PathLike[str] | None = None) -> ModelFolder:
    """The folder of a model; without a name, the bundled one.

    Raises ModelNotFoundError, which says how to get the model.
    """
    if name is None or name == BUNDLED:
        return ModelFolder(BUNDLED, Path(__file__).parent / "assets" / BUNDLED, _NOTES[BUNDLED])
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        raise OptionError(f"model={name!r}: expected a name, a folder or a hub id")
    path, text = Path(name).expanduser(), str(name)
    if path.is_dir():
        return ModelFolder(text, path, None)
    hub_id = PUBLISHED.get(text, text)
    if not _HUB_ID.fullmatch(hub_id):
        raise ModelNotFoundError(
            f"no model {text!r}: expected {BUNDLED}, {', '.join(PUBLISHED)}, a folder, or a hub id "
            "such as owner/name"
        )
    cached = _cached_snapshot(hub_id)
    if cached is None:
        raise ModelNotFoundError(
            f"{hub_id} is neither a folder nor complete in the local cache; "
            f"fetch it with: hf download {hub_id}"
        )
    return ModelFolder(text, cached, None)


def _cached_snapshot(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    weights = ("model.safetensors", "model.safetensors.index.json")
    if (path / "config.json").exists() and any((path / name).exists() for name in weights):
        return path
    return None
