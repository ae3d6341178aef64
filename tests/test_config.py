import json
import os
from pathlib import Path

import micro
import pytest

from phisight.config import model_config, read_model_config, read_processor_config
from phisight.errors import ConfigError
from phisight.jsonfile import read_json


def test_the_official_model(official: Path) -> None:
    config = read_model_config(official)
    assert (config.num_layers, config.hidden_size, config.num_heads) == (32, 3072, 32)
    assert config.head_dim == 96
    assert config.rope.attention_scale == pytest.approx(1.190238, abs=1e-6)
    assert config.rope.original_max_positions == 4096
    assert (config.vision.num_layers, config.vision.num_stored_layers) == (23, 24)
    assert config.eos_token_ids == (2,)


def test_a_window_beyond_the_context_masks_nothing(official: Path) -> None:
    data = json.loads((official / "config.json").read_text()) | {"sliding_window": 262144}
    assert model_config(data) == read_model_config(official)


def test_a_missing_rope_scaling_is_not_assumed() -> None:
    data = micro.config_json(rope_parameters={"rope_type": "longrope"})
    del data["rope_scaling"]
    with pytest.raises(ConfigError, match="rope_scaling is missing .null for none."):
        model_config(data)


def test_nano_spells_its_tower_out(nano_folder: Path) -> None:
    config = read_model_config(nano_folder)
    assert (config.vision.num_layers, config.vision.num_stored_layers) == (7, 7)  # layer_idx -1
    assert config.rope.attention_scale == 1.0
    assert config.eos_token_ids == (258, 257)  # config.json's, then generation_config.json's


def test_another_depth_of_the_standard_tower(tiny_folder: Path) -> None:
    config = read_model_config(tiny_folder)
    assert (config.vision.hidden_size, config.vision.num_layers) == (1024, 2)


def image_part(**changes: object) -> dict[str, object]:
    return {"img_processor": micro.config_json()["img_processor"] | changes}


def embedding(**changes: object) -> dict[str, object]:
    return {"embd_layer": micro.config_json()["embd_layer"] | changes}


def rope(**changes: object) -> dict[str, object]:
    return {"rope_scaling": micro.config_json()["rope_scaling"] | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "phi3"}, "model_type='phi3': only 'phi3_v' is implemented"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True: only False"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings=0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 5}, "hidden_size=48 does not split into 5 heads"),
        ({"num_key_value_heads": 1}, "no grouped-query attention"),
        ({"sliding_window": 64}, "sliding_window=64 is below max_position_embeddings=900"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0: expected a whole number from 1 to 1024"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000: expected"),
        ({"vocab_size": 2**63}, "vocab_size=9223372036854775808: expected a whole number"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps=1000"),
        ({"rms_norm_eps": -1}, "rms_norm_eps=-1: expected a number above 0"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps='tiny': expected a number above 0"),
        ({"eos_token_id": "end"}, "eos_token_id='end': expected token ids"),
        (embedding(hd_transform_order="glb_sub"), "embd_layer.hd_transform_order='glb_sub'"),
        (embedding(use_hd_transform=None), "embd_layer.use_hd_transform=None: only True"),
        ({"embd_layer": {"embedding_cls": "image"}}, "embd_layer.hd_transform_order=None"),
        ({"sliding_window": "wide"}, "sliding_window='wide'"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings=None"),
        ({"embd_layer": None}, "embd_layer=None: expected a JSON object"),
        (rope(type="yarn"), "rope_scaling=.*only null or type 'su' / 'longrope'"),
        (rope(mscale=2), "rope_scaling="),
        (rope(short_factor=[1.0]), "short_factor has 1 values: expected 8 positive numbers"),
        (rope(long_factor=[0.0] * 8), "long_factor has 8 values"),
        (rope(long_factor=None), "long_factor=None: expected a list"),
        ({"rope_scaling": "su"}, "rope_scaling='su'"),
        ({"original_max_position_embeddings": 1}, "original_max_position_embeddings=1"),
        (image_part(layer_idx=-3), "img_processor.layer_idx=-3: only -2 or -1"),
        (image_part(name="siglip"), "img_processor.name='siglip'"),
        (image_part(image_dim_out=99), "image_dim_out=99: the vision tower gives 36"),
        (image_part(vision_config={"hidden_size": 36, "hidden_act": "gelu"}), "hidden_act='gelu'"),
    ],
)
def test_values_that_are_not_implemented_are_named(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(micro.config_json(**changes))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="config.json: not a regular file"):
        read_json(tmp_path / "config.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="zero.json: not a regular file"):
        read_json(tmp_path / "zero.json")
    (tmp_path / "long.json").write_bytes(b" " * (64 * 2**20 + 1))
    with pytest.raises(ConfigError, match="long.json: larger than the limit of 67,108,864 bytes"):
        read_json(tmp_path / "long.json")


@pytest.mark.parametrize("text", ["[1]", "{", "\xff", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_unreadable_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"config\.json: (not readable as JSON|cannot be read|expected a JSON)"
    ):
        read_model_config(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: not found"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"image_std": [1, 0, 1]}, {"num_crops": 0}, {"num_crops": 2000}, {"num_img_tokens": 1}],
)
def test_a_bad_preprocessor_is_named(nano_copy: Path, changes: dict[str, object]) -> None:
    path = nano_copy / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match=next(iter(changes))):
        read_processor_config(nano_copy)
