"""First token and decode speed of the full size on a CUDA device, through the public API.

    python benchmarks/latency.py [ROUNDS] [BATCH ...]

Weights are drawn on the device. Beside each figure stands what memory traffic would allow: the
bytes of a step over what a copy reaches in the same run.
"""

from __future__ import annotations

import statistics
import sys

import torch
from ceilings import copy_rate
from PIL import Image
from random_model import random_model
from record import record, spread

from phisight.params import EngineConfig

NEW_TOKENS = 128
SIZE = (1344, 1344)  # 16 crops, 2,509 image tokens


def picture(number: int) -> Image.Image:
    """No two alike."""
    image = Image.new("RGB", SIZE, (number % 256, number // 256, 99))
    image.paste((200, 30, 40), (100, 100, 700, 900))
    return image


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    batches = [int(word) for word in sys.argv[2:]] or [1, 8, 32]
    rate = copy_rate()
    torch.cuda.empty_cache()
    model = random_model(EngineConfig(max_batch=max(batches), kv_memory=45, fused=True))
    fresh = iter(range(1, 10**6))
    options = {"max_tokens": NEW_TOKENS, "ignore_eos": True}
    first, again, cached = [], [], []
    for _ in range(rounds + 2):
        image = picture(next(fresh))
        answers = [model.ask(text, [image], max_tokens=1) for text in ("What is it?", "And now?")]
        encoded = model.encode_image(picture(next(fresh)))
        answers.insert(1, model.ask("What is it?", [encoded], max_tokens=1))
        for times, answer in zip((first, again, cached), answers, strict=True):
            times.append(answer.timings.vision + answer.timings.prefill)
    record(
        "latency",
        what="first token, one picture of 16 crops, beyond preparation",
        prompt_tokens=answers[0].usage.prompt_tokens,
        cold_s=spread(first[2:]),
        embedding_cached_s=spread(again[2:]),
        prefix_cached_s=spread(cached[2:]),
    )
    for batch in batches:
        steps = []
        for _ in range(rounds + 1):
            rows = [
                {"prompt": "Describe it.", "images": [picture(next(fresh))], **options}
                for _ in range(batch)
            ]
            model.ask_many(rows)
            # Once more, with every prompt found again: all begin in the same step.
            answers = model.ask_many(rows)
            steps.append(min(a.timings.decode for a in answers) / (NEW_TOKENS - 1))
        steps = steps[1:]
        context = answers[0].usage.prompt_tokens + NEW_TOKENS // 2
        least = model.network.bytes_per_step(batch, context) / rate
        record(
            "latency",
            what="decode",
            batch=batch,
            context=context,
            step_s=spread(steps),
            tok_per_s=round(batch / statistics.median(steps), 1),
            ceiling_tok_per_s=round(batch / least, 1),
            share=round(least / statistics.median(steps), 3),
            copy_gb_per_s=round(rate / 1e9),
            memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
        )


if __name__ == "__main__":
    main()
