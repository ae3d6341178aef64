"""The models that have short names: one is bundled, the others are published on the hub.

Knows nothing of folders, caches or downloads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from phisight.errors import ModelNotFoundError
from phisight.jsonfile import brief

BUNDLED = "nano"
BUNDLED_PATH = Path(__file__).parents[1] / "assets" / BUNDLED
BUNDLED_NOTE = (
    "nano reads drawn charts, covers, text, tables and simple shapes, and makes mistakes. "
    "For photographs: phisight pull phi-3.5-vision"
)
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Published:
    """A model on the hub that has a short name. `revision` is the commit that we know."""

    name: str
    hub_id: str
    revision: str
    weight_bytes: int
    about: str
    licence: str


_MODELS = (
    Published(
        "phi-3-vision",
        "microsoft/Phi-3-vision-128k-instruct",
        "c45209e90a4c4f7d16b2e9d48503c7f3e83623ed",
        8_293_242_880,
        "the first one: one picture at a time, 128k tokens",
        "MIT",
    ),
    Published(
        "phi-3.5-vision",
        "microsoft/Phi-3.5-vision-instruct",
        "4a0d683eba9f1d0cbfb6151705d1ee73c25a80ca",
        8_293_242_880,
        "the second one: several pictures and frames too, 128k tokens",
        "MIT",
    ),
)
PUBLISHED = {model.name: model for model in _MODELS}


def published(text: str) -> Published | None:
    """The published model with this short name or hub id."""
    by_id = {model.hub_id.lower(): model for model in _MODELS}  # the hub takes either case
    return PUBLISHED.get(text) or by_id.get(text.lower())


def hub_id(text: str) -> str:
    """The hub id that a short name or a hub id stands for. Raises ModelNotFoundError."""
    if model := published(text):
        return model.hub_id
    if not _HUB_ID.fullmatch(text):
        raise ModelNotFoundError(
            f"no model {brief(text)}: expected {BUNDLED}, {', '.join(PUBLISHED)}, a folder, or a "
            "hub id such as owner/name"
        )
    return text


def short_name(hub_id: str) -> str:
    """What to type for a model: its short name where it has one, else its hub id."""
    model = published(hub_id)
    return model.name if model else hub_id
