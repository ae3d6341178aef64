"""Importing the bridge."""

from __future__ import annotations

import importlib
import sys

import pytest

import phisight.hf


def test_torchvision_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.17 puts a stand-in under this name that only says what is missing."""
    monkeypatch.setattr(sys.modules["transformers"], "AutoImageProcessor", object())
    importlib.reload(phisight.hf)
