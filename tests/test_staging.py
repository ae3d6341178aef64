"""Reading tensors: what an interrupt ends, and headers that are not what they were."""

import json
import signal
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from phisight.errors import CheckpointError
from phisight.model import staging
from phisight.model.staging import Wanted, read_tensors

CPU = torch.device("cpu")


def test_an_interrupt_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, began, go_on = tmp_path / "a.safetensors", threading.Event(), threading.Event()
    file.write_bytes(save({"a": torch.zeros(1000)}))
    monkeypatch.setattr(staging, "_PIECE", 40)  # 100 pieces
    read, reads = staging._read, []

    def held(*rest):  # type: ignore[no-untyped-def]
        reads.append(rest)
        began.set()
        assert go_on.wait(20)
        return read(*rest)

    drain = staging._drain
    monkeypatch.setattr(staging, "_read", held)
    monkeypatch.setattr(staging, "_drain", lambda pieces: (drain(pieces), go_on.set()))

    def interrupt() -> None:
        began.wait(20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        read_tensors({"a": Wanted(file, torch.float32)}, CPU)
    thread.join()
    assert len(reads) == 1


def with_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(8)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "longer than the file": with_header(b"{}", 2**62),
    "no JSON": with_header(b"{"),
    "too deep": with_header(b"[" * 100_000),
    "another tensor": with_header(json.dumps({"b": ENTRY}).encode()),
    "no offsets": with_header(json.dumps({"a": {"dtype": "F32", "shape": [2]}}).encode()),
    "a list": with_header(b"[]"),
    "no list of offsets": with_header(json.dumps({"a": ENTRY | {"data_offsets": 0}}).encode()),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_is_told_of(tmp_path: Path, header: str) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(HEADERS[header])
    with pytest.raises(CheckpointError, match="its header"):
        read_tensors({"a": Wanted(file, torch.float32)}, CPU)
