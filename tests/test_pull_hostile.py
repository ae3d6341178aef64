"""A hub that lies or never ends, and a cache that holds what is not ours: nothing is lost."""

import os
from pathlib import Path

import pytest
from fake_hub import WEIGHTS, FakeHub, fetched

from phisight.hub import cache, find_model


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
