"""A model that computes the same with outlier channels, the stress that real weights bring.

    python benchmarks/outliers.py FOLDER OUT

One channel in a hundred of every norm of the language model and of the vision tower's layers is
made 30 to 100 times as large, and the columns of the matrices that it feeds are divided by the
same: in exact arithmetic nothing has changed, and to whoever rounds them everything has.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FED = {
    "input_layernorm": ["self_attn.qkv_proj"],
    "post_attention_layernorm": ["mlp.gate_up_proj"],
    "layer_norm1": [f"self_attn.{name}_proj" for name in "qkv"],
    "layer_norm2": ["mlp.fc1"],
}


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.copytree(source, out)
    (file,) = out.glob("*.safetensors")
    tensors = load_file(file)
    draw = random.Random(0)
    pairs = {"model.norm.weight": ["lm_head.weight"]}
    for name in tensors:
        for norm, matrices in FED.items():
            if name.endswith(f"{norm}.weight"):
                pairs[name] = [name.replace(norm, matrix) for matrix in matrices]
    for norm, matrices in pairs.items():
        width = len(tensors[norm])
        factors = torch.ones(width)
        for channel in draw.sample(range(width), max(1, width // 100)):
            factors[channel] = 2.0 ** draw.choice((5, 5.5, 6, 6.5))  # 32 to 91
        for name in (norm, norm.replace(".weight", ".bias")):
            if name in tensors:
                tensors[name] = (tensors[name].float() * factors).to(tensors[name].dtype)
        for matrix in matrices:
            tensors[matrix] = (tensors[matrix].float() / factors).to(tensors[matrix].dtype)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    print(f"{len(pairs)} norms of {out}")


if __name__ == "__main__":
    main()
