"""From a model's name to its folder, and which model it is when none is named.

Looks at folders and at the local cache only: nothing is ever downloaded here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from phisight.errors import CheckpointError, ConfigError, ModelNotFoundError, OptionError
from phisight.hub import cache, choice, registry
from phisight.jsonfile import brief, read_json

VARIABLE = "PHISIGHT_MODEL"
NAMED, REMEMBERED, DEFAULT = "named", "phisight use", "the default"


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: its name, where it lies, one line a newcomer should know, and what
    chose it ("named", "PHISIGHT_MODEL", "phisight use" or "the default")."""

    name: str
    path: Path
    note: str | None
    chosen_by: str


def find_model(name: str | os.PathLike[str] | None = None) -> ModelFolder:
    """The folder of a model: a bundled one, a short name, a folder, or a hub id in the local cache.

    Without a name: what PHISIGHT_MODEL names (empty is as unset), else what `phisight use` chose,
    else the bundled one. Raises ModelNotFoundError, which says how to get the model,
    CheckpointError for an adapter, OptionError for what is no name or a damaged settings file.
    """
    if name is not None:
        if not isinstance(name, (str, os.PathLike)) or not str(name):
            raise OptionError(f"model={name!r}: expected a name, a folder or a hub id")
        return _find(str(name), NAMED)
    if chosen := os.environ.get(VARIABLE):
        try:
            return _find(chosen, VARIABLE)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{VARIABLE} names {brief(chosen)}: {error}") from None
    if chosen := choice.remembered():
        try:
            return _find(chosen, REMEMBERED)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"`{REMEMBERED}` chose {brief(chosen)}: {error}; to go back to "
                f"{registry.BUNDLED}: phisight use --forget"
            ) from None
    return ModelFolder(
        registry.BUNDLED, registry.BUNDLED_PATH, _hint() or registry.BUNDLED_NOTE, DEFAULT
    )


def use_model(name: str) -> ModelFolder:
    """Remember a model that is here for when none is named. Raises as `find_model`."""
    found = find_model(name)
    folder = name != registry.BUNDLED and folder_called(name)
    if folder and not (folder / "config.json").exists():
        raise ModelNotFoundError(f"{brief(name)} is no model's folder: it has no config.json")
    # Stored absolute: it must mean the same folder from anywhere.
    choice.remember(str(folder.absolute()) if folder else name)
    return found


def adapter_error(where: str, base: object) -> CheckpointError:
    """What to say of a LoRA adapter, which is no model on its own."""
    of = f" {brief(base)}" if isinstance(base, str) and base else ""
    return CheckpointError(
        f"{where} is a LoRA adapter, not a whole model: merge it into its base{of} first "
        "and name the merged folder"
    )


def _find(text: str, chosen_by: str) -> ModelFolder:
    if text == registry.BUNDLED:
        return ModelFolder(text, registry.BUNDLED_PATH, registry.BUNDLED_NOTE, chosen_by)
    # What is remembered was stored as an absolute folder or a name; a folder that happens to be
    # called like that name where we now stand is another thing.
    if (chosen_by != REMEMBERED or Path(text).is_absolute()) and (folder := folder_called(text)):
        _refuse_adapter(folder, text)
        return ModelFolder(text, folder, None, chosen_by)
    if Path(text).is_absolute():
        raise ModelNotFoundError(f"there is no folder {brief(text)}")
    hub_id = registry.hub_id(text)
    if snapshot := cache.find_snapshot(hub_id):
        return ModelFolder(text, snapshot, None, chosen_by)
    short = registry.short_name(hub_id)
    commit = cache.commit_of(hub_id, "main")
    if commit:
        _refuse_adapter(cache.repo_folder(hub_id) / "snapshots" / commit, hub_id)
    if cache.is_partial(hub_id):
        raise ModelNotFoundError(
            f"{hub_id} is only partly downloaded: phisight pull {short} resumes it"
        )
    raise ModelNotFoundError(
        f"{hub_id} is neither a folder nor in the local cache; fetch it with: phisight pull {short}"
    )


def folder_called(text: str) -> Path | None:
    """The folder that a text names, whatever is in it; None for what names none."""
    try:
        path = Path(text).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, ~ of nobody
        return None


def _refuse_adapter(folder: Path, where: str) -> None:
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "config.json").exists():
        return
    try:
        base = read_json(adapter).get("base_model_name_or_path")
    except ConfigError:
        base = None
    raise adapter_error(where, base)


def _hint() -> str | None:
    """For one who uses the default though a full-size model lies ready."""
    known = [model.hub_id for model in reversed(registry.PUBLISHED.values())]
    ready = next((hub_id for hub_id in known if cache.find_snapshot(hub_id)), None)
    if ready is None:
        others = (hub_id for hub_id, _ in cache.cached_models())
        ready = next((hub_id for hub_id in others if cache.find_snapshot(hub_id)), None)
    if ready is None:
        return None
    return f"{ready} is in the hub cache: phisight use {registry.short_name(ready)}"
