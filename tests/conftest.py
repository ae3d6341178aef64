"""What the tests share: checkpoints and loaded models."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import micro
import pytest
import torch

import phisight
from phisight.config import read_model_config
from phisight.model.phi3v import Phi3V
from phisight.model.weights import load_model

HERE = Path(__file__).parent
OFFICIAL = HERE / "data" / "phi3v"
NANO = Path(phisight.__file__).parent / "assets" / "nano"
TINY_SHA256 = "65e963637225173ffd285db64091e78e33dfc359dc187e9562e62291eea0d0bb"


@pytest.fixture(scope="session")
def official() -> Path:
    """The official tokenizer and configuration files, without weights."""
    return OFFICIAL


@pytest.fixture(scope="session")
def nano_folder() -> Path:
    return NANO


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deterministic tiny checkpoint: real LongRoPE, layer -2, 32k vocabulary, 16 crops."""
    folder = tmp_path_factory.mktemp("tiny")
    script = HERE / "reference" / "make_checkpoint.py"
    command = [sys.executable, script, folder, "--preset", "tiny", "--files", OFFICIAL]
    subprocess.run(command, check=True, capture_output=True)
    with (folder / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == TINY_SHA256
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Phi3V:
    config = read_model_config(tiny_folder)
    return load_model(tiny_folder, config, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def nano() -> phisight.Model:
    return phisight.load("nano")


@pytest.fixture
def micro_folder(tmp_path: Path) -> Path:
    """A complete model folder of a few kilobytes, the test's own to damage."""
    folder = tmp_path / "micro"
    micro.write(folder)
    return folder


@pytest.fixture
def nano_copy(tmp_path: Path) -> Path:
    """nano's folder, the test's own to damage."""
    return Path(shutil.copytree(NANO, tmp_path / "nano"))
