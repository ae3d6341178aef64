"""Fetching a model: whole, unchanged, nothing else, and taken up where it broke."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import COMMIT, WEIGHTS, FakeHub, fetched, phi
from huggingface_hub import scan_cache_dir, snapshot_download

import phisight
from phisight.errors import DownloadError, ModelNotFoundError, OfflineError
from phisight.hub import cache, download, find_model
from phisight.hub.remote import Listing


def partials() -> list[Path]:
    return list(cache.cache_root().glob("*/blobs/*.incomplete"))


def test_a_model_is_fetched_and_answers(hub: FakeHub) -> None:
    done = phi("pull", "someone/micro")
    snapshot = cache.cache_root() / "models--someone--micro" / "snapshots" / COMMIT
    assert (done.returncode, done.stdout) == (0, f"{snapshot}\n")
    size = sum(p.stat().st_size for p in snapshot.iterdir())
    assert done.stderr.splitlines() == [
        f"someone/micro at c0ffee000000: 7 files, {cache.size_text(size)}, to {cache.cache_root()}",
        "someone/micro at c0ffee000000 is here and complete (every file hashed)",
        "to use it when no model is named: phisight use someone/micro",
    ]
    taken = {path.name for path in snapshot.iterdir()}
    assert taken == {
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    asked = {request.path.rpartition("/")[2] for request in hub.requests if "/cdn/" in request.path}
    assert asked == taken
    answer = phi("ask", "Hi", "-m", "someone/micro", "--max-tokens", "2", "--json")
    assert json.loads(answer.stdout)["model"] == "someone/micro"


def test_the_cache_is_as_huggingface_hub_leaves_it(hub: FakeHub, tmp_path: Path) -> None:
    fetched()
    found = snapshot_download("someone/micro", local_files_only=True, cache_dir=tmp_path / "hub")
    assert Path(found) == find_model("someone/micro").path
    (repo,) = scan_cache_dir(tmp_path / "hub").repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == (
        "someone/micro",
        COMMIT,
        frozenset({"main"}),
    )
    assert repo.nb_files == 7
    assert not scan_cache_dir(tmp_path / "hub").warnings


def test_what_is_here_is_not_fetched_again(hub: FakeHub) -> None:
    fetched()
    hub.requests.clear()
    told = fetched()
    assert told.notes == ["someone/micro at c0ffee000000 is here and complete (sizes compared)"]
    assert [request.path for request in hub.requests] == ["/api/models/someone/micro/revision/main"]
    assert fetched(verify=True).notes[-1].endswith("is here and complete (every file hashed)")


def test_a_short_file_is_found_by_size_and_a_changed_one_by_verify(hub: FakeHub) -> None:
    fetched()
    weights = find_model("someone/micro").path / WEIGHTS
    data = weights.read_bytes()
    weights.resolve().write_bytes(data[:-1])
    told = fetched()
    assert told.notes[0] == f"{WEIGHTS} here is not what the hub has; it is fetched again"
    assert weights.read_bytes() == data
    weights.resolve().write_bytes(b"!" + data[1:])
    assert len(fetched().notes) == 1
    assert fetched(verify=True).notes[0] == told.notes[0]
    assert weights.read_bytes() == data


def test_a_cut_line_is_taken_up_where_it_broke(hub: FakeHub) -> None:
    hub.cuts = [50_000]
    told = fetched()
    assert told.here == told.total
    first, second = hub.of(WEIGHTS)
    assert (first.range, second.range) == (None, "bytes=50000-")
    assert second.sent == (hub.folder / WEIGHTS).stat().st_size - 50_000


def test_a_second_run_takes_up_what_the_first_left(hub: FakeHub) -> None:
    hub.cuts = [50_000] + [0] * (download.TRIES - 1)
    size = (hub.folder / WEIGHTS).stat().st_size
    with pytest.raises(OfflineError) as caught:
        fetched()
    assert str(caught.value) == (
        f"the connection broke at 50 kB of {cache.size_text(size)} of {WEIGHTS}; what has come is "
        "kept, and the same command goes on from there"
    )
    assert len(hub.of(WEIGHTS)) == download.TRIES
    with pytest.raises(ModelNotFoundError) as missing:
        find_model("someone/micro")
    assert str(missing.value) == (
        "someone/micro is only partly downloaded: phisight pull someone/micro resumes it"
    )
    hub.requests.clear()
    told = fetched()
    assert re.search(r" 7 files, [\d.]+ .B, [\d.]+ .B of it here already, to ", told.notes[0])
    assert [(r.range, r.sent) for r in hub.of(WEIGHTS)] == [("bytes=50000-", size - 50_000)]
    assert not partials()
    assert find_model("someone/micro").path.name == COMMIT


def test_a_trickle_is_given_up(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phisight.hub.download.LEAST_WINDOW", 0.0)
    monkeypatch.setattr("phisight.hub.download.LEAST_BYTES", 10**9)
    with pytest.raises(OfflineError, match="the connection broke at "):
        fetched()
    starts = [int((request.range or "bytes=0-")[6:-1]) for request in hub.of(WEIGHTS)]
    assert len(set(starts)) == download.TRIES  # some bytes came each time


def test_a_failing_store_is_asked_again_and_a_refusing_one_is_not(hub: FakeHub) -> None:
    hub.weights_statuses = [503, 500]
    fetched()
    assert len(hub.of(WEIGHTS)) == 3
    shutil.rmtree(cache.cache_root())
    hub.weights_statuses = [403]
    with pytest.raises(DownloadError, match="does not let you have it"):
        fetched()
    partial = download.blob(listing(hub), remote_file(hub)).with_suffix(".incomplete")
    partial.write_bytes(b"of another file")
    hub.weights_statuses = [416]
    hub.requests.clear()
    fetched()
    assert [request.range for request in hub.of(WEIGHTS)] == ["bytes=15-", None]


def listing(hub: FakeHub) -> Listing:
    return Listing(hub.hub_id, COMMIT, ())


def test_a_server_without_ranges_sends_it_all_again(hub: FakeHub) -> None:
    hub.cuts, hub.ranges = [50_000], False
    told = fetched()
    assert told.here == told.total
    assert download.is_right(find_model("someone/micro").path / WEIGHTS, remote_file(hub))


def remote_file(hub: FakeHub) -> download.RemoteFile:
    data = (hub.folder / WEIGHTS).read_bytes()
    return download.RemoteFile(WEIGHTS, len(data), hashlib.sha256(data).hexdigest())


def test_an_interrupt_leaves_what_came(hub: FakeHub) -> None:
    hub.stall_after = 60_000
    command = [sys.executable, "-m", "phisight", "pull", "someone/micro"]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as program:
        assert hub.stalled.wait(20)
        for _ in range(500):
            if any(path.stat().st_size == 60_000 for path in partials()):
                break
            hub.released.wait(0.01)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=20)
    assert (program.returncode, out) == (130, "")
    assert err.endswith(
        "\nstopped; what has come is kept, and the same command goes on from there\n"
    )
    assert "Traceback" not in err
    hub.stall_after = None
    fetched()
    assert hub.of(WEIGHTS)[-1].range == "bytes=60000-"


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_changed_file_never_gets_into_the_cache(name: str, hub: FakeHub) -> None:
    hub.corrupt = name
    with pytest.raises(DownloadError) as caught:
        fetched()
    assert re.fullmatch(
        re.escape(name) + r" of someone/micro has come changed: its hash begins [0-9a-f]{12}, the "
        r"hub says [0-9a-f]{12}\. It has been deleted; try again, and if it happens again distrust "
        "the network or the mirror",
        str(caught.value),
    )
    assert not partials()
    assert not list(cache.cache_root().glob(f"*/snapshots/*/{name}"))
    hub.corrupt = None
    fetched()
    assert find_model("someone/micro").path.name == COMMIT


def test_a_file_longer_than_promised_is_refused(hub: FakeHub) -> None:
    hub.longer = WEIGHTS
    with pytest.raises(DownloadError, match="is longer than the .* bytes that the hub says it has"):
        fetched()


def test_a_silent_hub_is_given_up(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phisight.hub.remote.TIMEOUT", 0.05)
    hub.stall_after = 60_000
    with pytest.raises(OfflineError, match="the connection broke at 60 kB of "):
        fetched()
    later = ["bytes=60000-"] * download.TRIES
    assert [request.range for request in hub.of(WEIGHTS)] == [None, *later]


def test_two_at_once_do_not_write_the_same_file(hub: FakeHub) -> None:
    import filelock

    lock = cache.cache_root() / ".locks" / "models--someone--micro" / "phisight.lock"
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock), pytest.raises(DownloadError) as caught:
        fetched()
    assert str(caught.value) == "another phisight is fetching someone/micro; wait for it"


def test_where_links_are_not_allowed_the_bytes_lie_in_the_snapshot(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("not allowed")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    fetched()
    assert phisight.load("someone/micro").path.name == COMMIT
    assert not list(cache.cache_root().glob("*/blobs/*"))
    hub.requests.clear()
    fetched()
    assert len(hub.requests) == 1


def test_a_token_stays_with_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    fetched()
    sent = {("/cdn/" in request.path, request.authorization) for request in hub.requests}
    assert sent == {(False, "Bearer hf_of_the_test"), (True, None)}
