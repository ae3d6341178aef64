"""`generate` through the Transformers bridge on a CUDA device: the full 4.1 B model in bfloat16.

    python tests/reference/make_checkpoint.py FOLDER --preset full --files tests/data/phi3v
    python benchmarks/hf_cuda.py FOLDER [ROUNDS]

One picture at 16 crops. Decoding speed is from answers of 65 tokens and of 1, end of sequence off.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from record import record, spread
from transformers import AutoModelForCausalLM, AutoProcessor

import phisight.hf

NEW_TOKENS = 65
PICTURE = Path(__file__).parents[1] / "examples" / "chart.png"
PROMPT = "<|user|>\n<|image_1|>\nWhat is this?<|end|>\n<|assistant|>\n"


def seconds(model: Any, inputs: dict[str, torch.Tensor], tokens: int, rounds: int) -> list[float]:
    options = {"max_new_tokens": tokens, "do_sample": False}
    model.generate(**inputs, **options)
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(**inputs, **options)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    folder = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, torch_dtype="auto"
    ).cuda()
    torch.cuda.synchronize()
    loaded = time.perf_counter() - began
    assert isinstance(model, phisight.hf.Phi3VForCausalLM)
    model.generation_config.eos_token_id = None
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with Image.open(PICTURE) as picture:
        rgb = picture.convert("RGB")
    began = time.perf_counter()
    inputs = processor(PROMPT, rgb, return_tensors="pt").to("cuda:0")
    processed = time.perf_counter() - began
    first = seconds(model, inputs, 1, rounds)
    whole = seconds(model, inputs, NEW_TOKENS, rounds)
    eight = processor([PROMPT] * 8, [[rgb]] * 8, return_tensors="pt").to("cuda:0")
    first_8, whole_8 = (seconds(model, eight, tokens, 2) for tokens in (1, NEW_TOKENS))
    decode = statistics.median(whole) - statistics.median(first)
    decode_8 = statistics.median(whole_8) - statistics.median(first_8)
    record(
        "hf_cuda",
        transformers=transformers.__version__,
        attention=model.config._attn_implementation,
        prompt_tokens=inputs["input_ids"].shape[1],
        load_s=round(loaded, 2),
        processing_s=round(processed, 3),
        first_token_s=spread(first),
        decode_tok_per_s=round((NEW_TOKENS - 1) / decode, 1),
        batch_8_first_token_s=spread(first_8),
        batch_8_decode_tok_per_s=round(8 * (NEW_TOKENS - 1) / decode_8, 1),
        memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
    )


if __name__ == "__main__":
    main()
