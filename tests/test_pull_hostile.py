"""A hub that lies or never ends, and a cache that holds what is not ours: nothing is lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_hub import COMMIT, WEIGHTS, FakeHub, fetched, point_to

from phisight.errors import DownloadError, OfflineError
from phisight.hub import cache, find_model
from phisight.hub.registry import PUBLISHED


@pytest.mark.parametrize("other", [b"of the user", None])
def test_a_file_elsewhere_that_a_snapshot_links_to_is_kept(
    other: bytes | None, hub: FakeHub, tmp_path: Path
) -> None:
    fetched()
    weights = find_model("someone/micro").path / WEIGHTS
    whole = weights.read_bytes()
    mine = tmp_path / "mine.safetensors"
    changed = other or b"!" + whole[1:]  # of another size, or found only by its hash
    for link in (weights, weights.resolve()):  # from the snapshot, then from blobs
        mine.write_bytes(changed)
        link.unlink()
        link.symlink_to(mine)
        told = fetched(verify=other is None)
        assert told.notes[0] == f"{WEIGHTS} here is not what the hub has; it is fetched again"
        assert mine.read_bytes() == changed
        assert weights.read_bytes() == whole
    assert not any(path.is_symlink() for path in weights.resolve().parent.iterdir())


def test_right_bytes_are_not_fetched_again_for_a_wrong_link(hub: FakeHub) -> None:
    fetched()
    snapshot = find_model("someone/micro").path
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to((snapshot / "LICENSE").resolve())
    hub.requests.clear()
    fetched()
    assert not hub.of(WEIGHTS)
    assert (snapshot / "LICENSE").read_text() == "this is LICENSE"
    assert (snapshot / WEIGHTS).read_bytes() == (hub.folder / WEIGHTS).read_bytes()


def test_a_snapshot_that_is_a_link_to_a_folder_is_not_touched(hub: FakeHub, tmp_path: Path) -> None:
    fetched()
    snapshot = find_model("someone/micro").path
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / WEIGHTS).write_bytes(b"of the user")
    snapshot.rename(snapshot.with_name("moved"))
    snapshot.symlink_to(mine)
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == (
        f"{snapshot} is a link, and what it leads to may be yours: nothing there is touched. "
        "Remove the link and pull again, or use the folder with --model PATH"
    )
    assert [path.read_bytes() for path in mine.iterdir()] == [b"of the user"]


def test_a_started_file_that_is_a_pipe_or_a_link_is_started_anew(
    hub: FakeHub, tmp_path: Path
) -> None:
    fetched()
    weights = find_model("someone/micro").path / WEIGHTS
    bytes_of_it = weights.resolve()
    partial = bytes_of_it.with_name(f"{bytes_of_it.name}.incomplete")
    mine = tmp_path / "mine"
    mine.write_bytes(b"of the user")
    for make in (os.mkfifo, lambda path: path.symlink_to(mine)):
        weights.unlink()
        bytes_of_it.unlink()
        make(partial)
        fetched()
        assert weights.read_bytes() == (hub.folder / WEIGHTS).read_bytes()
    assert mine.read_bytes() == b"of the user"
    assert not list(cache.cache_root().glob("*/blobs/*.incomplete"))


def listed(hub: FakeHub, *changes: dict[str, Any]) -> None:
    """The hub's answer with the weights listed as many times, each changed."""
    info = json.loads(hub.info())
    (weights,) = (file for file in info["siblings"] if file["rfilename"] == WEIGHTS)
    info["siblings"].remove(weights)
    info["siblings"] += [weights | change for change in changes]
    hub.api_body = json.dumps(info).encode()


def no_hub(url: str) -> str:
    return (
        f"what {url} says of someone/micro is not a hub's answer: check HF_ENDPOINT and "
        "whether this network wants a sign-in"
    )


@pytest.mark.parametrize("size", [-1, "10", [1], float("nan"), 2.5, 1e400, True, None, 2**50])
def test_a_size_that_is_none_is_no_answer(size: object, hub: FakeHub) -> None:
    digest = "a" * 64
    listed(hub, {"lfs": {"size": size, "sha256": digest, "pointerSize": 130}})
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == no_hub(hub.url)
    listed(hub, {}, {"rfilename": "second.safetensors", "size": size, "lfs": None})
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == no_hub(hub.url)
    assert not cache.cache_root().exists()


def test_a_name_that_no_file_of_ours_has_is_left_out(hub: FakeHub) -> None:
    names = ("a\0.json", "\ud800.json", "x" * 251 + ".json", "\u00e9" * 126 + ".json", "a\n.json")
    listed(hub, {}, *({"rfilename": name} for name in (*names, ".json", "../b.json", "")))
    fetched()
    assert len(list(find_model("someone/micro").path.iterdir())) == 7


def test_another_commit_than_the_one_asked_for_is_refused(hub: FakeHub) -> None:
    hub.hub_id = PUBLISHED["phi-3.5-vision"].hub_id
    for name, revision in (("phi-3.5-vision", None), (hub.hub_id, "B" * 40)):
        asked = revision or PUBLISHED["phi-3.5-vision"].revision
        with pytest.raises(DownloadError) as caught:
            fetched(name, revision=revision)
        assert str(caught.value) == (
            f"{hub.hub_id}: commit {asked[:12]} was asked for, but {hub.url} answers with "
            "c0ffee000000: check HF_ENDPOINT, and distrust this hub"
        )
    assert not cache.cache_root().exists()
    fetched(hub.hub_id, revision=COMMIT.upper())
    assert not (cache.repo_folder(hub.hub_id) / "refs").exists()


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("http://jane:s3cret@127.0.0.1:9/hub", "http://127.0.0.1:9/hub"),
        ("http://jane:s3c@ret@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://127.0.0.1:9/hub?token=s3cret@x", "http://127.0.0.1:9/hub"),
        ("jane:s3cret@127.0.0.1:9", "127.0.0.1:9"),
    ],
)
def test_a_password_in_the_endpoint_is_not_shown(
    secret: str, shown: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(secret, monkeypatch)
    with pytest.raises(OfflineError) as caught:
        fetched()
    assert str(caught.value).startswith(f"{shown} cannot be reached: check the connection")


def test_an_endless_listing_is_no_answer(hub: FakeHub) -> None:
    hub.api_body = hub.info() + b" " * (4 * 2**20)
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == no_hub(hub.url)


@pytest.mark.parametrize("dripping", ["/revision/main", "/config.json"])
def test_an_answer_that_drips_is_given_up(
    dripping: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phisight.hub.remote.DEADLINE", 0.1)
    hub.drip = dripping
    with pytest.raises(OfflineError, match="cannot be reached"):
        fetched()


def test_the_page_of_a_refusal_is_not_read(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phisight.hub.remote.DEADLINE", 5.0)
    hub.status, hub.drip, hub.api_body = 500, "/revision/main", b"x" * 100_000  # 2,000 s of it
    with pytest.raises(DownloadError, match="the hub answers 500: try again later"):
        fetched()
