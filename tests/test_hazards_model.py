"""The attacks of test_hazards on what runs a model: budgets (row 13), model folders (row 14)."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import micro
import pytest
import torch
from safetensors.torch import load_file

from phisight.api import Model, load
from phisight.errors import BudgetError, CheckpointError

SIGN = Path(__file__).parents[1] / "examples" / "sign.png"
WEIGHTS = "model.safetensors"


# Row 13: too much is said before anything is allocated, and the process goes on


@pytest.mark.parametrize(
    ("question", "count", "tokens"), [("x" * 5000, 0, 5007), ("What?", 6, 4566)]
)
def test_more_than_the_context(
    nano: Model, question: str, count: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(nano.network, "encode_images", None)
        with pytest.raises(BudgetError) as caught:
            nano.ask(question, [SIGN] * count)
    assert str(caught.value) == (
        f"the prompt has {tokens} tokens and the model's context is 4096: "
        "use fewer pictures, fewer crops (num_crops), or less text"
    )
    assert nano.ask("Hi", max_tokens=1).finish_reason == "length"


def test_a_cache_one_block_too_small(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = nano.cost("OCR", [SIGN]).prompt_tokens
    per_token = nano.cost("OCR").token_bytes
    block = 32
    needed = -(-(tokens + 1) // block) * block * per_token / 2**30
    small = load("nano", kv_memory=needed - block * per_token / 2**30)
    with monkeypatch.context() as patch:
        patch.setattr(small.network, "encode_images", None)
        with pytest.raises(BudgetError) as caught:
            small.ask("OCR", [SIGN], max_tokens=1)
    have = f"{(needed - block * per_token / 2**30):.2f}"
    assert str(caught.value) == (
        f"a prompt of {tokens} tokens and an answer of up to 1 take "
        f"{(tokens + 1) * per_token / 2**30:.2f} GiB of cache, and on cpu it has {have} GiB: "
        "use fewer pictures, fewer crops (num_crops), a smaller max_tokens, or a larger kv_memory"
    )
    enough = load("nano", kv_memory=needed)
    assert enough.ask("OCR", [SIGN], max_tokens=1).finish_reason == "length"


def test_weights_that_do_not_fit(micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("phisight.model.memory.free_memory", lambda: 1000)
        patch.setattr("phisight.model.weights.read_tensors", None)  # what allocates
        with pytest.raises(BudgetError) as caught:
            load(micro_folder, device="cpu", dtype="bfloat16")  # stored as float32
    assert str(caught.value) == (
        f"{micro_folder}: the weights take 0.00 GiB in torch.bfloat16 and cpu has 0.00 GiB free: "
        "use another device or dtype"
    )
    assert load(micro_folder, device="cpu", dtype="bfloat16").ask("Hi", max_tokens=1).token_ids


# Row 14: model folders with code, pickles, or other weights than they say


def test_code_in_a_model_folder_is_not_run(micro_folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for name in ("configuration_phi3_v", "modeling_phi3_v", "processing_phi3_v", "__init__"):
        (micro_folder / f"{name}.py").write_text(code)
    auto_map = {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
    }
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        data = json.loads((micro_folder / name).read_text())
        (micro_folder / name).write_text(json.dumps(data | {"auto_map": auto_map}))
    before = set(sys.modules)
    assert load(micro_folder).ask("Hi", max_tokens=1).token_ids
    assert not any("phi3_v" in name for name in set(sys.modules) - before)
    assert not mark.exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("beside", [True, False])
def test_a_pickle_is_not_opened(micro_folder: Path, tmp_path: Path, beside: bool) -> None:
    mark = tmp_path / "ran"
    (micro_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    if beside:
        assert load(micro_folder).ask("Hi", max_tokens=1).token_ids
    else:
        (micro_folder / WEIGHTS).unlink()
        with pytest.raises(CheckpointError) as caught:
            load(micro_folder)
        assert str(caught.value) == (
            f"{micro_folder}: no model.safetensors or its index "
            "(pytorch_model.bin is a pickle and is never opened; convert it)"
        )
    assert not mark.exists()
    pickle.loads((micro_folder / "pytorch_model.bin").read_bytes())
    assert mark.exists(), "the bomb would have gone off"


def test_weights_of_other_shapes(micro_folder: Path) -> None:
    tensors = load_file(micro_folder / WEIGHTS)
    (micro_folder / WEIGHTS).unlink()
    micro.save_sharded(micro_folder, tensors | {"lm_head.weight": torch.ones(3, 4)}, 1)
    with pytest.raises(CheckpointError) as caught:
        load(micro_folder)
    assert str(caught.value) == (
        f"{micro_folder}: the weights do not fit config.json. 1 misshapen: "
        "lm_head.weight is [3, 4], config.json asks for [270, 48]"
    )


def test_a_missing_shard(micro_folder: Path) -> None:
    (micro_folder / WEIGHTS).unlink()
    micro.write(micro_folder, shards=2)
    (micro_folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(micro_folder)
    assert str(caught.value) == (
        f"{micro_folder}: shard 'model-00001-of-00002.safetensors' is missing; download it again"
    )


def test_weights_that_are_no_numbers(micro_folder: Path) -> None:
    tensors = load_file(micro_folder / WEIGHTS)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    (micro_folder / WEIGHTS).unlink()
    micro.save_sharded(micro_folder, tensors, 1)
    with pytest.raises(CheckpointError) as caught:
        load(micro_folder).ask("Hi", max_tokens=1)
    assert str(caught.value) == (
        "the model computes NaN or infinity: its weights or numbers in its config.json are damaged"
    )


def test_a_preprocessor_of_another_model_is_verifys_to_name(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Loading takes 4 crops as it would by option; test_verify has the report's words."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        (folder / path.name).symlink_to(path)
    own = folder / "preprocessor_config.json"
    data = json.loads(own.read_text())
    own.unlink()
    own.write_text(json.dumps(data | {"num_crops": 4}))
    model = load(folder, device="cpu", dtype="float32")
    assert model.processor.num_crops == 4
    assert (data["num_crops"], load(tiny_folder, dtype="float32").processor.num_crops) == (16, 16)
