"""phisight as one of the peers: `decoder_cpu.py` runs it. Usage: ours.py FOLDER [PROMPT ...]"""

from __future__ import annotations

import random
import sys
import time

import torch
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report

import phisight
from phisight.engine.request import Request
from phisight.params import SamplingParams

torch.set_num_threads(2)


def main() -> None:
    began = time.perf_counter()
    model = phisight.load(sys.argv[1], device="cpu", kv_memory=2.0, chunk_tokens=4096)
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
    prompts = [int(word) for word in sys.argv[2:]] or PROMPTS
    prefill = {prompt: sum(ask(prompt, 1)) for prompt in prompts}
    steps = ask(CONTEXT, NEW_TOKENS + 1)[-NEW_TOKENS:]
    report(loaded, prefill, steps, note=str(model.placement))


if __name__ == "__main__":
    main()
