"""Which model a name means, which one is used without one, and what the cache holds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import micro
import pytest
from fake_hub import COMMIT, WEIGHTS, cached

from phisight.errors import CheckpointError, ModelNotFoundError
from phisight.hub import cache, choice, find_model, use_model
from phisight.hub.registry import BUNDLED_NOTE, PUBLISHED
from phisight.jsonfile import read_json

PHI35 = PUBLISHED["phi-3.5-vision"]


def test_the_named_goes_before_the_variable_before_the_remembered_before_the_default(
    root: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(root, "a/first", COMMIT, micro_folder)
    second = cached(root, "a/second", COMMIT, micro_folder)
    assert find_model().chosen_by == "the default"
    use_model(str(micro_folder))
    assert (find_model().path, find_model().chosen_by) == (micro_folder, "phisight use")
    monkeypatch.setenv("PHISIGHT_MODEL", "a/first")
    assert (find_model().path, find_model().chosen_by) == (first, "PHISIGHT_MODEL")
    named = find_model("a/second")
    assert (named.path, named.note, named.chosen_by) == (second, None, "named")
    monkeypatch.setenv("PHISIGHT_MODEL", "")
    assert find_model().chosen_by == "phisight use"
    assert choice.forget()
    assert not choice.forget()
    assert (find_model().name, find_model().chosen_by) == ("nano", "the default")


def test_the_pinned_revision_goes_before_main(root: Path, micro_folder: Path) -> None:
    at_main = cached(root, PHI35.hub_id, COMMIT, micro_folder)
    assert find_model("phi-3.5-vision").path == at_main
    pinned = cached(root, PHI35.hub_id, PHI35.revision, micro_folder, main=False)
    for name in ("phi-3.5-vision", PHI35.hub_id, PHI35.hub_id.lower()):
        assert find_model(name).path == pinned
    (pinned / "model.safetensors").unlink()
    assert find_model("phi-3.5-vision").path == at_main


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        ("config.json", ("config.json",)),
        ("model-00002-of-00003.safetensors", ("model-00002-of-00003.safetensors",)),
        ("model.safetensors.index.json", ("model.safetensors",)),
    ],
)
def test_a_partial_download_is_no_model(
    lost: str, missing: tuple[str, ...], root: Path, tmp_path: Path
) -> None:
    micro.write(tmp_path / "sharded", shards=3)
    snapshot = cached(root, PHI35.hub_id, COMMIT, tmp_path / "sharded")
    assert find_model("phi-3.5-vision").path == snapshot
    (snapshot / lost).resolve().unlink()  # a link to nothing, as a moved cache leaves
    assert cache.missing_files(snapshot) == missing
    for name in ("phi-3.5-vision", PHI35.hub_id):
        with pytest.raises(ModelNotFoundError) as caught:
            find_model(name)
        assert str(caught.value) == (
            "microsoft/Phi-3.5-vision-instruct is only partly downloaded: "
            "phisight pull phi-3.5-vision resumes it"
        )


def test_a_strange_index_is_a_missing_file(root: Path, micro_folder: Path) -> None:
    index = micro_folder / "model.safetensors.index.json"
    for text in ("", "[]", "{}", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": "\\u0000"}}'):
        index.write_text(text)
        assert cache.missing_files(micro_folder)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_in_the_cache_is_not_opened(
    kind: str, root: Path, micro_folder: Path
) -> None:
    def spoil(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")

    index = "model.safetensors.index.json"
    for i, name in enumerate(("config.json", WEIGHTS, index, "adapter_config.json")):
        spoil(cached(root, f"a/m{i}", COMMIT, micro_folder) / name)
    (root / "models--a--m3" / "snapshots" / COMMIT / "config.json").unlink()
    cached(root, PHI35.hub_id, COMMIT, micro_folder)
    spoil(root / f"models--{PHI35.hub_id.replace('/', '--')}" / "refs" / "main")
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from phisight.hub import cache, find_model\n"
        "from phisight.errors import ModelNotFoundError\n"
        "assert find_model().chosen_by == 'the default'\n"
        "missing = {model.hub_id: model.missing for model in cache.local_models()}\n"
        f"assert (missing['a/m1'], missing['a/m2']) == (({WEIGHTS!r},), ({index!r},))\n"
        "for i in range(4):\n"
        "    try: find_model(f'a/m{i}')\n"
        "    except ModelNotFoundError: pass\n"
        "    else: raise SystemExit(i)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


def test_a_chosen_model_that_is_gone_is_named_with_what_chose_it(
    root: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model("micro")  # a relative folder is remembered as an absolute one
    assert choice.remembered() == str(micro_folder)
    shutil.rmtree(micro_folder)
    with pytest.raises(ModelNotFoundError) as caught:
        find_model()
    assert str(caught.value) == (
        f"`phisight use` chose '{micro_folder}': there is no folder '{micro_folder}'; "
        "to go back to nano: phisight use --forget"
    )
    monkeypatch.setenv("PHISIGHT_MODEL", "phi-3-vision")
    with pytest.raises(ModelNotFoundError) as caught:
        find_model()
    assert str(caught.value) == (
        "PHISIGHT_MODEL names 'phi-3-vision': microsoft/Phi-3-vision-128k-instruct is neither a "
        "folder nor in the local cache; fetch it with: phisight pull phi-3-vision"
    )


def test_a_model_that_is_not_here_is_not_remembered(root: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="phisight pull phi-3-vision"):
        use_model("phi-3-vision")
    assert choice.remembered() is None


def test_a_remembered_name_is_not_a_folder_that_happens_to_be_called_so(
    root: Path, micro_folder: Path, tmp_path: Path
) -> None:
    snapshot = cached(root, "a/first", COMMIT, micro_folder)
    use_model("a/first")
    shutil.copytree(micro_folder, tmp_path / "a" / "first")
    assert find_model().path == snapshot
    assert find_model("a/first").path == Path("a/first")


def test_one_who_uses_the_default_hears_of_a_model_in_the_cache(
    root: Path, micro_folder: Path
) -> None:
    assert find_model().note == BUNDLED_NOTE
    assert "For photographs: phisight pull phi-3.5-vision" in BUNDLED_NOTE
    cached(root, "someone/micro", COMMIT, micro_folder)
    assert find_model().note == "someone/micro is in the hub cache: phisight use someone/micro"
    snapshot = cached(root, PHI35.hub_id, COMMIT, micro_folder)
    hint = "microsoft/Phi-3.5-vision-instruct is in the hub cache: phisight use phi-3.5-vision"
    assert find_model().note == hint
    assert find_model("nano").note == BUNDLED_NOTE
    (snapshot / "model.safetensors").unlink()
    assert find_model().note != hint


def test_looking_for_that_hint_is_cheap(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama", "x": "y" * 3000}))
    (other / "model.safetensors").write_bytes(b"")
    for i in range(200):
        cached(root, f"someone/model{i}", COMMIT, other)
    read: list[Path] = []
    monkeypatch.setattr(cache, "read_json", lambda path: read.append(path) or read_json(path))
    assert find_model().note == BUNDLED_NOTE
    assert len(read) == len(set(read)) == 200, "one small file for each repository"


def test_choosing_a_model_imports_no_hub_client(root: Path, micro_folder: Path) -> None:
    cached(root, "someone/micro", COMMIT, micro_folder)
    script = (
        "import sys; from phisight.hub import find_model\n"
        "find_model(), find_model('someone/micro')\n"
        "assert not {'huggingface_hub', 'httpx2', 'psutil', 'rich'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_an_adapter_is_told_from_a_model(where: str, root: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    base = {"base_model_name_or_path": "microsoft/Phi-3.5-vision-instruct"}
    (adapter / "adapter_config.json").write_text(json.dumps(base))
    name = str(adapter)
    if where == "cache":
        cached(root, "a/lora", COMMIT, adapter)
        name = "a/lora"
    with pytest.raises(CheckpointError) as caught:
        find_model(name)
    assert str(caught.value) == (
        f"{name} is a LoRA adapter, not a whole model: merge it into its base "
        "'microsoft/Phi-3.5-vision-instruct' first and name the merged folder"
    )
    for base_name in ("x" * 5000, ["no"], None):
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": base_name})
        )
        with pytest.raises(CheckpointError, match="is a LoRA adapter") as caught:
            find_model(adapter)
        assert len(str(caught.value)) < len(str(adapter)) + 210


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_CACHE_HOME": "~/c"},
        {"XDG_CACHE_HOME": "/c", "HF_HOME": "~/h"},
        {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/o"},
        {"HUGGINGFACE_HUB_CACHE": "/o", "HF_HUB_CACHE": "$HOME/hub"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert str(cache.cache_root()) == done.stdout.strip()


@pytest.mark.parametrize("name", ["../..", "a/b/c", "a\0/b", "x" * 5000, "~nobody-at-all/x", "a b"])
def test_odd_names_are_refused_in_a_line(name: str, root: Path) -> None:
    if name == "../..":
        assert find_model(name).path == Path(name)  # a folder, whatever is in it
        return
    with pytest.raises(ModelNotFoundError, match="no model .*: expected nano") as caught:
        find_model(name)
    assert len(str(caught.value)) < 220
