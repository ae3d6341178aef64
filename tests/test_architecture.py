"""The import table of docs/architecture.md: who may import whom, and which library lives where."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import phisight

SOURCE = Path(phisight.__file__).parent
EVERYWHERE = {
    "errors",
    "config",
    "options",
    "params",
    "hd",
    "jsonfile",
    "machine",
    "packing",
}  # import nothing of ours but each other

# Rooms and the rooms they may import, besides EVERYWHERE.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "options": set(),
    "params": set(),
    "hd": set(),
    "jsonfile": set(),
    "machine": set(),
    "diskcache": set(),
    "packing": set(),
    "hub": set(),
    "fetch": set(),
    "placement": {"kernels"},
    "kernels": set(),
    "model": {"kernels"},
    "processing": {"fetch"},
    "engine": {"diskcache", "model", "kernels"},
    "answer": {"engine", "processing"},
    "rows": {"answer"},
    "chat": {"answer", "processing"},
    "api": {"answer", "chat", "cost", "engine", "hub", "model", "placement", "processing", "rows"},
    "preview": {"hub", "model", "processing"},
    "quantize": {"hub", "model"},
    "cost": set(),
    "tasks": set(),
    "hf": {"engine", "kernels", "model", "processing"},
    "verify": {"api", "engine", "hub", "model", "placement", "processing"},
    "server": {"answer", "api", "processing"},
    "cli": {
        "answer",
        "api",
        "chat",
        "diskcache",
        "fetch",
        "hub",
        "placement",
        "preview",
        "quantize",
        "server",
        "tasks",
        "verify",
    },
    "__init__": {
        "answer",
        "api",
        "chat",
        "cost",
        "fetch",
        "model",
        "preview",
        "processing",
        "tasks",
    },
    "__main__": {"cli"},
}
# Libraries and the only rooms that may import them.
LIBRARIES: dict[str, set[str]] = {
    "PIL": {"hf", "preview", "processing", "verify"},
    "jinja2": {"processing"},
    "tokenizers": {"processing"},
    "numpy": {"processing", "verify"},
    "safetensors": {"engine", "model"},
    "huggingface_hub": {"hub"},
    "httpcore2": {"fetch"},
    "httpx2": {"hub"},
    "platformdirs": {"hub"},
    "psutil": {"machine"},
    "typer": {"cli"},
    "rich": {"cli"},
    "transformers": {"hf"},
    "triton": {"kernels"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "pydantic": {"server"},
    "uvicorn": {"cli"},
    "torch": {
        "api",
        "engine",
        "hf",
        "kernels",
        "model",
        "placement",
        "preview",
        "processing",
        "quantize",
        "verify",
    },
}
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 250


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of everything a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_is_in_the_table() -> None:
    assert {room(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_keep_to_the_table(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "phisight" and rest and rest[0] != "__version__":
            assert rest[0] in MAY_IMPORT[here] | EVERYWHERE | {here}, f"{here} imports {name}"
        elif top in LIBRARIES:
            assert here in LIBRARIES[top], f"{here} imports {name}"
        else:
            assert top in sys.stdlib_module_names | {"phisight"}, f"{name} is no dependency of ours"


def test_every_test_named_in_the_document_exists() -> None:
    text = Path(__file__).parents[1].joinpath("docs/architecture.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 10
    assert named <= {path.stem for path in Path(__file__).parent.glob("test_*.py")}


def test_rooms_for_everyone_import_only_each_other() -> None:
    assert all(not MAY_IMPORT[name] for name in EVERYWHERE)


def test_nothing_runs_code_of_a_model_folder() -> None:
    forbidden = {"pickle", "marshal", "shelve", "runpy", "importlib.util", "torch.load"}
    for path in FILES:
        assert not forbidden & imports(path), path
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        }
        assert not calls & {"eval", "exec", "torch.load", "__import__", "compile"}, path


def test_files_fit_in_the_head() -> None:
    long = {
        path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert not long, f"more than {MOST_LINES} lines: is there one room in there, or two?"


def test_every_module_imports() -> None:
    """Those that import Triton, no part of torch's CPU build, fail for that alone."""
    with_triton = {
        f"phisight.kernels.{name}" for name in ("attention", "fused", "skinny", "streamed")
    }
    assert with_triton == {
        f"phisight.kernels.{path.stem}"
        for path in FILES
        if any(name.split(".")[0] == "triton" for name in top_level_imports(path))
    }
    has_triton = importlib.util.find_spec("triton") is not None
    for module in pkgutil.walk_packages(phisight.__path__, "phisight."):
        if module.name in with_triton and not has_triton:
            with pytest.raises(ModuleNotFoundError, match="No module named 'triton'"):
                importlib.import_module(module.name)
        elif module.name != "phisight.__main__":
            importlib.import_module(module.name)


def top_level_imports(path: Path) -> set[str]:
    """Names of what a file imports as it is imported."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return names


def test_importing_the_package_imports_no_torch() -> None:
    script = "import sys, phisight, phisight.config, phisight.hd; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
