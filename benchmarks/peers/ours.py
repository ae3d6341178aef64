"""phisight as one of the peers: `decoder_cpu.py` runs it.

Usage: ours.py FOLDER [--activations int8] [PROMPT ...]
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report

import phisight
from phisight.engine.request import Request
from phisight.params import SamplingParams

torch.set_num_threads(2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("prompts", nargs="*", type=int, default=PROMPTS)
    parser.add_argument("--activations")
    chosen = parser.parse_intermixed_args()
    began = time.perf_counter()
    model = phisight.load(
        chosen.folder,
        device="cpu",
        activations=chosen.activations,
        kv_memory=2.0,
        chunk_tokens=4096,
    )
    loaded = time.perf_counter() - began
    engine = model._loop._engine  # of this thread alone: nothing else is asked meanwhile
    words = random.Random(0)

    def ask(prompt: int, tokens: int) -> list[float]:
        """Seconds of every step."""
        ids = words.choices(range(3, 32000), k=prompt)
        engine.add(Request(ids, [], SamplingParams(max_tokens=tokens), frozenset()))
        steps = []
        while not engine.is_idle:
            start = time.perf_counter()
            engine.step()
            steps.append(time.perf_counter() - start)
        return steps

    ask(16, 2)
    prefill = {prompt: sum(ask(prompt, 1)) for prompt in chosen.prompts}
    steps = ask(CONTEXT, NEW_TOKENS + 1)[-NEW_TOKENS:]
    report(loaded, prefill, steps, note=str(model.placement))


if __name__ == "__main__":
    main()
