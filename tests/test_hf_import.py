"""Importing the bridge."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import phisight.hf
from phisight.hf import Phi3VConfig


def test_torchvision_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.17 puts a stand-in under this name that only says what is missing."""
    monkeypatch.setattr(sys.modules["transformers"], "AutoImageProcessor", object())
    importlib.reload(phisight.hf)


def test_there_are_no_videos_to_run_a_folder_s_code_for(official: Path) -> None:
    """Every pipeline tries this; it takes the image processor's file for want of a video's."""
    with pytest.raises(ValueError, match="pictures, not videos: pass the frames"):
        AutoVideoProcessor.from_pretrained(official, trust_remote_code=True)


def test_a_config_keeps_the_official_map_and_the_callers_wishes(official: Path) -> None:
    values = json.loads((official / "config.json").read_text())
    evil = {"AutoModel": "m.X"}
    config = Phi3VConfig.from_dict(
        values | {"auto_map": values["auto_map"] | evil, "attn_implementation": "a/kernel"},
        attn_implementation="eager",
    )
    assert config.auto_map == values["auto_map"]
    assert config._attn_implementation == "eager"
    assert json.loads(config.to_json_string())["auto_map"] == values["auto_map"]
    assert not hasattr(Phi3VConfig.from_dict(values | {"auto_map": None}), "auto_map")
