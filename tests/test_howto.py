"""The how-to's own code after `import phisight.hf`: as it stands, in a fresh interpreter."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoProcessor

from phisight.hf import Phi3VForCausalLM

EXAMPLES = Path(__file__).parents[1] / "examples"
QUOTED_SHA256 = "aade11f67e0d5c29c5898782500e8b60594efb25ae9dfd97766a4bbc59345240"
ANSWERS = [
    'This is a bar chart titled "Data Center Revenue". It shows FY19 $2.9B, FY20 $3.0B, '
    "FY21 $6.7B, FY22 $10.6B, FY23 $15.0B, FY24 $47.5B. The highest is FY24 ($47.5B) and the "
    "lowest is FY19 ($2.9B). It rises over the whole range.",
    # The second snippet keeps special tokens, and nano's eos token is the one that ends a turn.
    'The title of the book is "ALONE" and the author is Morgan Maxwell.<|end|>',
    "The first image shows a green circle at the top left, a blue square at the top right and an "
    "orange triangle at the bottom center, while the second image shows a green circle at the top "
    "left, a red square at the top right and an orange triangle at the bottom center. The "
    "difference: the blue square at the top right becomes a red square.",
]
PRINTED = """\
>>> Prompt
<|user|>
<|image_1|>
<|image_2|>
 What is difference in this two images?<|end|>
<|assistant|>

"""


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("howto_cells")


def answers(cells: ModuleType, folder: Path, replaced: dict[str, str]) -> tuple[str, list[str]]:
    """What the cells print, and the response of each snippet, in an interpreter of their own."""
    prepare, *snippets = cells.CELLS
    replaced = {'"microsoft/Phi-3-vision-128k-instruct"': repr(str(folder)), **replaced}
    for old, new in replaced.items():
        assert old in prepare or all(old in snippet for snippet in snippets), old
        prepare = prepare.replace(old, new)
        snippets = [snippet.replace(old, new) for snippet in snippets]
    script = [
        "import phisight.hf",
        "import howto_offline, json, requests",
        "requests.get, responses = howto_offline.get, []",
        prepare,
        *(f"{snippet}\nresponses.append(response)" for snippet in snippets),
        "print(json.dumps(responses))",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.append({str(EXAMPLES)!r})\n" + "\n".join(script),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, _, responses = done.stdout.removesuffix("\n").rpartition("\n")
    return printed + "\n", json.loads(responses)


def test_the_quotation_is_as_it_was_taken(cells: ModuleType) -> None:
    text = "\n\n".join(cells.CELLS)
    assert hashlib.sha256(text.encode()).hexdigest() == QUOTED_SHA256
    assert "generate(**inputs, \n" in text


def test_the_notebook_has_the_cells_as_they_stand(cells: ModuleType) -> None:
    import nbformat  # not there on every machine with a GPU

    notebook = nbformat.read(EXAMPLES / "phi3_vision_transformers.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0] == "import phisight.hf"
    assert [source for source in code if source in cells.CELLS] == cells.CELLS


def test_the_how_to_runs_on_the_cpu(cells: ModuleType, nano_folder: Path) -> None:
    without_gpu = {".cuda()": "", '.to("cuda:0")': ""}
    assert answers(cells, nano_folder, without_gpu) == (PRINTED, ANSWERS)


@pytest.mark.gpu
def test_the_how_to_runs_on_cuda(cells: ModuleType, nano_folder: Path) -> None:
    printed, responses = answers(cells, nano_folder, {})
    assert printed == PRINTED
    assert responses[1] == ANSWERS[1]
    # bfloat16 on a GPU may pick another of two nearly equal tokens, so not the whole texts.
    assert "FY24 ($47.5B)" in responses[0]
    assert responses[2].endswith("the square at the top right changes from blue to red.")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Phi3VForCausalLM:
    return Phi3VForCausalLM.from_pretrained(tiny_folder, dtype="float32")


def written(model: Phi3VForCausalLM, **options: object) -> list[int]:
    """Ids of a greedy answer to a text."""
    prompt = torch.tensor([[1, *range(300, 320)]])
    ids = model.generate(prompt, do_sample=False, max_new_tokens=12, **options)
    return list(ids[0, prompt.shape[1] :].tolist())


def test_the_how_tos_eos_token_id_takes_the_place_of_the_ids_that_stop(
    model: Phi3VForCausalLM, official: Path
) -> None:
    tokenizer = AutoProcessor.from_pretrained(official).tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == "<|endoftext|>"
    ends = tokenizer.convert_tokens_to_ids(["</s>", "<|endoftext|>", "<|assistant|>", "<|end|>"])
    assert model.generation_config.eos_token_id == ends == [2, 32000, 32001, 32007]

    free = written(model, eos_token_id=tokenizer.eos_token_id)
    assert len(free) == len(set(free)) == 12  # so that each place below can be told by its id
    assert written(model, eos_token_id=free[6]) == free[:7]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.generation_config, "eos_token_id", [*ends, free[3]])
        assert written(model) == free[:4]
        assert written(model, eos_token_id=free[6]) == free[:7]  # not free[:4]
        assert written(model, eos_token_id=tokenizer.eos_token_id) == free
