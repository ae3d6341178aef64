"""`phisight cache`, and folders that cannot be a cache: what is said is what was done."""

import errno
import json
import os
from pathlib import Path

import pytest
from test_diskcache import MODEL, NAME, files, put
from typer.testing import CliRunner

from phisight.cli.main import app
from phisight.diskcache.cache import DiskCache
from phisight.errors import OptionError, PhisightWarning


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    found = DiskCache(tmp_path, 2**20, MODEL)
    put(found, NAME)
    return found


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cache", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


def test_what_cannot_be_removed_is_named(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cache, b"another")
    stays = next(path for path in files(tmp_path) if path.name.startswith(NAME.hex()))
    unlink = os.unlink

    def refused(path, **options):  # type: ignore[no-untyped-def]
        if Path(path) == stays:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refused)
    code, told = run(str(tmp_path), "--clear", "--json")
    record = json.loads(told)
    assert code == 1
    assert [group["files"] for group in record["models"]] == [1]
    assert record["left"] == [str(stays)]
    code, told = run(str(tmp_path), "--clear")
    assert code == 1
    assert f"1 files could not be removed, among them {stays}".replace(" ", "") in told.replace(
        " ", ""
    )
    assert files(tmp_path) == [stays]


def test_clearing_takes_what_is_unfinished_too(cache: DiskCache, tmp_path: Path) -> None:
    (stored,) = files(tmp_path)
    alone = tmp_path / "phisight-cache" / ("ab" * 16)
    alone.mkdir(mode=0o700)
    for folder in (stored.parent, alone):
        (folder / f".{'ef' * 8}.part").write_bytes(b"half of what a picture shows")
    assert run(str(tmp_path), "--clear")[0] == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [(), ("--clear",)])
def test_a_link_is_neither_told_of_nor_cleared(
    cache: DiskCache, tmp_path: Path, option: tuple[str, ...]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "phisight-cache").symlink_to(tmp_path / "phisight-cache")
    code, told = run(str(tmp_path / "other"), *option)
    assert code == 2
    assert "links are not followed" in told
    assert NAME in cache


@pytest.mark.parametrize("option", [(), ("--clear",)])
@pytest.mark.parametrize("part", ["phisight-cache", MODEL.hex()])
def test_a_folder_that_cannot_be_read_is_not_called_empty(
    cache: DiskCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    part: str,
) -> None:
    scandir = os.scandir

    def refused(path):  # type: ignore[no-untyped-def]
        if Path(path).name == part:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    code, told = run(str(tmp_path), *option)
    assert code == 2
    assert "cannot be read (Permission denied)" in told
    assert NAME in cache


NO_FOLDERS = {"": "name a folder", "~nouserx/a": "home", "a\0b": "cannot be"}


@pytest.mark.parametrize("folder", NO_FOLDERS)
def test_what_is_no_folder_is_refused_in_a_line(folder: str) -> None:
    with pytest.raises(OptionError, match=NO_FOLDERS[folder]):
        DiskCache(folder, 2**20, MODEL)
    assert run(folder)[0] == 2


def test_a_folder_that_is_gone_when_it_is_looked_at_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "lstat", stale)
    with pytest.raises(OptionError, match="cannot be made"):
        DiskCache(tmp_path, 2**20, MODEL)


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EROFS])
def test_a_folder_that_is_only_read_and_holds_nothing_of_the_model_costs_a_line(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    mkdir = os.mkdir

    def refused(path, *mode):  # type: ignore[no-untyped-def]
        if Path(path).name == (b"n" * 16).hex():
            raise OSError(fault, os.strerror(fault))
        mkdir(path, *mode)

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.warns(PhisightWarning, match="nothing is kept for this model") as told:
        other = DiskCache(tmp_path, 2**20, b"n" * 16)
        put(other, NAME)
    assert len(told) == 1
    assert NAME not in other
    assert other.read(NAME, 4000) is None
    assert not other.takes(1)
