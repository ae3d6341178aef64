"""From process start to the first token, each start in a process of its own.

    python benchmarks/startup.py [MODEL | full] [ROUNDS] [fused]

Names what takes the time: interpreter, torch, our imports, tokenizer, weights, cache, first answer.
`full` writes the 4.1 B parameters to a temporary folder first. The ceiling of the weights is what
plain reads of their files, in the page cache, reach in the same run, by as many threads.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from random_model import FILES, fill
from record import record, spread

from phisight.config import read_model_config
from phisight.model import staging
from phisight.model.phi3v import Phi3V
from phisight.model.weights import save_model

ROOT = Path(__file__).parents[1]
CHART = ROOT / "examples" / "chart.png"
# Times are of the wall clock, since processes do not share another; `began` is the parent's.
CHILD = """
import sys, time
folder, picture, began, fused = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] == "True"
marks = {"interpreter": time.time()}
def mark(name): marks[name] = time.time()
import torch
mark("torch")
import phisight.api
mark("imports")
if torch.cuda.is_available():
    torch.zeros(1, device="cuda")
    mark("device")
from phisight import api
def timed(name, function):
    def run(*given, **named):
        result = function(*given, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        mark(name)
        return result
    return run
api.Processor = timed("tokenizer", api.Processor)
api.load_model = timed("weights", api.load_model)
model = phisight.load(folder, fused=fused)
mark("cache")
model.ask("What is this?", [picture], max_tokens=1)
mark("first token")
import json
names = list(marks)
times = [began, *marks.values()]
parts = {name: b - a for name, a, b in zip(names, times, times[1:])}
print(json.dumps(parts | {"all": times[-1] - began}))
"""


def start(folder: Path, fused: bool) -> dict[str, float]:
    words = ["-c", CHILD, str(folder), str(CHART), repr(time.time()), str(fused)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def read_rate(files: list[Path]) -> float:
    """Bytes per second of plain reads of files, side by side, the second time over."""
    size, piece = sum(file.stat().st_size for file in files), 4 * 2**20
    readers = staging._READERS if torch.cuda.is_available() else 1
    for _ in range(2):
        spans = [(f, at) for f in files for at in range(0, f.stat().st_size, piece)]
        began = time.perf_counter()
        threads = [
            threading.Thread(target=_read_spans, args=(spans[i::readers], piece))
            for i in range(readers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
    return size / seconds


def _read_spans(spans: list[tuple[Path, int]], piece: int) -> None:
    buffer = memoryview(bytearray(piece))
    for file, at in spans:
        with file.open("rb", buffering=0) as opened:
            opened.seek(at)
            opened.readinto(buffer)  # type: ignore[attr-defined]


def full_size(folder: Path) -> None:
    """The published model's shapes in bfloat16, its weights random."""
    for file in FILES.iterdir():
        if file.name != "model.safetensors.index.json":
            (folder / file.name).write_bytes(file.read_bytes())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        network = Phi3V(read_model_config(FILES)).to(torch.bfloat16)
    fill(network.to_empty(device=device))
    save_model(network.cpu(), folder / "model.safetensors")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "nano"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    fused = "fused" in sys.argv
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if name == "full":
            full_size(folder)
        else:
            folder = ROOT / "src/phisight/assets/nano" if name == "nano" else Path(name)
        files = sorted(folder.glob("*.safetensors"))
        size, rate = sum(file.stat().st_size for file in files), read_rate(files)
        runs = [start(folder, fused) for _ in range(rounds + 1)]
    later = runs[1:]
    figures: dict[str, Any] = {
        f"{part.replace(' ', '_')}_s": spread([run[part] for run in later]) for part in later[0]
    }
    record(
        "startup",
        model=name,
        fused=fused,
        threads=os.cpu_count(),
        first_start_s=round(runs[0]["all"], 2),
        **figures,
        read_gb_per_s=round(rate / 1e9, 2),
        weights_gb=round(size / 1e9, 3),
        share_of_read_rate=round(size / rate / statistics.median(r["weights"] for r in later), 3),
        bar="full size on CUDA at most 6 s, nano on 2 CPU cores at most 4 s",
    )


if __name__ == "__main__":
    main()
