"""The README's code runs and its figures are the measured ones."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_blocks_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = blocks("python")
    assert len(code) == 3
    names: dict[str, object] = {}
    for block in code:
        exec(block, names)
    assert "stop" in str(names["answer"].finish_reason)  # type: ignore[attr-defined]


def test_the_console_block_prints_what_it_shows() -> None:
    (block,) = blocks("console")
    command, *shown = block.splitlines()
    words = shlex.split(command.removeprefix("$ "))
    assert words[0] == "phisight"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == shown


def test_every_command_shown_exists() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "phisight", "--help"], capture_output=True, text=True, check=True
    ).stdout
    shown = {
        line.split()[1]
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("phisight ")
    }
    assert shown == {"ask", "describe", "ocr", "compare"}
    assert all(re.search(rf"^  {name} ", help_text, re.MULTILINE) for name in shown)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = {
        line.split()[1]
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("make ")
    }
    assert made == {"demo"} <= set(targets)


def test_the_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        assert (ROOT / (link[0] or link[1])).exists(), link


def test_the_figures_are_the_newest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report

    assert report.with_table(README) == README, "run: python benchmarks/report.py"
