"""What the documents say: their code and commands run as written, their figures are measured."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import fake_hub
import pytest

from phisight.cli.main import app
from phisight.hub.registry import PUBLISHED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/models.md",
        "docs/performance.md",
        "docs/python.md",
        "docs/server.md",
        "docs/transformers.md",
    )
}
EXAMPLES = ROOT / "examples"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(pages: Iterable[str] = PAGES) -> list[str]:
    """Every line of every shell block, each once."""
    lines = [line for page in pages for block in blocks(page, "sh") for line in block.splitlines()]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", line) for line in lines))


# PEFT 0.21 asks transformers 5.23 by a name it gives up in v6.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/transformers.md"])
def test_the_python_blocks_run_in_order(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = blocks(page, "python")
    assert len(code) >= 2
    names: dict[str, object] = {}
    for block in code:
        exec(block, names)
    assert "answer" in names


def test_the_console_block_prints_what_it_shows() -> None:
    (block,) = blocks("README.md", "console")
    command, *shown = block.splitlines()
    done = subprocess.run(
        [
            "bash",
            "-c",
            command.removeprefix("$ ").replace("phisight", f"{sys.executable} -m phisight", 1),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == shown


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files the documents name, `phisight` on the path, and a hub.

    The hub serves nano under a published model's name: what counts here is that commands run.
    """
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLES / "book.png", tmp_path / "photo.jpg")
    program = tmp_path / "bin" / "phisight"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m phisight "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PHISIGHT_CONFIG_DIR", str(tmp_path / "settings"))
    return tmp_path


def run_shown(line: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert done.stdout or ">" in line, line


def test_every_phisight_command_shown_runs(
    desk: Path, nano_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PUBLISHED["phi-3.5-vision"]
    hub = fake_hub.FakeHub(nano_folder, model.hub_id, model.revision)
    done_before: set[str] = set()
    with fake_hub.serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for page in PAGES:
            folder = desk
            for line in commands([page]):
                if line.startswith("cd "):
                    folder = desk / line.removeprefix("cd ")
                elif "phisight serve" in line:
                    continue  # until it is stopped: in test_server
                elif "phisight " in line and line not in done_before:
                    done_before.add(line)
                    run_shown(line, folder)
    assert len(done_before) > 15
    assert (desk / "examples" / "table.csv").read_text().startswith("Item,Count,Price\n")
    assert {path.name for path in desk.rglob("verify-*")} == {
        "verify-microsoft--Phi-3.5-vision-instruct.md",
        "verify-microsoft--Phi-3.5-vision-instruct.json",
    }
    assert (desk / "examples" / "crops.png").exists()


# Commands that other tests, CI, or nobody but a reader can run, and why.
NOT_RUN_HERE = {
    "make demo": "examples/demo.py runs in test_examples",
    "make test": "it is what runs this",
    "make check": "a part of make test",
    "make format": "it would change the tree",
    "make kernels": "test_packed compiles them elsewhere",
    "make clean": "it would remove what runs this",
    "python3 -m venv env && . env/bin/activate": "it would change this environment",
    "pip install .": "the wheel is built and run in test_package",
    "pip install '.[hf]'": "a download",
    "pip install '.[serve]'": "a download",
    "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": "a download",
}


def test_every_other_command_is_accounted_for() -> None:
    others = {line for line in commands() if "phisight " not in line and line[:3] != "cd "}
    assert others == set(NOT_RUN_HERE)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in others if line.startswith("make ")} <= set(targets)


def test_every_command_of_the_program_is_in_a_document() -> None:
    shown = {word for line in commands() for word in re.findall(r"phisight ([a-z]+)", line)}
    assert shown == {
        command.name or command.callback.__name__ for command in app.registered_commands
    }  # type: ignore[union-attr]


def test_the_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
            assert ((ROOT / page).parent / (link[0] or link[1])).exists(), link
        for name in re.findall(r"`((?:docs|examples|benchmarks|tests)/[\w./-]*)`", text):
            assert (ROOT / name).exists(), name


def test_the_pages_made_from_code_are_as_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.setenv("COLUMNS", "88")
    import make_docs

    from phisight.cli.output import EXIT_CODES

    for path, text in make_docs.pages().items():
        assert path.read_text() == text, "run: python docs/make_docs.py"
    assert set(EXIT_CODES.values()) < set(make_docs.MEANINGS)


def test_the_figures_are_the_newest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import performance
    import report

    assert report.with_table(README) == README, "run: python benchmarks/report.py"
    text = performance.PAGE.read_text()
    assert performance.page() == text, "run: python benchmarks/report.py"
    for plot in re.findall(r"\]\((performance/[^)]+)\)", text):
        assert (performance.PAGE.parent / plot).exists(), plot
