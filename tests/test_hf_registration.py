"""`import phisight.hf`: what it makes transformers do, and that model folders' code stays unrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import poison
import pytest
import torch
from transformers import GenerationMixin

from phisight.errors import CheckpointError, OptionError
from phisight.hf import Phi3VForCausalLM

HERE = Path(__file__).parent
OURS = {
    "AutoConfig": "phisight.hf.config.Phi3VConfig",
    "Phi3VConfig": "phisight.hf.config.Phi3VConfig",
    "AutoModelForCausalLM": "phisight.hf.model.Phi3VForCausalLM",
    "AutoModelForImageTextToText": "phisight.hf.model.Phi3VForCausalLM",
    "Phi3VForCausalLM": "phisight.hf.model.Phi3VForCausalLM",
    "image-text-to-text": "phisight.hf.model.Phi3VForCausalLM",
    "text-generation": "phisight.hf.model.Phi3VForCausalLM",
    "AutoProcessor": "phisight.hf.processor.Phi3VProcessor",
    "Phi3VProcessor": "phisight.hf.processor.Phi3VProcessor",
    "AutoImageProcessor": "phisight.hf.image_processor.Phi3VImageProcessor",
    "Phi3VImageProcessor": "phisight.hf.image_processor.Phi3VImageProcessor",
}
# (folder, what loads it): what trust_remote_code=True still lets a hostile folder do, inside
# transformers and before anything of ours is asked; docs/transformers.md, "Safety", says so.
OPEN = {
    ("named_processor", "AutoProcessor"),
    ("named_processor", "image-text-to-text"),
    ("named_image_processor", "AutoImageProcessor"),
    ("named_video_processor", "image-text-to-text"),
    ("named_video_processor", "text-generation"),
    ("tokenizer_map", "AutoTokenizer"),
    ("tokenizer_map", "text-generation"),
}


def python(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, with nobody to answer its questions."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=check,
        stdin=subprocess.DEVNULL,
    )


def loaded(bridge: str, *folders: Path) -> list[tuple[str, str, bool | None, str, list[str]]]:
    """poison.py's rows: folder, what was tried, trust_remote_code, what came, code that was run."""
    done = python(HERE / "poison.py", bridge, *folders)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list:
    folders = poison.write_hostile(tmp_path_factory.mktemp("hostile"))
    rows = loaded("phisight.hf", *folders)
    assert len(rows) == len(folders) * 3 * (len(OURS) + 2)  # AutoModel and AutoTokenizer
    return rows


def test_without_us_the_poison_works(tmp_path: Path) -> None:
    rows = loaded("transformers", poison.write(tmp_path / "clean"))
    run = {file for _, _, trust, _, files in rows if trust for file in files}
    assert run >= {
        "configuration_phi3_v.py",
        "modeling_phi3_v.py",
        "processing_phi3_v.py",
        "image_processing_phi3_v.py",
    }


def test_the_poison_works_in_generate_and_in_a_pickle(tmp_path: Path) -> None:
    folder = poison.write(tmp_path / "clean")
    GenerationMixin().load_custom_generate(folder, trust_remote_code=True)
    path = tmp_path / "weights.bin"
    poison.write_pickle(path, tmp_path / poison.MARK)
    torch.load(path, weights_only=False)
    assert (tmp_path / poison.MARK).read_text().split() == ["custom_generate/generate.py", "pickle"]


def test_an_official_folder_gives_our_classes_and_runs_nothing(rows: list) -> None:
    clean = [row for row in rows if row[0] == "clean"]
    assert {tuple(row[4]) for row in clean} == {()}
    assert {(name, came) for _, name, _, came, _ in clean if name in OURS} == set(OURS.items())
    tokenizers = {came for _, name, _, came, _ in clean if name == "AutoTokenizer"}
    assert all(came.startswith("transformers.") for came in tokenizers)


def test_a_hostile_folder_runs_nothing_that_was_not_trusted(rows: list) -> None:
    assert [row for row in rows if row[4] and not row[2]] == []


def test_a_hostile_folder_that_was_trusted_runs_only_what_is_known(rows: list) -> None:
    assert {(folder, name) for folder, name, _, _, run in rows if run} == OPEN


def test_models_of_hostile_folders_are_ours_or_refused(rows: list) -> None:
    came = {(row[0], row[3]) for row in rows if row[1] == "AutoModelForCausalLM"}
    for folder, result in came:
        if folder in ("adapter", "pickle"):
            assert "safetensors" in result
        else:
            assert result == OURS["AutoModelForCausalLM"]


def test_pickled_weights_are_not_read_even_if_asked_for(tmp_path: Path) -> None:
    folder = poison.write(tmp_path / "clean")
    (folder / "model.safetensors").unlink()
    poison.write_pickle(folder / "pytorch_model.bin", tmp_path / poison.MARK)
    with pytest.raises(CheckpointError, match="pytorch_model.bin is a pickle and is never opened"):
        Phi3VForCausalLM.from_pretrained(folder)
    with pytest.raises(OptionError, match="use_safetensors=False asks for a pickle"):
        Phi3VForCausalLM.from_pretrained(folder, use_safetensors=False)
    assert not (tmp_path / poison.MARK).exists()


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("transformers", "accelerate", "peft", "requests"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_everything_else_works_without_transformers(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(WITHOUT + "from phisight.cli.main import main\nmain()\n")
    assert "Usage" in python(script, "--help").stdout
    sign = HERE.parent / "examples" / "sign.png"
    assert python(script, "ask", sign, "OCR", "--max-tokens", "3").stdout.strip()


def test_without_transformers_one_sentence_says_what_to_install() -> None:
    done = python("-c", WITHOUT + "import phisight.hf", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: phisight.hf needs transformers: pip install 'phisight[hf]'"
    )
    assert "During handling" not in done.stderr


def test_a_fault_inside_transformers_is_not_called_a_missing_one() -> None:
    broken = WITHOUT.replace('"transformers", "accelerate", "peft", "requests"', '"safetensors"')
    done = python("-c", broken + "import phisight.hf", check=False)
    assert done.returncode == 1
    assert "No module named 'safetensors" in done.stderr
    assert "phisight.hf needs" not in done.stderr


def test_imports_bring_no_more_than_they_need() -> None:
    script = (
        "import sys, phisight\n"
        "few = {'transformers', 'torch'} & set(sys.modules)\n"
        "import phisight.hf\n"
        "more = {'requests', 'peft', 'phisight.api'} & set(sys.modules)\n"
        "print(sorted(few), sorted(more))"
    )
    assert python("-c", script).stdout == "[] []\n"


def test_order_and_reloading_do_not_matter(micro_folder: Path) -> None:
    script = (
        "import importlib, sys\n"
        "from transformers import AutoModelForCausalLM, AutoProcessor\n"
        "import phisight.hf\n"
        "importlib.reload(phisight.hf)\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1])\n"
        "inputs = processor('<|user|>\\nHi<|end|>\\n<|assistant|>\\n')\n"
        "print(isinstance(model, phisight.hf.Phi3VForCausalLM))\n"
        "print(type(processor) is phisight.hf.Phi3VProcessor)\n"
        "print(model.generate(**inputs, max_new_tokens=2).shape[1] > inputs.input_ids.shape[1])\n"
    )
    assert python("-c", script, micro_folder).stdout.split() == ["True"] * 3
