"""`generate` under transformers by both its ways, beside the engine asked directly.

    python benchmarks/hf_generate.py [MODEL | random] [ROUNDS] [TOKENS] [fused] [one]

One picture at 16 crops, one row and, unless `one` is given, eight; greedy, end of sequence off.
Decode speed is from answers of TOKENS and of 1. `random` is the full size, its weights drawn on the
device.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from random_model import FILES, fill, model_over
from record import record, spread
from transformers import AutoModelForCausalLM, AutoProcessor

import phisight.hf
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig

PICTURE = Path(__file__).parents[1] / "examples" / "chart.png"
PROMPT = "<|user|>\n<|image_1|>\nWhat is this?<|end|>\n<|assistant|>\n"


def seconds(run: Callable[[int], Any], tokens: int, rounds: int) -> list[float]:
    run(tokens)
    times = []
    for _ in range(rounds):
        synchronize()
        began = time.perf_counter()
        run(tokens)
        synchronize()
        times.append(time.perf_counter() - began)
    return times


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rates(run: Callable[[int], Any], rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """First token, whole answers, and what is between them."""
    first, whole = (seconds(run, count, rounds) for count in (1, tokens))
    decode = statistics.median(whole) - statistics.median(first)
    return {
        "first_token_s": spread(first),
        "whole_s": spread(whole),
        "decode_tok_per_s": round(rows * (tokens - 1) / decode, 1),
    }


def generated(model: phisight.hf.Phi3VForCausalLM, batch: Any, tokens: int) -> Any:
    return model.generate(**batch, max_new_tokens=tokens, do_sample=False, eos_token_id=[])


def bridge(name: str) -> tuple[phisight.hf.Phi3VForCausalLM, Path]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "random":
        folder = Path(phisight.__file__).with_name("assets") / "nano" if name == "nano" else name
        model = AutoModelForCausalLM.from_pretrained(folder).to(device)
        return model, Path(folder)
    config = phisight.hf.Phi3VConfig.from_pretrained(FILES)
    with torch.device("meta"):
        model = phisight.hf.Phi3VForCausalLM(config).to(torch.bfloat16).eval()
    model.to_empty(device=device)
    fill(model)
    return model, FILES


def main() -> None:
    name, rounds, tokens, *rest = [*sys.argv[1:], "nano", "5", "200"][: max(3, len(sys.argv) - 1)]
    fused = "fused" in rest
    model, folder = bridge(name)
    model.engine.fused = fused
    processor = AutoProcessor.from_pretrained(folder, num_crops=16)
    with Image.open(PICTURE) as picture:
        rgb = picture.convert("RGB")
    inputs = processor(PROMPT, rgb, return_tensors="pt").to(model.device)
    figures: dict[str, Any] = {}
    for rows in (1,) if "one" in rest else (1, 8):
        batch = processor([PROMPT] * rows, [[rgb]] * rows, return_tensors="pt").to(model.device)
        run = partial(generated, model, batch)
        count = int(rounds) if rows == 1 else 2
        for enabled in (True, False):
            model.engine.enabled = enabled
            key = f"{'engine' if enabled else 'transformers'}_batch_{rows}"
            figures[key] = rates(run, rows, int(tokens), count)
            print(key, figures[key], flush=True)
            assert model.engine.taken.startswith("the engine" if enabled else "transformers")
    model.engine.free()
    config = EngineConfig(fused=fused, prefix_cache=False, image_memory=0, kv_memory=12)
    network = Phi3V(model.structure, model.model, model.lm_head)
    ours = model_over(network, folder, config)

    def ask(most: int) -> Any:
        return ours.ask(PROMPT, [rgb], max_tokens=most, ignore_eos=True)

    figures["asked_directly"] = rates(ask, 1, int(tokens), int(rounds))
    direct = figures["asked_directly"]["decode_tok_per_s"]
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    record(
        "hf_generate",
        model=name,
        transformers=transformers.__version__,
        attention=model.config._attn_implementation,
        dtype=str(model.dtype).removeprefix("torch."),
        fused=fused,
        prompt_tokens=inputs["input_ids"].shape[1],
        new_tokens=int(tokens),
        **figures,
        share_of_engine=round(figures["engine_batch_1"]["decode_tok_per_s"] / direct, 3),
        memory_gib=memory and round(memory, 2),
    )


if __name__ == "__main__":
    main()
