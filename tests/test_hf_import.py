"""Importing the bridge."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import phisight.hf


def test_torchvision_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.17 puts a stand-in under this name that only says what is missing."""
    monkeypatch.setattr(sys.modules["transformers"], "AutoImageProcessor", object())
    importlib.reload(phisight.hf)


def test_there_are_no_videos_to_run_a_folder_s_code_for(official: Path) -> None:
    """Every pipeline tries this; it takes the image processor's file for want of a video's."""
    with pytest.raises(ValueError, match="pictures, not videos: pass the frames"):
        AutoVideoProcessor.from_pretrained(official, trust_remote_code=True)
