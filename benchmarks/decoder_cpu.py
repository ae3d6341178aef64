"""Prompts read and tokens written on two threads, by us and by others, interleaved.

    python benchmarks/decoder_cpu.py ROUNDS 'NAME=COMMAND' ...

Random weights of the full decoder's size. Every command is one of `peers/`, in its own environment:
"int4=.venv/bin/python benchmarks/peers/ours.py W/int4", "llama.cpp Q4_0=W/llama/bin/python
benchmarks/peers/llama.py W/q4_0.gguf 0". All run once a round, each in a process of its own; what a
command prints last is its figures.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from record import record

GIB = 2**30


def read_rate() -> float:
    """Bytes a second that two threads read, of 1 GiB: the most a decode step could."""
    data = torch.ones(GIB // 8, dtype=torch.int64)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - began)
    return GIB / min(times)


def run(command: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        shlex.split(command), stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    torch.set_num_threads(2)
    rounds = int(sys.argv[1])
    commands = dict(word.split("=", 1) for word in sys.argv[2:])
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    rates = []
    for _ in range(rounds):
        rates.append(read_rate())
        for name, command in commands.items():
            seen[name].append(run(command))
            print(name, seen[name][-1], file=sys.stderr, flush=True)
    for name, lines in seen.items():
        record(
            "decoder_cpu",
            engine=name,
            rounds=rounds,
            note=lines[0]["note"],
            prefill_tok_per_s={
                prompt: _spread([line["prefill_tok_per_s"][prompt] for line in lines])
                for prompt in lines[0]["prefill_tok_per_s"]
            },
            decode_tok_per_s=_spread([line["decode_tok_per_s"] for line in lines]),
            load_s=_spread([line["load_s"] for line in lines]),
            peak_gib=_spread([line["peak_gib"] for line in lines]),
            read_gb_per_s=round(statistics.median(rates) / 1e9, 1),
        )


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return {"min": round(ordered[0], 2), "p50": round(middle, 2), "max": round(ordered[-1], 2)}


if __name__ == "__main__":
    main()
