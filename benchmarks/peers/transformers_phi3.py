"""transformers' Phi3ForCausalLM in bfloat16, SDPA. Usage: transformers_phi3.py FOLDER [PROMPT ...]

Needs, in an environment of its own: transformers==5.23.0 torch==2.13.0, and a folder made by
`make_hf.py W/hf 32`.
"""

from __future__ import annotations

import sys
import time

import torch
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report
from transformers import AutoModelForCausalLM

torch.set_num_threads(2)


@torch.inference_mode()
def main() -> None:
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    loaded = time.perf_counter() - began
    ids = torch.randint(3, 32000, (1, 4096), generator=torch.Generator().manual_seed(0))

    def read(start: int, stop: int, cache: object = None) -> tuple[object, float]:
        began = time.perf_counter()
        out = model(ids[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.past_key_values, time.perf_counter() - began

    read(0, 16)
    prefill = {prompt: read(0, prompt)[1] for prompt in [int(w) for w in sys.argv[2:]] or PROMPTS}
    cache, _ = read(0, CONTEXT)
    steps = []
    for i in range(CONTEXT, CONTEXT + NEW_TOKENS):
        cache, seconds = read(i, i + 1, cache)
        steps.append(seconds)
    report(loaded, prefill, steps, note="bfloat16, SDPA")


if __name__ == "__main__":
    main()
