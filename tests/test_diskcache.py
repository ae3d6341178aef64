"""The folder of a cache on disk: what is written whole, found again, refused, and cleared away."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from test_cli import phi

from phisight.diskcache import cache as diskcache
from phisight.diskcache.cache import DiskCache
from phisight.diskcache.files import entries
from phisight.errors import OptionError, PhisightWarning

MODEL, NAME, MOST = b"m" * 16, b"t\x01\x02", 4000
KIB = 2**10


def blob(value: float = 1.0, size: int = 100) -> bytes:
    return save({"kept": torch.full((size,), value)})


def put(cache: DiskCache, name: bytes, value: float = 1.0, size: int = 100) -> None:
    cache.write([(name, blob(value, size))], 4 * size)


def value_of(found: bytes | None) -> float | None:
    return None if found is None else float(load(found)["kept"][0])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path, 2**20, MODEL)


@pytest.fixture
def stored(cache: DiskCache, tmp_path: Path) -> Path:
    """The one file of the cache."""
    put(cache, NAME)
    (path,) = files(tmp_path)
    return path


def test_what_is_written_is_found_by_its_name(cache: DiskCache, stored: Path) -> None:
    assert value_of(cache.read(NAME, MOST)) == 1.0
    assert NAME in cache
    assert b"other" not in cache
    assert cache.read(b"other", MOST) is None


def test_files_are_plain_safetensors_that_only_the_user_can_read(stored: Path) -> None:
    with safe_open(stored, framework="pt") as file:
        assert file.metadata()["format"] == "phisight 1"
        assert torch.equal(file.get_tensor("kept"), torch.ones(100))
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    for folder in (stored.parent, stored.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(DiskCache(tmp_path / "a" / "b", 2**20, MODEL), NAME)
    finally:
        os.umask(before)
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def header(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def relabelled(data: bytes, **labels: str) -> bytes:
    tensors = json.loads(data[8 : header(data)])
    tensors["__metadata__"] |= labels
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data[header(data) :]


DAMAGES = {
    "empty": lambda data: b"",
    "torn header": lambda data: data[:50],
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "much longer": lambda data: data + bytes(2**21),
    "a bit of the data": lambda data: flipped(data, len(data) - 5),
    "a bit of the header": lambda data: flipped(data, data.index(b"F32") + 1),
    "a huge header": lambda data: b"\xff" * 7 + b"\x7f" + data[8:],
    "no JSON": lambda data: data[:8] + b"\0" * (header(data) - 8) + data[header(data) :],
    "deep JSON": lambda data: (200_000).to_bytes(8, "little") + b"[" * 200_000,
    "no hash": lambda data: data.replace(b'"hash"', b'"hasH"'),
    "JSON of another kind": lambda data: (2).to_bytes(8, "little") + b"[]" + data,
    "no labels": lambda data: blob(),
    "another version's": lambda data: relabelled(data, format="phisight 0"),
    "a pickle": lambda data: b"\x80\x04\x95" + data,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_used_but_removed_and_told_of(
    cache: DiskCache, stored: Path, damage: str
) -> None:
    stored.write_bytes(DAMAGES[damage](stored.read_bytes()))
    with pytest.warns(PhisightWarning, match="is not used, and removed: it"):
        assert cache.read(NAME, MOST) is None
    assert not stored.exists()
    put(cache, NAME, 2.0)
    assert value_of(cache.read(NAME, MOST)) == 2.0


def test_another_models_file_under_this_name_is_not_used(
    cache: DiskCache, stored: Path, tmp_path: Path
) -> None:
    put(DiskCache(tmp_path, 2**20, b"n" * 16), NAME, 3.0)
    (other,) = (path for path in files(tmp_path) if path.parent != stored.parent)
    stored.write_bytes(other.read_bytes())
    with pytest.warns(PhisightWarning, match="another model"):
        assert cache.read(NAME, MOST) is None


def test_a_file_under_anothers_name_is_not_used(cache: DiskCache, stored: Path) -> None:
    stored.rename(stored.with_name(b"t\x01\x03".hex() + ".safetensors"))
    with pytest.warns(PhisightWarning, match="another model or by another version"):
        assert cache.read(b"t\x01\x03", MOST) is None


def test_a_link_is_not_followed(cache: DiskCache, stored: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(stored.read_bytes())
    stored.unlink()
    stored.symlink_to(elsewhere)
    with pytest.warns(PhisightWarning, match="no regular file"):
        assert cache.read(NAME, MOST) is None
    assert not stored.is_symlink()
    assert elsewhere.exists()


def test_a_pipe_is_not_waited_for(cache: DiskCache, stored: Path) -> None:
    stored.unlink()
    os.mkfifo(stored)
    with pytest.warns(PhisightWarning, match="no regular file"):
        assert cache.read(NAME, MOST) is None


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "phisight-cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match="links are not followed"):
        DiskCache(tmp_path, 2**20, MODEL)


def test_folders_that_others_can_read_are_refused(cache: DiskCache, tmp_path: Path) -> None:
    (tmp_path / "phisight-cache").chmod(0o755)
    with pytest.raises(OptionError, match="others can read .* chmod 700"):
        DiskCache(tmp_path, 2**20, MODEL)


def test_anothers_folder_is_refused(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(OptionError, match="belongs to another user"):
        DiskCache(tmp_path, 2**20, MODEL)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"cache_dir='.*file': cannot be made"):
        DiskCache(str(tmp_path / "file"), 2**20, MODEL)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * KIB, MODEL)
    names = [bytes([number]) * 3 for number in range(4)]
    for name in names[:2]:
        put(cache, name, size=KIB)  # 4 KiB, and 200 bytes of header
    cache.touch([names[0]])
    put(cache, names[2], size=KIB)
    assert [name in cache for name in names] == [True, False, True, False]
    assert sum(entry.size for entry in entries(tmp_path / "phisight-cache")) <= 10 * KIB


def test_of_one_prompt_the_end_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * KIB, MODEL)
    names = [bytes([number]) * 3 for number in range(3)]
    cache.write([(name, blob(size=KIB)) for name in names[:2]], 8 * KIB)
    put(cache, names[2], size=KIB)
    assert [name in cache for name in names] == [True, False, True]


def test_the_bound_is_of_all_models_together(tmp_path: Path) -> None:
    first, second = (DiskCache(tmp_path, 6 * KIB, model) for model in (b"a" * 16, b"b" * 16))
    put(first, NAME, size=KIB)
    put(second, NAME, size=KIB)
    assert NAME not in first
    assert NAME in second


def test_what_is_larger_than_the_bound_is_told_of_and_not_kept(
    cache: DiskCache, stored: Path
) -> None:
    with pytest.warns(PhisightWarning, match="2 MiB of one prompt .* raise cache_disk"):
        cache.write(iter(()), 2 * 2**20)
    assert NAME in cache, "and nothing goes for it"


def test_others_files_are_never_touched(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 5 * KIB, MODEL)
    mine = [tmp_path / "scan.png", tmp_path / "phisight-cache" / "notes.txt"]
    mine.append(tmp_path / "phisight-cache" / MODEL.hex() / "thesis.safetensors")
    for path in mine:
        path.write_bytes(bytes(10 * KIB))
    put(cache, NAME, size=KIB)
    put(cache, b"another", size=KIB)
    assert all(path.stat().st_size == 10 * KIB for path in mine)
    assert b"another" in cache


def test_what_a_crash_left_unfinished_goes_in_time(cache: DiskCache, stored: Path) -> None:
    old, new = (stored.with_name(f".{digit * 16}.part") for digit in "ab")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    put(cache, b"another")
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"


class Full:
    """Stands in for a file on a disk that takes some bytes and no more."""

    def __init__(self, descriptor: int, *_: object, **__: object) -> None:
        self._file = open(descriptor, "wb")  # noqa: SIM115

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        self._file.write(piece[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(diskcache.os, "fdopen", Full)
    yield
    monkeypatch.undo()


def test_a_full_disk_is_a_printed_line(cache: DiskCache, tmp_path: Path, full_disk: None) -> None:
    with pytest.warns(PhisightWarning, match=r"nothing more is kept \(No space left on device\)"):
        put(cache, NAME)
    assert NAME not in cache
    assert not files(tmp_path), "no half of a file"


def test_a_warning_made_an_error_fails_nothing(
    cache: DiskCache, full_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("warnings.showwarning", lambda message, *_: said.append(str(message)))
    put(cache, NAME)  # pytest makes warnings errors
    assert len(said) == 1
    assert "No space left" in said[0]


def test_a_folder_that_is_only_read_serves(
    cache: DiskCache, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    reopened = DiskCache(stored.parents[2], 2**20, MODEL)
    monkeypatch.setattr(diskcache.os, "utime", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    assert value_of(reopened.read(NAME, MOST)) == 1.0
    reopened.touch([NAME])
    real = os.open
    monkeypatch.setattr(
        diskcache.os, "open", lambda *a: refused() if a[1] & os.O_CREAT else real(*a)
    )
    with pytest.warns(PhisightWarning, match="Read-only file system"):
        put(reopened, b"another")


def test_an_unreadable_file_is_told_of(
    cache: DiskCache, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(diskcache.os, "open", broken)
    with pytest.warns(PhisightWarning, match=r"cannot be read \(Input/output error\)"):
        assert cache.read(NAME, MOST) is None


WORKER = """
import random, sys, torch
from safetensors.torch import load, save
from test_cli import phi
from phisight.diskcache.cache import DiskCache
cache = DiskCache(sys.argv[1], 40 * 1024, b"m" * 16)
draw, read = random.Random(sys.argv[2]), 0
for _ in range(150):
    name = bytes([draw.randrange(19)]) * 3
    found = cache.read(name, 10**6)
    if found is not None:
        assert load(found)["kept"].unique().tolist() == [float(name[0])]
        read += 1
    cache.write([(name, save({"kept": torch.full((1024,), float(name[0]))}))], 4096)
print(read)
"""


def test_processes_share_a_folder_while_it_overflows(tmp_path: Path) -> None:
    """Three write and read the same names in a folder that holds half of them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path)]
    running = [
        subprocess.Popen([*command, seed], env=environment, stdout=-1, stderr=-1, text=True)
        for seed in ("3", "5", "7")
    ]
    done = [(process.communicate(), process.returncode) for process in running]
    for (out, err), code in done:
        assert (code, err) == (0, "")
        assert int(out) > 0
    # Each may have made room beside the others: by one file at most each.
    kept = list(entries(tmp_path / "phisight-cache"))
    assert sum(entry.size for entry in kept) <= 43 * KIB + 3 * 5 * KIB
    assert all(path.suffix == ".safetensors" for path in files(tmp_path))


KILLED = """
import json, sys
from phisight.diskcache.cache import DiskCache
header = json.dumps({"kept": {"dtype": "U8", "shape": [200000], "data_offsets": [0, 200000]}})
blob = len(header).to_bytes(8, "little") + header.encode() + bytes(200000)
cache = DiskCache(sys.argv[1], 10**9, b"m" * 16)
number = 0
while True:
    cache.write([(number.to_bytes(4, "big"), blob)], len(blob))
    number += 1
    print(number, flush=True)
"""


def test_a_killed_process_leaves_no_half_under_a_name(cache: DiskCache, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    for _ in range(3):
        with subprocess.Popen(command, env=environment, stdout=-1, text=True) as process:
            assert process.stdout is not None
            assert any(line == "6\n" for line in process.stdout)
            process.kill()
    names = [bytes.fromhex(path.stem) for path in files(tmp_path) if path.suffix == ".safetensors"]
    assert len(names) >= 6
    for name in names:
        assert cache.read(name, 200_000) is not None


def test_the_command_tells_what_is_kept_and_clears_it(tmp_path: Path) -> None:
    first, second = (DiskCache(tmp_path, 2**20, model) for model in (b"a" * 16, b"b" * 16))
    put(first, NAME, size=KIB)
    put(second, NAME, size=KIB)
    put(second, b"another", size=KIB)
    notes = tmp_path / "phisight-cache" / "notes.txt"
    notes.write_text("mine")
    record = json.loads(phi("cache", str(tmp_path), "--json").stdout)
    assert [group["files"] for group in record["models"]] == [2, 1]
    assert record["bytes"] == sum(path.stat().st_size for path in files(tmp_path)) - 4
    done = phi("cache", str(tmp_path))
    assert done.stdout.startswith(f"{(b'b' * 16).hex()}       2 files")
    assert "14 kB kept in" in done.stderr.replace("\n", " ")
    assert "14 kB removed in" in phi("cache", str(tmp_path), "--clear").stderr.replace("\n", " ")
    assert files(tmp_path) == [notes]
    assert "keeps nothing" in phi("cache", str(tmp_path)).stderr
    put(second, NAME)
    assert NAME in second, "whoever has it open goes on"
    assert phi("cache", str(tmp_path / "nowhere")).returncode == 2
