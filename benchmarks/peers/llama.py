"""llama.cpp, by llama-cpp-python's low-level calls. Usage: llama.py GGUF FLASH [PROMPT ...]

Needs, in an environment of its own, built for this machine:
CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
gguf==0.19.0; `make_gguf.py` writes a random model of the decoder's size.
"""

from __future__ import annotations

import ctypes
import random
import sys
import time

import llama_cpp as lib
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report

LONGEST = 2560


def main() -> None:
    path, flash = sys.argv[1], int(sys.argv[2])
    quiet = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    began = time.perf_counter()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 4096, LONGEST, 512
    params.n_threads = params.n_threads_batch = 2
    params.flash_attn_type = flash
    context = lib.llama_init_from_model(model, params)
    loaded = time.perf_counter() - began
    memory, batch = lib.llama_get_memory(context), lib.llama_batch_init(LONGEST, 0, 1)
    words = random.Random(0)

    def read(count: int, start: int) -> float:
        batch.n_tokens = count
        for i in range(count):
            batch.token[i], batch.pos[i] = words.randrange(3, 32000), start + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, i == count - 1
        began = time.perf_counter()
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(context)
        return time.perf_counter() - began

    read(16, 0)
    prefill = {}
    for prompt in [int(word) for word in sys.argv[3:]] or PROMPTS:
        lib.llama_memory_clear(memory, True)
        prefill[prompt] = read(prompt, 0)
    lib.llama_memory_clear(memory, True)
    read(CONTEXT, 0)
    steps = [read(1, CONTEXT + i) for i in range(NEW_TOKENS)]
    report(loaded, prefill, steps, note=f"flash attention {'on' if flash else 'off'}")


if __name__ == "__main__":
    main()
