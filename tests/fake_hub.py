"""A model hub on the loopback: what huggingface_hub's session asks of the real one, and its faults.

Large files are answered by a redirect to another origin, as the real one does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from phisight.hub.pull import pull

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = "model.safetensors"


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0


@dataclass
class FakeHub:
    """`folder` is served as `hub_id`; the other fields are faults to set."""

    folder: Path
    hub_id: str = "someone/micro"
    commit: str = COMMIT
    url: str = ""
    status: int = 200
    error_code: str | None = None
    api_body: bytes | None = None
    cuts: list[int] = field(default_factory=list)  # weights: bytes sent before each hang-up
    weights_statuses: list[int] = field(default_factory=list)  # weights: answered before the file
    stall_after: int | None = None  # weights: bytes sent before silence, 0 of a rest
    corrupt: str | None = None  # the name of a file sent with another first byte
    longer: str | None = None  # the name of a file sent with a byte too many
    drip: str | None = None  # the end of a path whose bytes come one by one
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)

    def of(self, name: str) -> list[Request]:
        """The requests for a file's bytes, redirects left out."""
        return [r for r in self.requests if r.path.endswith(f"/{name}") and "/cdn/" in r.path]

    def sibling(self, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"rfilename": path.name, "size": len(data), "blobId": git}
        if path.suffix == ".safetensors":
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
        return entry

    def info(self) -> bytes:
        siblings = [self.sibling(path) for path in sorted(self.folder.iterdir())]
        siblings.append({"rfilename": "onnx/model.json", "size": 3, "blobId": "0" * 40})
        record = {"id": self.hub_id, "sha": self.commit, "siblings": siblings, "tags": []}
        return json.dumps(record).encode()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == "/api/agent-harnesses":  # once a day, by a thread of huggingface-hub's own
                self.answer(404, b"")
                return
            headers = self.headers
            request = Request("GET", path, headers["Range"], headers["Authorization"])
            hub.requests.append(request)
            if path.startswith("/api/models/"):
                known = path.startswith(f"/api/models/{hub.hub_id}/revision/")
                body = hub.info() if hub.api_body is None else hub.api_body
                self.answer(hub.status if known else 404, body)
            elif path.startswith("/cdn/"):
                if path.endswith(".safetensors") and hub.weights_statuses:
                    self.answer(hub.weights_statuses.pop(0), b"")
                else:
                    self.stream(hub.folder / Path(path).name, request)
            else:
                port = urlsplit(hub.url).port
                self.answer(302, b"", f"http://localhost:{port}/cdn/{Path(path).name}")

        def answer(self, status: int, body: bytes, location: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            if location:
                self.send_header("Location", location)
            if status >= 400 and hub.error_code:
                self.send_header("X-Error-Code", hub.error_code)
            self.end_headers()
            self.write(body)

        def write(self, body: bytes) -> None:
            if not (hub.drip and urlsplit(self.path).path.endswith(hub.drip)):
                self.wfile.write(body)
                return
            with contextlib.suppress(OSError):  # the other side has had enough
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    if hub.released.wait(0.02):
                        return

        def stream(self, path: Path, request: Request) -> None:
            data = path.read_bytes()
            if path.name == hub.corrupt:
                data = bytes([data[0] ^ 1]) + data[1:]
            if path.name == hub.longer:
                data += b"!"
            start = 0
            if request.range and hub.ranges:
                start = int(request.range.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("Connection", "close")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            part = data[start:]
            if path.suffix == ".safetensors" and hub.cuts:
                part = part[: hub.cuts.pop(0)]
            elif path.suffix == ".safetensors" and hub.stall_after is not None:
                part = b"" if start else part[: hub.stall_after]
                request.sent = len(part)  # before the client can have it and look
                self.wfile.write(part)
                hub.stalled.set()
                hub.released.wait(20)
                return
            request.sent = len(part)
            self.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join(10)
        server.server_close()


class Told:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.here = self.total = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def start(self, have: int, total: int) -> None:
        self.here, self.total = have, total

    def advance(self, num_bytes: int) -> None:
        self.here += num_bytes


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in those it starts."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def fetched(name: str = "someone/micro", **options: object) -> Told:
    told = Told()
    pull(name, progress=told, **options)  # type: ignore[arg-type]
    return told


def phi(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, with more environment."""
    command = [sys.executable, "-m", "phisight", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr
    return done


def cached(root: Path, hub_id: str, commit: str, source: Path, *, main: bool = True) -> Path:
    """A model in the cache, as huggingface_hub lays it out."""
    repo = root / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copy(file, repo / "blobs" / f"{commit[:7]}-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/{commit[:7]}-{file.name}")
    if main:
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
    return snapshot
