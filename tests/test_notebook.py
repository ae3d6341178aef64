"""The example notebooks are their cells, and show what they give."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
# Each notebook, the kinds of output in it, and how many links.
NOTEBOOKS = {
    "phi3_vision.ipynb": ({"stdout", "text/plain", "text/html", "image/jpeg"}, 4),
    "phi3_vision_transformers.ipynb": ({"stdout", "image/jpeg"}, 5),
}
REMEDY = "run: python examples/make_notebook.py"


@pytest.fixture(params=NOTEBOOKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def committed(name: str) -> NotebookNode:
    return nbformat.read(EXAMPLES / name, as_version=4)


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    return bare


def shown(notebook: NotebookNode) -> dict[str, object]:
    """What each code cell shows, as far as it is the same in every run and on every machine.

    Of a cell tagged as the machine's, and of pictures, that is the kinds of output alone: pictures
    are packed by whatever version of Pillow is there.
    """
    from notebook_cells import MACHINE

    cells: dict[str, object] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            own = MACHINE in cell.metadata.get("tags", ())
            cells[f"{cell.id}: {cell.source}"] = [
                (output.output_type, kind, None if own or kind.startswith("image/") else text)
                for output in cell.outputs
                for kind, text in sorted(contents(output).items())
            ]
    return cells


def contents(output: NotebookNode) -> dict[str, str]:
    if output.output_type == "stream":
        return {output.name: output.text}
    return dict(output.data)  # an "error" has none: a notebook that shows one is refused here


@pytest.fixture
def odd_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, no programs to be found, a user's kernel that cannot start; the home."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    home = tmp_path / "home"
    kernel.mkdir(parents=True)
    home.mkdir()
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": ["/nowhere/python"], "display_name": "Mine", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setenv("PHISIGHT_MODEL", "phi-3.5-vision")
    monkeypatch.setenv("HOME", str(home))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(autouse=True)
def _examples_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_committed_notebook_is_the_cells(name: str, committed: NotebookNode) -> None:
    import make_notebook

    assert set(make_notebook.NOTEBOOKS) == set(NOTEBOOKS)
    assert without_outputs(committed) == make_notebook.notebook(name), REMEDY


def test_a_new_run_shows_the_same(name: str, committed: NotebookNode, odd_machine: Path) -> None:
    import make_notebook

    before = {*EXAMPLES.iterdir(), EXAMPLES / "__pycache__"}
    run = make_notebook.executed(name)
    assert shown(run) == shown(committed), REMEDY
    assert [c.get("execution_count") for c in run.cells] == [
        c.get("execution_count") for c in committed.cells
    ]
    assert list(odd_machine.iterdir()) == []
    assert set(EXAMPLES.iterdir()) <= before


@pytest.mark.parametrize("name", ["phi3_vision.ipynb"])
def test_a_changed_answer_is_seen_and_changed_seconds_are_not(committed: NotebookNode) -> None:
    expected = shown(committed)
    for old, new, same in (
        ("the lowest is FY19", "the lowest is FY20", False),
        ("MAPLE STREET", "MAPLE STREETS", False),
        ("'Bread', '2', '$3.40'", "'Bread', '2', '$3.50'", False),
        ("reading 1098 tokens", "reading 1099 tokens", True),
    ):
        text = nbformat.writes(committed)
        assert text.count(old) == 1, old
        assert (shown(nbformat.reads(text.replace(old, new), as_version=4)) == expected) is same


def test_nothing_of_the_maker_is_in_the_notebook(name: str, committed: NotebookNode) -> None:
    nbformat.validate(committed)
    outputs = [output for cell in committed.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in contents(output)}
    assert kinds == NOTEBOOKS[name][0]
    texts = [
        contents(output).get(kind, "") for output in outputs for kind in kinds - {"image/jpeg"}
    ]
    assert not re.search(r"(?<![\w/:<])/\w", "\n".join(texts)), "a path of a machine"
    assert (EXAMPLES / name).stat().st_size < 200_000


def test_the_links_lead_somewhere(name: str, committed: NotebookNode) -> None:
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https:)([^)#]+)[)#]", text)
    assert len(links) == NOTEBOOKS[name][1]
    assert all((EXAMPLES / link).is_file() for link in links), links
