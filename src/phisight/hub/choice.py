"""The model chosen by `phisight use`: one small JSON file in the user's configuration folder.

Does not know whether the model is there.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from phisight.errors import ConfigError, OptionError
from phisight.jsonfile import brief, read_json


def settings_path() -> Path:
    """The settings file. PHISIGHT_CONFIG_DIR names another folder for it."""
    if folder := os.environ.get("PHISIGHT_CONFIG_DIR"):
        return Path(folder) / "settings.json"
    import platformdirs

    return platformdirs.user_config_path("phisight") / "settings.json"


def remembered() -> str | None:
    """The remembered name, hub id or absolute folder. Raises OptionError if the file is damaged."""
    path = settings_path()
    try:
        if not path.exists():
            return None
        settings = read_json(path)
    except (ConfigError, OSError):
        raise OptionError(
            f"{path}: not readable as JSON; mend it, or: phisight use --forget"
        ) from None
    if unknown := sorted(settings.keys() - {"model"}):
        raise OptionError(f"{path}: unknown setting {brief(unknown[0])}; there is only 'model'")
    model = settings.get("model")
    if not isinstance(model, str) or not model:
        raise OptionError(
            f"{path}: model={brief(model)}: expected a name; mend it, or: phisight use --forget"
        )
    return model


def remember(model: str) -> None:
    """Write the choice; readers see the old file or the new one, never a half. OptionError."""
    path = settings_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"model": model}, file)
                file.write("\n")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from None


def forget() -> bool:
    """Remove the choice, damaged or not; whether there was one. Raises OptionError."""
    path = settings_path()
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_writable(path, error) from None
    return True


def _not_writable(path: Path, error: OSError) -> OptionError:
    return OptionError(
        f"cannot write {path} ({error.strerror}); PHISIGHT_CONFIG_DIR names another folder"
    )
