"""Write a training state's weights as a model folder.

    python training/export.py STATE FOLDER [--parts 4]

With `--parts`, the safetensors file is cut into so many pieces, FOLDER/model.part0 and so on, for
channels that carry small files only; `cat` joins them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from train import NANO

PREFIX = "network."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=int, default=0)
    parser.add_argument("--earlier", type=Path, help="weights of which a share is kept")
    parser.add_argument("--share", type=float, default=0.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(options.state, map_location="cpu", weights_only=True)["trainee"]
    weights = {
        # "_orig_mod." is what a compiled layer puts into its names
        name.removeprefix(PREFIX).replace("_orig_mod.", ""): tensor.bfloat16().contiguous()
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
    if options.earlier:
        # What a run forgets of what it began from comes back with a share of those weights, at
        # little cost to what it learnt (Wortsman et al. 2022, WiSE-FT).
        for name, old in load_file(options.earlier).items():
            if name in weights:
                mixed = torch.lerp(weights[name].float(), old.float(), options.share)
                weights[name] = mixed.bfloat16()
    before = load_file(NANO / "model.safetensors")
    for name in before.keys() - weights.keys():  # inference never reads it, other tools expect it
        weights[name] = before[name]
    file = options.folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    for other in NANO.glob("*.json"):
        shutil.copy(other, options.folder)
    if options.parts:
        data = file.read_bytes()
        size = -(-len(data) // options.parts)
        for number in range(options.parts):
            part = options.folder / f"model.part{number}"
            part.write_bytes(data[number * size : (number + 1) * size])
    print(f"{len(weights)} tensors, {file.stat().st_size / 1e6:.1f} MB: {file}")


if __name__ == "__main__":
    main()
