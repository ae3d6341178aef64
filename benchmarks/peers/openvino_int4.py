"""OpenVINO on a decoder of 4 bits. Usage: openvino_int4.py FOLDER LAYERS [PROMPT ...]

Needs, in an environment of its own: openvino==2026.4.1 optimum-intel==2.2.0 nncf==3.4.0
transformers==5.5.4 torch==2.13.0, without torchvision, and a folder made by `make_hf.py W/hf8 8`
and `make_openvino.py W/hf8 W/ov8`. Exporting all 32 layers takes more memory than these machines
have: a folder of LAYERS layers is measured, and its times are multiplied by 32 / LAYERS.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino
from openvino import opset13
from report_line import CONTEXT, NEW_TOKENS, PROMPTS, report

WHOLE = 32


def main() -> None:
    folder, layers = sys.argv[1], int(sys.argv[2])
    began = time.perf_counter()
    core = openvino.Core()
    model = core.read_model(f"{folder}/openvino_model.xml")
    node = model.get_results()[0].input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    hidden = node.input(0).get_source_output()  # logits of the last position only
    last = opset13.slice(hidden, [-1], [2**31 - 1], [1], [1]).output(0)
    node.input(0).replace_source_output(last)
    model.validate_nodes_and_infer_types()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1}
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    loaded = time.perf_counter() - began
    names = {part.get_any_name() for part in compiled.inputs}
    ids = np.random.default_rng(0).integers(3, 32000, 4096)

    def read(start: int, stop: int) -> float:
        """Seconds, as if of all layers."""
        given = {
            "input_ids": ids[None, start:stop],
            "attention_mask": np.ones((1, stop), np.int64),
            "position_ids": np.arange(start, stop)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        began = time.perf_counter()
        logits = request.infer({name: given[name] for name in given if name in names})[0]
        seconds = time.perf_counter() - began
        assert logits.shape[1] == 1
        return seconds * WHOLE / layers

    read(0, 16)
    prefill = {}
    for prompt in [int(word) for word in sys.argv[3:]] or PROMPTS:
        request.reset_state()
        prefill[prompt] = read(0, prompt)
    request.reset_state()
    read(0, CONTEXT)
    steps = [read(i, i + 1) for i in range(CONTEXT, CONTEXT + NEW_TOKENS)]
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    report(loaded, prefill, steps, note=f"int4, {layers} layers, scaled; {precision}")


if __name__ == "__main__":
    main()
