"""Models with packed weights: packed while loading, or written as a folder."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import phisight
from phisight.config import read_model_config
from phisight.errors import CheckpointError, ConfigError, DeviceError, OptionError
from phisight.kernels.packed import pack_int4, pack_int8
from phisight.model.packed import packed_layers
from phisight.model.weights import load_model
from phisight.quantize import quantize

EXAMPLES = Path(__file__).parents[1] / "examples"
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["int8", "int4"])
def packed_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize("nano", tmp_path_factory.mktemp("packed") / request.param, request.param)


def test_a_packed_model_answers_the_how_tos_questions(
    packed_folder: Path, nano: phisight.Model
) -> None:
    model = phisight.load(packed_folder, device="cpu")
    assert model.config.weights == packed_folder.name
    assert f"{packed_folder.name} by " in str(model.placement)
    asks = {
        "book.png": "Help me get the title and author information of this book?",
        "chart.png": "Could you please introduce this stock to me?",
    }
    for picture, question in asks.items():
        answer = model.ask(question, [EXAMPLES / picture]).text
        assert answer == nano.ask(question, [EXAMPLES / picture]).text


def test_a_folder_holds_what_loading_would_pack(packed_folder: Path) -> None:
    whole = phisight.load("nano", device="cpu", weights=packed_folder.name)
    written = load_file(packed_folder / "model.safetensors")
    state = whole.network.state_dict()
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in written)
    names = dict(packed_layers(whole.network))
    assert "lm_head" in names
    assert len(names) == 4 * whole.config.num_layers + 1
    assert not any(name.startswith("model.vision_embed_tokens") for name in names)
    stored = (packed_folder / "model.safetensors").stat().st_size
    assert stored < (0.55 if packed_folder.name == "int4" else 0.75) * 55.7e6


def test_norms_are_multiplied_into_what_they_feed(packed_folder: Path, nano_folder: Path) -> None:
    full = load_file(nano_folder / "model.safetensors")
    packed = load_file(packed_folder / "model.safetensors")
    pairs = {"model.norm": "lm_head"}
    for layer in range(read_model_config(nano_folder).num_layers):
        name = f"model.layers.{layer}."
        pairs[name + "input_layernorm"] = name + "self_attn.qkv_proj"
        pairs[name + "post_attention_layernorm"] = name + "mlp.gate_up_proj"
    norms = {name for name in packed if "norm.weight" in name and "vision" not in name}
    assert norms == {f"{norm}.weight" for norm in pairs}
    for norm, layer in pairs.items():
        assert torch.equal(packed[f"{norm}.weight"], torch.ones_like(full[f"{norm}.weight"]))
        right = full[f"{layer}.weight"].float() * full[f"{norm}.weight"].float()
        is_int4 = f"{layer}.offsets" in packed
        codes = pack_int4(right)[0] if is_int4 else pack_int8(right)[0]
        assert torch.equal(packed[f"{layer}.codes"], codes)


def test_outlier_channels_change_no_answer(
    packed_folder: Path, nano_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folding the norms brings the very matrices back, but for a last bit here and there."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import outliers

    monkeypatch.setattr(sys, "argv", ["outliers.py", str(nano_folder), str(tmp_path / "out")])
    outliers.main()
    model = phisight.load(tmp_path / "out", device="cpu", weights=packed_folder.name)
    answer = model.ask("Who is the author of this book?", [EXAMPLES / "book.png"]).text
    assert answer == "The author is Morgan Maxwell."
    packed = load_file(packed_folder / "model.safetensors")
    name = "model.layers.3.mlp.gate_up_proj.codes"
    here = model.network.state_dict()[name]
    assert (here != packed[name]).float().mean() < 0.05
    rounding = {"device": "cpu", "weights": packed_folder.name, "activations": "int8"}
    stressed, plain = (phisight.load(path, **rounding) for path in (tmp_path / "out", "nano"))
    codes = {n: t for n, t in plain.network.state_dict().items() if "fc1.codes" in n}
    assert codes
    for name, right in codes.items():
        assert (stressed.network.state_dict()[name] != right).float().mean() < 0.05
    exact = phisight.load("nano", device="cpu", dtype="float32")
    here, there, right = (model.encode_image(EXAMPLES / "book.png").features.float()
                          for model in (stressed, plain, exact))  # fmt: skip
    assert (here - right).norm() < 1.2 * (there - right).norm() < 0.1 * right.norm()


def test_a_packed_folder_is_mapped(packed_folder: Path) -> None:
    """Nothing is copied: writing to the file shows in the tensors."""
    copy = packed_folder.with_name(packed_folder.name + "-mapped")
    shutil.copytree(packed_folder, copy)
    network = load_model(copy, read_model_config(copy), device=CPU, dtype=torch.bfloat16)
    (_, layer) = next(packed_layers(network))
    before = bytes(layer.codes.detach().flatten()[:8].view(torch.uint8).tolist())
    data = (copy / "model.safetensors").read_bytes()
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(data.index(before))
        file.write(bytes(b ^ 255 for b in before))
    after = bytes(layer.codes.detach().flatten()[:8].view(torch.uint8).tolist())
    assert after == bytes(b ^ 255 for b in before)


def test_what_cannot_be_packed_is_said(packed_folder: Path, tmp_path: Path) -> None:
    other = {"int8": "int4", "int4": "int8"}[packed_folder.name]
    with pytest.raises(OptionError, match=f"are in {packed_folder.name} already"):
        phisight.load(packed_folder, weights=other)
    with pytest.raises(OptionError, match=f"are in {packed_folder.name} already"):
        quantize(str(packed_folder), tmp_path / "again", other)
    with pytest.raises(OptionError, match="is there already: name a folder that is not"):
        quantize("nano", tmp_path, "int8")
    with pytest.raises(OptionError, match="is no folder: make it first"):
        quantize("nano", tmp_path / "no" / "such", "int8")
    with pytest.raises(OptionError, match="expected one of int8, int4"):
        quantize("nano", tmp_path / "new", "int2")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OptionError, match=r"needs 0\.1 GB, and the disk has 0\.0 GB free"):
        quantize("nano", tmp_path / "new", "int8")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_half_folder(tmp_path: Path) -> None:
    command = f"ulimit -f 10000; exec {sys.executable} -m phisight quantize nano new"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "phisight: new: cannot be written (" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_scales_of_another_dtype_are_converted(packed_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed_folder, copy)
    tensors = load_file(packed_folder / "model.safetensors")
    wide = {n: t.float() if t.dtype == torch.bfloat16 else t for n, t in tensors.items()}
    save_file(wide, copy / "model.safetensors")
    model = phisight.load(copy, device="cpu", dtype="float32")
    answer = model.ask("Who is the author of this book?", [EXAMPLES / "book.png"]).text
    assert answer == "The author is Morgan Maxwell."


def test_transformers_is_told_that_weights_are_packed(packed_folder: Path) -> None:
    from phisight.hf.loading import check_files

    with pytest.raises(CheckpointError, match=r"packed for phisight\.load"):
        check_files(str(packed_folder), {})


def test_damaged_packed_weights_are_refused(packed_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed_folder, copy)
    tensors = load_file(packed_folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.codes"
    save_file(tensors | {name: tensors[name].float()}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} is stored as F32; only u?int8 is read"):
        phisight.load(copy)
    save_file(tensors | {name: tensors[name][:, 1:].clone()}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 misshapen"):
        phisight.load(copy)
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"1 missing: model\.layers\.0\.mlp\.down_proj\.codes"
    ):
        phisight.load(copy)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="quantization_config=.*gptq.*: not implemented"):
        phisight.load(copy)


def test_packed_weights_stay_on_the_cpu() -> None:
    folder = Path(phisight.__file__).parent / "assets" / "nano"
    config = replace(read_model_config(folder), weights="int4")
    with pytest.raises(DeviceError, match="weights in int4 run on the CPU only"):
        load_model(Path("anywhere"), config, device=torch.device("meta"), dtype=torch.bfloat16)
