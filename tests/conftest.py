"""What the tests share: checkpoints and loaded models."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import micro
import pytest
import torch

import phisight
from phisight.config import read_model_config
from phisight.kernels import native
from phisight.model.phi3v import Phi3V
from phisight.model.weights import load_model

HERE = Path(__file__).parent
OFFICIAL = HERE / "data" / "phi3v"
NANO = Path(phisight.__file__).parent / "assets" / "nano"
TINY_SHA256 = "65e963637225173ffd285db64091e78e33dfc359dc187e9562e62291eea0d0bb"


# A developer's own settings, models and hub: nothing of them may reach a test or what it starts.
OWN = (
    "PHISIGHT_MODEL",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "TRANSFORMERS_OFFLINE",
)


# These take minutes.
FIRST = ("test_engine_law", "test_docs", "test_notebook")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def isolation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty hub cache and no settings, for every test and every program it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OWN:
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf-home")))
        patch.setenv("PHISIGHT_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
        yield


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


@pytest.fixture
def hub(
    tmp_path: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fake_hub.FakeHub]:
    """A hub that serves micro, with things beside it that nobody should take; an empty cache."""
    for name in ("LICENSE", "README.md", "modeling_phi3_v.py", "training.pt", "pytorch_model.bin"):
        (micro_folder / name).write_text(f"this is {name}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("phisight.hub.download.PAUSE", 0.0)
    with fake_hub.serving(fake_hub.FakeHub(micro_folder)) as server:
        fake_hub.point_to(server.url, monkeypatch)
        yield server


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no settings, the test's own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PHISIGHT_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C files compiled here, whatever lies beside them."""
    return _compiled(tmp_path_factory, None)


@pytest.fixture(scope="session")
def other_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a machine of the other kind builds it: eight numbers at a time for sixteen, or sixteen."""
    return _compiled(tmp_path_factory, 8 if torch.cpu.get_capabilities().get("avx512_f") else 16)


def _compiled(folders: pytest.TempPathFactory, lanes: int | None) -> Path:
    """Once for all processes that run tests: it takes ten seconds."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: the plain twins are tested alone")
    shared = folders.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    path = shared / f"libphisight-{lanes}.so"
    with (shared / f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            assert native.build(path, lanes) == 0
    return path
