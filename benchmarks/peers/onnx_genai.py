"""ONNX Runtime GenAI. Usage: onnx_genai.py FOLDER [PROMPT ...]

Needs, in an environment of its own: onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2
onnx-ir==1.1.0 transformers==5.23.0 torch==2.13.0, and a folder made by `make_hf.py W/hf 32` and
python -m onnxruntime_genai.models.builder -i W/hf -o W/onnx -p int4 -e cpu -c W/cache
--extra_options int4_accuracy_level=4 int4_block_size=32 (19 GiB, 5 minutes).
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime_genai as lib
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report


def main() -> None:
    began = time.perf_counter()
    config = lib.Config(sys.argv[1])
    threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}
    config.overlay(json.dumps(threads))
    model = lib.Model(config)
    loaded = time.perf_counter() - began
    ids = np.random.default_rng(0).integers(3, 32000, 4096).astype(np.int32)

    def read(count: int, more: int = 0) -> tuple[lib.Generator, float]:
        params = lib.GeneratorParams(model)
        longest = count + more + 8
        params.set_search_options(max_length=longest, min_length=longest, do_sample=False)
        generator = lib.Generator(model, params)
        began = time.perf_counter()
        generator.append_tokens(ids[:count])
        generator.get_logits()
        return generator, time.perf_counter() - began

    read(16)
    prefill = {prompt: read(prompt)[1] for prompt in [int(w) for w in sys.argv[2:]] or PROMPTS}
    generator, _ = read(CONTEXT, NEW_TOKENS + 8)
    generator.generate_next_token()
    steps = []
    for _ in range(NEW_TOKENS):
        began = time.perf_counter()
        generator.generate_next_token()
        steps.append(time.perf_counter() - began)
    report(loaded, prefill, steps, note="int4, blocks of 32, accuracy level 4")


if __name__ == "__main__":
    main()
