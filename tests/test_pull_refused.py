"""What is not fetched, and the sentence for it: a refusing hub, none, no room, another model."""

import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import micro
import pytest
from fake_hub import COMMIT, WEIGHTS, FakeHub, fetched, phi, point_to

from phisight.errors import (
    CheckpointError,
    DownloadError,
    ModelNotFoundError,
    OfflineError,
    OptionError,
)
from phisight.hub import cache
from phisight.hub.registry import PUBLISHED
from phisight.jsonfile import brief


def test_a_full_disk_is_refused_before_any_weights(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, 10**9 + 5000))
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert re.fullmatch(
        r"[\d.]+ [kM]B are to be fetched and 1\.0 GB kept free, but the disk of "
        + re.escape(str(cache.cache_root()))
        + r" has 1\.0 GB: make room, or set HF_HOME to a folder on another disk",
        str(caught.value),
    )
    assert not hub.of(WEIGHTS)


def test_a_cache_that_cannot_be_written_is_named(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot write to .*file \(Not a directory\)"):
        fetched()


def test_a_machine_with_little_memory_is_told(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = namedtuple("memory", "total")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(4000))
    size = cache.size_text((hub.folder / WEIGHTS).stat().st_size)
    assert fetched().notes[1] == (
        f"the weights take {size} and this machine has 4 kB of memory: they will not fit on its CPU"
    )


REFUSED = "someone/micro: the hub "


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", REFUSED + "has no such model (404): check the id"),
        (404, "RevisionNotFound", "someone/micro has no revision 'main'"),
        (
            401,
            "RepoNotFound",
            REFUSED + "wants a login (401), or there is no such model: check the id, then: "
            "hf auth login",
        ),
        (
            403,
            "GatedRepo",
            REFUSED + "does not let you have it (403): accept the model's terms on its page, "
            "then: hf auth login",
        ),
        (429, None, REFUSED + "answers 429: try again later"),
        (500, None, REFUSED + "answers 500: try again later"),
    ],
)
def test_a_refusing_hub_is_a_sentence(
    status: int, code: str | None, message: str, hub: FakeHub
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == message
    assert not cache.repo_folder("someone/micro").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome to the hotel</html>",
        b"[]",
        b"{}",
        b'{"id": "a/b", "sha": "../../x", "siblings": []}',
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % COMMIT.encode(),
        b'{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": 5}]}' % COMMIT.encode(),
    ],
)
def test_what_is_no_hub_is_a_sentence(body: bytes, hub: FakeHub) -> None:
    hub.api_body = body
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == (
        f"what {hub.url} says of someone/micro is not a hub's answer: check HF_ENDPOINT and "
        "whether this network wants a sign-in"
    )


def test_without_a_connection_it_says_what_to_do(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = "or copy the model's folder from another machine and name it: --model PATH"
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OfflineError) as caught:
            fetched()
    assert str(caught.value) == (
        f"someone/micro is not fetched, for HF_HUB_OFFLINE is set: unset it, {copy}"
    )
    for url in ("http://127.0.0.1:9", "nonsense"):
        point_to(url, monkeypatch)
        with pytest.raises(OfflineError) as caught:
            fetched()
        assert str(caught.value) == (
            f"{url} cannot be reached: check the connection, any proxy and HF_ENDPOINT, {copy}"
        )


def test_a_known_commit_that_is_complete_needs_no_hub(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    known = PUBLISHED["phi-3.5-vision"]
    snapshot = cache.repo_folder(known.hub_id) / "snapshots" / known.revision
    shutil.copytree(micro_folder, snapshot)
    told = fetched("phi-3.5-vision")
    assert told.notes == [
        "microsoft/Phi-3.5-vision-instruct at 4a0d683eba9f is here and complete; the hub cannot "
        "be reached to compare sizes"
    ]
    with pytest.raises(OfflineError):
        fetched("phi-3.5-vision", verify=True)
    (snapshot / WEIGHTS).unlink()
    with pytest.raises(OfflineError):
        fetched("phi-3.5-vision")


def test_a_published_model_is_asked_for_at_its_pinned_revision(hub: FakeHub) -> None:
    known = PUBLISHED["phi-3.5-vision"]
    hub.hub_id, hub.commit = known.hub_id, known.revision
    fetched("phi-3.5-vision")
    fetched("phi-3.5-vision", revision="a/branch")
    assert [r.path for r in hub.requests if r.path.startswith("/api/")] == [
        f"/api/models/{known.hub_id}/revision/{known.revision}",
        f"/api/models/{known.hub_id}/revision/a/branch",
    ]
    assert cache.commit_of(known.hub_id, "a/branch") == known.revision
    assert cache.commit_of(known.hub_id, known.revision) is None


def test_other_models_are_refused_before_any_weights(hub: FakeHub) -> None:
    config = hub.folder / "config.json"
    whole = config.read_text()
    config.write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError) as caught:
        fetched()
    assert str(caught.value) == (
        "someone/micro is a model of type 'llama'; phisight runs 'phi3_v' only: phi-3-vision, "
        "phi-3.5-vision and their finetunes"
    )
    assert not list(cache.cache_root().glob("*/blobs/*"))
    config.write_text(whole)
    (hub.folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError) as caught:
        fetched()
    assert str(caught.value) == (
        "someone/micro has no weights in safetensors, only 'pytorch_model.bin', a pickle, which "
        "is never opened"
    )
    config.unlink()
    with pytest.raises(CheckpointError, match="has no config.json: it is no model of this family"):
        fetched()
    (hub.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="someone/micro is a LoRA adapter, not a whole model"):
        fetched()


def test_a_hub_that_lacks_a_shard_is_refused_before_any_weights(hub: FakeHub) -> None:
    (hub.folder / WEIGHTS).unlink()
    micro.write(hub.folder, shards=3)
    (hub.folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        fetched()
    assert str(caught.value) == (
        "someone/micro itself lacks 'model-00002-of-00003.safetensors', which its index or "
        "phisight needs"
    )
    assert not hub.of("model-00001-of-00003.safetensors")


def test_odd_requests_are_refused(hub: FakeHub) -> None:
    assert fetched("nano").notes == ["nano is bundled: there is nothing to fetch"]
    with pytest.raises(ModelNotFoundError, match="no model 'no such': expected nano"):
        fetched("no such")
    with pytest.raises(DownloadError, match="'a--b/c' is no id that a hub can have"):
        fetched("a--b/c")
    for folder in (str(hub.folder), "."):
        with pytest.raises(OptionError) as caught:
            fetched(folder)
        assert str(caught.value) == (
            f"{brief(folder)} is a folder already here: use it with --model PATH"
        )
    for revision in ("../../x", "", "a b"):
        with pytest.raises(OptionError, match="expected a commit, a branch or a tag"):
            fetched(revision=revision)
    assert not hub.requests


def test_the_program_ends_with_the_code_of_a_model_error(hub: FakeHub) -> None:
    hub.status = 404
    done = phi("pull", "someone/micro")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "phisight: someone/micro: the hub has no such model (404): check the id\n"
    assert "HF_TOKEN" not in os.environ
