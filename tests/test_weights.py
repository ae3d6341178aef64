"""Loading: whole, strict, frugal, and nothing but safetensors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import micro
import pytest
import torch
from safetensors.torch import load_file

from phisight.config import read_model_config
from phisight.errors import CheckpointError
from phisight.model.phi3v import Phi3V
from phisight.model.weights import load_model, unread_keys

CPU = torch.device("cpu")
NORM = "model.norm.weight"


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Phi3V:
    return load_model(folder, read_model_config(folder), device=CPU, dtype=dtype)


def test_the_official_index_holds_what_we_ask_for_and_what_we_never_read(official: Path) -> None:
    config = read_model_config(official)
    with torch.device("meta"):
        model = Phi3V(config)
    ours = {name for name, _ in model.named_parameters()}
    theirs = set(json.loads((official / "model.safetensors.index.json").read_text())["weight_map"])
    unread = {name for name in theirs if name.startswith(unread_keys(config))}
    assert ours | unread == theirs
    assert not ours & unread
    assert len(unread) == 18  # the 24th layer's 16 and post_layernorm's two


def test_every_weight_arrives(micro_folder: Path) -> None:
    stored = load_file(micro_folder / "model.safetensors")
    loaded = dict(load(micro_folder).named_parameters())
    assert set(stored) - set(loaded) == {
        name for name in stored if ".2.layer" in name or "post_l" in name
    }
    for name, weight in loaded.items():
        assert torch.equal(weight, stored[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_and_conversion(
    micro_folder: Path, tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phisight.model.staging._PIECE", 1000)  # many pieces, even here
    micro.write(tmp_path / "sharded", shards=3)
    whole, sharded = load(micro_folder), load(tmp_path / "sharded", dtype)
    for (name, a), (_, b) in zip(whole.named_parameters(), sharded.named_parameters(), strict=True):
        assert torch.equal(a.to(dtype), b), name


def damage(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = dict(load_file(path)) | changes
    path.unlink()
    micro.save_sharded(folder, {k: v for k, v in tensors.items() if v is not None}, 1)


def test_wrong_keys_are_named(micro_folder: Path) -> None:
    damage(
        micro_folder,
        **{NORM: None, "extra.weight": torch.ones(2), "lm_head.weight": torch.ones(3, 4)},
    )
    with pytest.raises(CheckpointError) as caught:
        load(micro_folder)
    text = str(caught.value)
    assert "1 missing: model.norm.weight" in text
    assert "1 unknown: extra.weight" in text
    assert "lm_head.weight is [3, 4], config.json asks for [270, 48]" in text


def test_constants_of_other_exports_are_allowed(micro_folder: Path) -> None:
    damage(micro_folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert load(micro_folder).model.norm.weight.shape == (48,)


def test_the_official_class_saves_its_embeddings_twice(micro_folder: Path) -> None:
    tied, embeddings = "model.vision_embed_tokens.wte.weight", torch.full((270, 48), 2.0)
    damage(micro_folder, **{tied: embeddings, "model.embed_tokens.weight": embeddings.clone()})
    assert torch.equal(load(micro_folder).model.embed_tokens.weight, embeddings)
    damage(micro_folder, **{tied: embeddings + 1})
    with pytest.raises(CheckpointError, match="differs from model.embed_tokens.weight"):
        load(micro_folder)


def test_integer_weights_are_refused(micro_folder: Path) -> None:
    damage(micro_folder, **{NORM: torch.ones(48, dtype=torch.int8)})
    with pytest.raises(
        CheckpointError, match="model.norm.weight is stored as I8; only BF16, F16, F32"
    ):
        load(micro_folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    micro.write(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="shard 'model-00002-of-00002.safetensors' is missing"
    ):
        load(tmp_path)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", 3, [], "..", ""])
def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path, place: object) -> None:
    micro.write(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {NORM: place}})
    )
    with pytest.raises(CheckpointError, match=r"is not the name of a file in|is missing"):
        load(tmp_path)


def test_an_index_that_lies_is_named(tmp_path: Path) -> None:
    micro.write(tmp_path, shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["made.up"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks made\.up, which the index places there"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 1000, -100])
def test_a_cut_file_is_refused(micro_folder: Path, keep: int) -> None:
    path = micro_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(micro_folder)


def test_pickles_are_never_opened(micro_folder: Path) -> None:
    (micro_folder / "model.safetensors").rename(micro_folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin is a pickle and is never opened"):
        load(micro_folder)


PEAK = """
import sys, torch
from pathlib import Path
from phisight.config import read_model_config
from phisight.model.weights import load_model
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
def load(folder):
    config = read_model_config(Path(folder))
    return load_model(
        Path(folder), config, device=torch.device("cpu"), dtype=getattr(torch, sys.argv[2])
    )
load(sys.argv[3])
before = status("VmRSS")
model = load(sys.argv[1])
sum(float(p.sum()) for p in model.parameters())
print((status("VmHWM") - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_peaks_at_the_weights_own_size(
    tiny_folder: Path, micro_folder: Path, dtype: str
) -> None:
    # In a process of its own, warmed up on a small model, so that the peak is the loading's.
    command = [sys.executable, "-c", PEAK, tiny_folder, dtype, micro_folder]
    ratio = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.9 < ratio <= 1.1


def test_a_pipe_in_place_of_weights_is_not_waited_for(micro_folder: Path) -> None:
    (micro_folder / "model.safetensors").unlink()
    os.mkfifo(micro_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="model.safetensors: not a regular file"):
        load(micro_folder)
