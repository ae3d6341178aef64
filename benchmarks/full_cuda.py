"""The full 4.1 B model on a CUDA device in bfloat16: load, and one picture at 16 crops.

    python tests/reference/make_checkpoint.py FOLDER --preset full --files tests/data/phi3v
    python benchmarks/full_cuda.py FOLDER [ROUNDS]

Prints what memory traffic and arithmetic would allow beside what was reached.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from ceilings import copy_rate
from PIL import Image
from record import record, spread

import phisight

NEW_TOKENS = 64
PICTURE = Path(__file__).parents[1] / "examples" / "chart.png"


def main() -> None:
    folder = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    ceiling = copy_rate()
    torch.cuda.empty_cache()
    began = time.perf_counter()
    # Nothing found again from the round before.
    unkept = {"prefix_cache": False, "image_memory": 0.0}
    model = phisight.load(folder, device="cuda", num_crops=16, **unkept)
    torch.cuda.synchronize()
    loaded = time.perf_counter() - began
    with Image.open(PICTURE) as picture:
        prompt = model.processor.prompt("What is this?", [picture.convert("RGB")])
    answers = [
        model.ask(prompt, max_tokens=NEW_TOKENS, temperature=1.0, seed=1) for _ in range(rounds + 1)
    ][1:]
    steps = [a.timings.decode / max(1, a.usage.completion_tokens - 1) for a in answers]
    moved = model.network.bytes_per_step(1, len(prompt.ids))
    record(
        "full_cuda",
        placement=str(model.placement),
        prompt_tokens=len(prompt.ids),
        crops=len(prompt.images[0].pixels),
        load_s=round(loaded, 2),
        memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
        vision_s=spread([a.timings.vision for a in answers]),
        prefill_s=spread([a.timings.prefill for a in answers]),
        step_s=spread(steps),
        decode_tok_per_s=round(1 / min(steps), 1),
        ceiling_tok_per_s=round(ceiling / moved, 1),
        copy_gb_per_s=round(ceiling / 1e9),
        different_answers_of_one_seed=len({answer.token_ids for answer in answers}),
        prompt_tflop=round(
            model.network.flops(len(prompt.ids), len(prompt.images[0].pixels)) / 1e12, 1
        ),
    )


if __name__ == "__main__":
    main()
