"""What the bridge loads and saves: whole folders of safetensors, the same ones again."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import phisight
from phisight.errors import CheckpointError, ConfigError, OptionError, PhisightWarning
from phisight.hf import Phi3VConfig, Phi3VForCausalLM, Phi3VProcessor


def tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("source", ["tiny_folder", "nano_folder"])
def test_a_round_trip_gives_identical_safetensors(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What inference never reads is there too, for other tools: layer 3 of tiny's tower."""
    folder = request.getfixturevalue(source)
    first, second = tmp_path / "first", tmp_path / "second"
    Phi3VForCausalLM.from_pretrained(folder, dtype="auto").save_pretrained(first)
    Phi3VForCausalLM.from_pretrained(first, dtype="auto").save_pretrained(second)
    assert same(tensors(folder), tensors(first))
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    before, after = (json.loads((at / "config.json").read_text()) for at in (folder, first))
    assert after["rope_scaling"] == before["rope_scaling"]
    assert "rope_parameters" not in after
    changed = {key for key in before if before[key] != after.get(key)}
    assert changed <= {
        "_attn_implementation",  # FlashAttention 2, which was not followed
        "_name_or_path",
        "auto_map",
        "torch_dtype",
        "transformers_version",
    }
    generation = json.loads((first / "generation_config.json").read_text())
    assert generation["eos_token_id"] == (
        [2, 32000, 32001, 32007] if source == "tiny_folder" else [257, 258, 260]
    )


def test_shards(micro_folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    model = Phi3VForCausalLM.from_pretrained(micro_folder)
    model.save_pretrained(saved, max_shard_size="200KB")
    assert len(list(saved.glob("model-*.safetensors"))) > 2
    again = Phi3VForCausalLM.from_pretrained(saved)
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert same(dict(model.state_dict()), tensors(saved))


def test_dtypes(micro_folder: Path) -> None:
    assert Phi3VForCausalLM.from_pretrained(micro_folder).dtype == torch.float32
    for options in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}):
        assert Phi3VForCausalLM.from_pretrained(micro_folder, **options).dtype == torch.bfloat16


# transformers 5.17 takes where off-loaded embeddings seem to be for where the model is.
@pytest.mark.filterwarnings("ignore:You are calling .generate:UserWarning")
def test_devices(micro_folder: Path, tmp_path: Path) -> None:
    """Also weights that lie on the disk until their module runs, the vision tower's too."""
    processor = Phi3VProcessor.from_pretrained(micro_folder, num_crops=1)
    inputs = processor("<|user|>\n<|image_1|>\nHi", Image.linear_gradient("L"))
    options = {"max_new_tokens": 3, "do_sample": False}
    with torch.inference_mode():
        plain = Phi3VForCausalLM.from_pretrained(micro_folder)
        expected, answer = plain(**inputs).logits, plain.generate(**inputs, **options)
        on_disk = {
            "model.embed_tokens": "disk",
            "model.vision_embed_tokens": "disk",
            "model.layers.0": "disk",
            "model.layers.1": "cpu",
            "model.norm": "cpu",
            "lm_head": "disk",
        }
        for device_map in ("auto", "cpu", {"": "cpu"}, on_disk):
            model = AutoModelForCausalLM.from_pretrained(
                micro_folder, device_map=device_map, offload_folder=tmp_path
            )
            on_gpu = device_map == "auto" and torch.cuda.is_available()
            moved = inputs.to("cuda" if on_gpu else "cpu")
            logits = model(**moved).logits.cpu()
            torch.testing.assert_close(logits, expected, msg=str(device_map))
            assert torch.equal(model.generate(**moved, **options).cpu(), answer), device_map


def test_attention_is_the_caller_s_choice(micro_folder: Path) -> None:
    """FlashAttention 2 in config.json, as in the published one, is not the caller's."""
    config = micro_folder / "config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps(written | {"_attn_implementation": "flash_attention_2"}))
    load = AutoModelForCausalLM.from_pretrained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(micro_folder).config._attn_implementation == "sdpa"
        for name in ("eager", "sdpa"):
            for option in ("attn_implementation", "_attn_implementation"):  # the old cards' word
                assert load(micro_folder, **{option: name}).config._attn_implementation == name
    for option in ("attn_implementation", "_attn_implementation"):
        with pytest.warns(PhisightWarning, match="flash-attn is not installed: using sdpa"):
            model = load(micro_folder, **{option: "flash_attention_2"})
        assert model.config._attn_implementation == "sdpa"


def test_a_new_model_has_finite_weights() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**micro.config_json()))
    assert isinstance(model, Phi3VForCausalLM)
    for name, weight in model.named_parameters():
        assert bool(weight.isfinite().all()), name
        assert name.endswith("bias") or bool(weight.detach().any()), name


def test_a_config_that_is_not_this_model_s_is_refused() -> None:
    with pytest.raises(ConfigError, match="embd_layer"):
        Phi3VForCausalLM(Phi3VConfig())
    with pytest.raises(ConfigError, match="hidden_act='gelu'"):
        Phi3VForCausalLM(Phi3VConfig(**micro.config_json(hidden_act="gelu")))


TIED = "model.vision_embed_tokens.wte.weight"


def rewrite(folder: Path, **changes: Any) -> None:
    found = tensors(folder)
    for name, value in changes.items():
        if value is None:
            del found[name]
        else:
            found[name] = value
    micro.save_sharded(folder, found, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "1 missing: model.norm.weight"),
        ({"model.extra.weight": torch.ones(3)}, "1 unknown: model.extra.weight"),
        ({"model.norm.weight": torch.ones(5)}, r"misshapen: model.norm.weight is \[5\].*\[48\]"),
        ({TIED: torch.ones(270, 48)}, f"{TIED} differs from model.embed_tokens.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    micro_folder: Path, change: dict[str, Any], message: str
) -> None:
    rewrite(micro_folder, **change)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(micro_folder)


def test_a_second_copy_of_the_embeddings_may_be_there(micro_folder: Path) -> None:
    """As the official class saves it."""
    rewrite(micro_folder, **{TIED: tensors(micro_folder)["model.embed_tokens.weight"].clone()})
    model = Phi3VForCausalLM.from_pretrained(micro_folder)
    assert TIED not in model.state_dict()


def test_other_shapes_may_be_asked_for(micro_folder: Path) -> None:
    rewrite(micro_folder, **{"lm_head.weight": torch.ones(5, 48)})
    model, info = Phi3VForCausalLM.from_pretrained(
        micro_folder, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [name for name, *_ in info["mismatched_keys"]] == ["lm_head.weight"]
    assert bool(model.lm_head.weight.isfinite().all())


def test_a_file_cut_short_is_refused(micro_folder: Path) -> None:
    file = micro_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        AutoModelForCausalLM.from_pretrained(micro_folder)


def test_a_subfolder(micro_folder: Path) -> None:
    outer, inner = micro_folder.parent, micro_folder.name
    model = AutoModelForCausalLM.from_pretrained(outer, subfolder=inner)
    assert model.generation_config.eos_token_id == [257, 258, 260]


def test_a_pickle_beside_the_weights_is_left_alone(micro_folder: Path) -> None:
    (micro_folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    expected = tensors(micro_folder)
    state = AutoModelForCausalLM.from_pretrained(micro_folder).state_dict()
    assert same(expected, {name: state[name] for name in expected})


def test_no_pickle_is_opened(micro_folder: Path) -> None:
    (micro_folder / "model.safetensors").unlink()
    (micro_folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle and is never opened"):
        AutoModelForCausalLM.from_pretrained(micro_folder)
    with pytest.raises(OptionError, match="use_safetensors=False asks for a pickle"):
        AutoModelForCausalLM.from_pretrained(micro_folder, use_safetensors=False)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    micro.write(tmp_path, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="shard 'model-00002-of-00002.safetensors' is missing"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer_says_what_that_means(micro_folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (micro_folder / file).unlink()
    with pytest.warns(PhisightWarning, match="no tokenizer.json: answers stop at"):
        Phi3VForCausalLM.from_pretrained(micro_folder)


def test_our_own_engine_s_answers(nano_folder: Path) -> None:
    """Greedy answers in float32, token for token."""
    model = Phi3VForCausalLM.from_pretrained(nano_folder, dtype=torch.float32)
    ours = phisight.load("nano", dtype="float32", device="cpu")
    for question in ("<|user|>\nHello<|end|>\n<|assistant|>\n", "<|user|>\n2"):
        ids = torch.tensor([ours.processor.prompt(question).ids])
        got = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
        assert got == list(ours.ask(question, max_tokens=24).token_ids)
