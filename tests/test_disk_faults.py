"""Faults of the disk and of what is kept: they cost what is kept, never an answer or the engine."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import law
import micro
import pytest
import torch
from test_disk_law import answer, asking, engine_of, ids_of, picture
from test_loop import rest

from phisight.diskcache import writer
from phisight.diskcache.cache import DiskCache
from phisight.engine import loop as loop_module
from phisight.engine.cache import PagedCache
from phisight.engine.engine import Engine
from phisight.engine.kept import Kept
from phisight.engine.loop import EngineLoop
from phisight.engine.request import Token
from phisight.errors import PhisightWarning
from phisight.model.phi3v import Phi3V


@pytest.fixture(scope="module")
def small() -> Phi3V:
    return law.few_tokens(micro.network(micro.config()))


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network share that has gone: nothing in the cache's folder can be looked at."""
    look = os.stat

    def stat(path, *rest, **options):  # type: ignore[no-untyped-def]
        if "phisight-cache" in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return look(path, *rest, **options)

    monkeypatch.setattr(os, "stat", stat)
    yield
    monkeypatch.undo()


def broken(*_: object) -> None:
    raise ValueError("a fault of ours")


def test_files_that_cannot_be_looked_at_are_not_there(
    small: Phi3V, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Path.is_file raises what is neither ENOENT nor one of three others."""
    engine = engine_of(small, tmp_path)
    expected = ids_of(answer(engine, asking([7, 8], [picture()])))
    request.getfixturevalue("stale")
    assert ids_of(answer(engine, asking([7, 8], [picture()]))) == expected


def test_a_fault_in_keeping_is_a_printed_line(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking([7, 8], [picture()])
    expected = ids_of(answer(engine_of(small, tmp_path / "other"), request))
    engine = engine_of(small, tmp_path)
    monkeypatch.setattr(Kept, "_keep", broken)
    monkeypatch.setattr(Kept, "_keep_picture", broken)
    with pytest.warns(PhisightWarning, match=r"not kept .*ValueError"):
        assert ids_of(answer(engine, request)) == expected
    assert engine.scheduler.pool.num_free == engine.shape.num_blocks
    assert engine.images.num_needed == 0


def test_an_interrupt_while_keeping_frees_what_is_held(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    engine = engine_of(small, tmp_path)
    monkeypatch.setattr(Kept, "_keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(engine, asking([7, 8], [picture()]))
    engine.scheduler.check()
    assert engine.scheduler.pool.num_free == engine.shape.num_blocks
    assert engine.images.num_needed == 0


def test_nobody_waits_where_even_ending_requests_fails(
    small: Phi3V, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(small)
    loop, told = EngineLoop(engine), []
    monkeypatch.setattr(loop_module, "_LINGER", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "abort", broken)
        tickets = [loop.submit(asking([7, 8], [picture(number)])) for number in range(3)]

        def wait(ticket: int) -> None:
            try:
                rest(loop, ticket)
            except RuntimeError as error:
                told.append(str(error))

        threads = [threading.Thread(target=wait, args=(t,), daemon=True) for t in tickets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert told == ["the engine failed: ValueError: a fault of ours"] * 3
    assert not loop._by_id
    assert rest(loop, loop.submit(asking([7], []))), "and it goes on"
    for thread in list(loop._threads):
        thread.join(10)
        assert not thread.is_alive(), "it computes what nobody waits for"


FAULTS = [torch.OutOfMemoryError("CUDA out of memory"), OSError(errno.EIO, "Input/output error")]


@pytest.mark.parametrize("fault", FAULTS, ids=["memory", "disk"])
def test_a_fault_in_fetching_costs_reading_and_nobody_else(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Fetching is part of planning a step: it would end the answers of all."""
    request = asking([7, 8], [picture()])
    expected = ids_of(answer(engine_of(small, tmp_path), request))
    engine = engine_of(small, tmp_path)

    def half(cache: PagedCache, block: int, both: torch.Tensor) -> None:
        cache.keys[:, block] = torch.nan
        cache.values[:, block] = torch.nan
        raise fault

    told = pytest.warns(PhisightWarning) if isinstance(fault, OSError) else nullcontext()
    monkeypatch.setattr(PagedCache, "fill", half)
    with told:
        assert ids_of(answer(engine, request)) == expected, "a half-filled block is cleared"


@pytest.mark.parametrize("fault", FAULTS, ids=["memory", "disk"])
def test_a_picture_that_cannot_be_fetched_is_encoded(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    request = asking([7, 8], [picture()])
    expected = ids_of(answer(engine_of(small, tmp_path), request))
    engine = engine_of(small, tmp_path)

    def short(*_: object) -> None:
        raise fault

    told = pytest.warns(PhisightWarning) if isinstance(fault, OSError) else nullcontext()
    monkeypatch.setattr(DiskCache, "read", short)
    with told:
        assert ids_of(answer(engine, request)) == expected


class Copies:
    """Counts bytes copied out of the cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes, copied = 0, PagedCache.copied

        def counted(cache: PagedCache, block: int, count: int) -> torch.Tensor:
            both = copied(cache, block, count)
            self.bytes += both.nbytes
            return both

        monkeypatch.setattr(PagedCache, "copied", counted)


def test_nothing_is_copied_that_the_disk_may_not_hold(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, copies = engine_of(small, tmp_path, cache_disk=0.0), Copies(monkeypatch)
    with pytest.warns(PhisightWarning, match="raise cache_disk"):
        answer(engine, asking([7, 8], [picture(num_tokens=6)]))  # ends with a block: no part
    assert copies.bytes == 0
    assert not list(tmp_path.rglob("*.safetensors"))


def test_nothing_is_copied_that_would_wait_too_long(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, copies = engine_of(small, tmp_path), Copies(monkeypatch)
    monkeypatch.setattr(writer, "_MOST_BYTES", 1)
    with pytest.warns(PhisightWarning, match="written too slowly") as told:
        for number in range(3):
            answer(engine, asking([7, 8], [picture(number)]))
    assert len(told) == 1, "once"
    assert copies.bytes == 0


def test_a_stalled_disk_takes_one_thread(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, gate, touch = engine_of(small, tmp_path), threading.Event(), DiskCache.touch
    monkeypatch.setattr(writer, "_MOST_ORDERS", 3)
    monkeypatch.setattr(DiskCache, "touch", lambda *rest: gate.wait(20) and touch(*rest))
    monkeypatch.setattr(engine.kept, "wait", lambda: None)
    with pytest.warns(PhisightWarning, match="written too slowly"):
        for number in range(10):
            answer(engine, asking([7, 8], [picture(number)]))
    threads = [thread for thread in threading.enumerate() if thread.name == "phisight-disk"]
    assert len(threads) == 1
    assert engine.kept._writer is not None
    assert len(engine.kept._writer._orders) == 3
    gate.set()
    threads[0].join(20)
    assert not threads[0].is_alive()
    assert list(tmp_path.rglob("*.safetensors"))


def test_without_a_thread_nothing_is_written_and_the_answer_comes(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = engine_of(small, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.warns(PhisightWarning, match="no thread can be started"):
            assert answer(engine, asking([7, 8], [picture()]))
    assert not list(tmp_path.rglob("*.safetensors"))
    answer(engine, asking([7, 8], [picture()]))
    assert list(tmp_path.rglob("*.safetensors")), "later there are threads again"


def test_what_others_go_on_from_goes_after_them(small: Phi3V, tmp_path: Path) -> None:
    """Blocks are of use only with all those before them."""
    engine = engine_of(small, tmp_path)
    answer(engine, asking([7, 8], [picture(1)]))
    first = set(tmp_path.rglob("*.safetensors"))
    answer(engine, asking([7, 8], [picture(1), picture(2)]))
    later = set(tmp_path.rglob("*.safetensors")) - first
    used = {path: path.stat().st_mtime_ns for path in first | later}
    prefix = [used[path] for path in first if path.name.startswith("74")]  # all but the part
    suffix = [used[path] for path in later if path.name.startswith("74")]
    assert suffix
    assert min(prefix) > max(suffix)


def test_what_is_read_as_the_interpreter_ends_is_written(tmp_path: Path) -> None:
    """Python starts no thread then, or does not wait for it."""
    script = (
        "import atexit, sys\n"
        "from phisight.diskcache.cache import DiskCache\n"
        "from phisight.diskcache.writer import Order, Writer\n"
        "from safetensors.torch import save\n"
        "import torch\n"
        "disk = DiskCache(sys.argv[1], 2**20, b'm' * 16)\n"
        "writer = Writer(disk)\n"
        "files = [(b'name', save({'kept': torch.ones(1000)}))]\n"
        "order = Order(iter(files), {b'name': 4000}, [])\n"
        "atexit.register(lambda: writer.put(order))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept.suffix == ".safetensors"


def test_what_is_fetched_counts_as_read_in_its_step(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading from disk takes time too, and all who run wait for it."""
    requests = [asking([7, 8], [picture(number, num_tokens=14)]) for number in (1, 2, 3)]
    expected = []
    for request in requests:
        expected.append(ids_of(answer(engine_of(small, tmp_path), request)))
    engine, fetched, told = engine_of(small, tmp_path, chunk_tokens=10), [0], {}
    fill = PagedCache.fill

    def counted(cache: PagedCache, block: int, both: torch.Tensor) -> None:
        fetched[-1] += both.shape[3]
        fill(cache, block, both)

    monkeypatch.setattr(PagedCache, "fill", counted)
    for request in requests:
        told[engine.add(request)] = []
    while not engine.is_idle:
        for output in engine.step():
            assert isinstance(output.result, Token), output.result
            told[output.request_id].append(output.result.token_id)
        engine.scheduler.check()
        fetched.append(0)
    assert list(told.values()) == expected
    assert [count for count in fetched if count] == [16, 16, 16], "one prompt's in a step"


def test_blocks_that_are_lent_are_blank_whatever_a_step_reads(
    small: Phi3V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose budget went into fetching reads nothing, and may break off at any point."""
    request = asking([7, 8], [picture(1, num_tokens=14)])
    expected = ids_of(answer(engine_of(small, tmp_path), request))
    engine = engine_of(small, tmp_path, chunk_tokens=10)
    cache = engine.kept._cache
    for store in (cache.keys, cache.values):
        store.fill_(torch.nan)
    assert ids_of(answer(engine, request)) == expected
