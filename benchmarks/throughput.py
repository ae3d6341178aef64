"""Requests side by side: tokens a second together, at several numbers of running ones.

    GOMP_SPINCOUNT=2000 python benchmarks/throughput.py [MODEL] [TOKENS] [CONCURRENCY ...] [fused]

Three loads: questions of text; all about one picture; each about a picture of its own. Every answer
has the same number of tokens. One at a time is the same engine with max_batch=1. `random` is the
full size on CUDA, with as many requests as run; then the least time of the same work stands beside
(multiply-adds by the rate of a product, bytes of decode steps by that of a copy, both measured in
the run), and transformers' own Phi3 with prompts of as many tokens.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings, measured
from PIL import Image
from random_model import random_model
from record import record

import phisight
from phisight.params import EngineConfig

REQUESTS = 32
CHART = Path(__file__).parents[1] / "examples" / "chart.png"


def pictures(count: int, side: int | None) -> list[Image.Image]:
    """No two alike, all of one size."""
    with Image.open(CHART) as opened:
        chart = opened.convert("RGB")
    chart = chart.resize((side, side)) if side else chart
    made = []
    for number in range(count + 1):
        picture = chart.copy()
        picture.paste((number * 8 % 256, number // 32, 0), (0, 0, 8, 8))
        made.append(picture)
    return made


def loads(shown: list[Image.Image], tokens: int) -> dict[str, list[dict[str, Any]]]:
    options = {"max_tokens": tokens, "ignore_eos": True}
    count = len(shown) - 1
    ask = [f"What is shown in part {number} of this?" for number in range(count)]
    return {
        "text": [{"prompt": text * 4, **options} for text in ask],
        "one picture": [{"prompt": text, "images": [shown[-1]], **options} for text in ask],
        f"{count} pictures": [
            {"prompt": text, "images": [picture], **options}
            for text, picture in zip(ask, shown[:-1], strict=True)
        ],
    }


def timed(model: phisight.Model, questions: list[dict[str, Any]]) -> tuple[float, Any]:
    began = time.perf_counter()
    answers = model.ask_many(questions)
    return time.perf_counter() - began, answers


def main() -> None:
    words = [word for word in sys.argv[1:] if word not in ("fused", "static")]
    fused = "fused" in sys.argv
    name = words[0] if words else "nano"
    tokens = int(words[1]) if len(words) > 1 else 64
    concurrency = [int(word) for word in words[2:]] or [1, 8, 32]
    if name == "random":
        on_cuda(tokens, concurrency, fused)
        return
    shown = pictures(REQUESTS, None)
    model = None
    rates: dict[str, dict[str, float]] = {}
    for running in concurrency:
        del model  # one cache at a time
        model = phisight.load(name, max_batch=running, fused=fused)
        model.ask("Hi", max_tokens=2)
        for load, questions in loads(shown, tokens).items():
            seconds, answers = timed(model, questions)
            assert sum(a.usage.completion_tokens for a in answers) == REQUESTS * tokens
            rates.setdefault(load, {})[str(running)] = round(REQUESTS * tokens / seconds, 1)
    assert model is not None
    record(
        "throughput",
        model=Path(model.name).name,
        placement=str(model.placement),
        requests=REQUESTS,
        tokens_each=tokens,
        tok_per_s=rates,
        gain_at_8={
            load: round(rate["8"] / rate["1"], 2) for load, rate in rates.items() if "8" in rate
        },
        bar="at least 2 times one at a time, at 8",
    )


def on_cuda(tokens: int, concurrency: list[int], fused: bool) -> None:
    ceilings = measured()
    torch.cuda.empty_cache()
    most = max(concurrency)
    model = random_model(EngineConfig(max_batch=most, fused=fused, kv_memory=60, image_memory=0))
    shown = pictures(most, 1344)
    model.ask_many(loads(shown, 2)["text"])
    found: dict[str, dict[str, Any]] = {}
    for running in concurrency:
        for named, questions in loads(shown[: running + 1], tokens).items():
            load = "distinct pictures" if "pictures" in named else named
            timed(model, questions[:1])  # graphs of this size, a picture's kernels
            model._loop._engine.forget()
            seconds, answers = timed(model, questions)
            least = _least(model, ceilings, load, answers)
            found.setdefault(load, {})[str(running)] = {
                "s": round(seconds, 3),
                "tok_per_s": round(running * tokens / seconds, 1),
                "least_s": round(least, 3),
                "over_least": round(seconds / least, 2),
            }
            print(load, running, found[load][str(running)], flush=True)
    prompt = answers[0].usage.prompt_tokens
    config = model.network.config
    del model, answers
    torch.cuda.empty_cache()
    record(
        "throughput_cuda",
        model="random",
        placement="cuda, bfloat16",
        fused=fused,
        tokens_each=tokens,
        prompt_tokens=prompt,
        copy_gb_per_s=round(ceilings.copy / 1e9),
        gemm_tflop_per_s=round(ceilings.gemm / 1e12),
        loads=found,
        transformers=_peer(config, prompt, [n for n in concurrency if n <= 8]),
        bar="64 requests of a picture each: over_least at most 1.4",
    )


def _least(model: phisight.Model, ceilings: Ceilings, load: str, answers: Any) -> float:
    """Seconds of the vision, prefill and decode ceilings together."""
    usage, count = answers[0].usage, len(answers)
    crops = 17 if usage.prompt_tokens > 1000 else 0
    own = model.network.flops(usage.prompt_tokens, 0)
    if load == "one picture":  # seen and read once; the questions after it are a few tokens
        work = model.network.flops(usage.prompt_tokens, crops)
    else:
        work = count * (own - model.network.flops(0, 0) + model.network.flops(0, crops))
    context = usage.prompt_tokens + usage.completion_tokens // 2
    step = model.network.bytes_per_step(count, context) / ceilings.copy
    return work / ceilings.gemm + usage.completion_tokens * step


def _peer(config: Any, prompt: int, batches: list[int]) -> dict[str, Any]:
    from peers.hf_native import decode, phi3

    peer = phi3(config, "cuda")
    found: dict[str, Any] = {str(n): decode(peer, n, prompt, 33) for n in batches}
    if "static" in sys.argv:
        found["1, static and compiled"] = decode(peer, 1, prompt, 65, cache_implementation="static")
    return found


if __name__ == "__main__":
    main()
