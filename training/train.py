"""Train nano on, from the weights in a folder.

    python training/train.py --materials .materials --seconds 500 --total 1500 --state S --log L

One run is one piece of a whole of `--total` seconds, over which the learning rate rises, stays and
falls; the next piece goes on from `--state` (weights, both optimizers, the step) where that file is
at hand, else from the weights in `src/phisight/assets/nano`, `--elapsed` seconds into the whole.
Every `LOG_EVERY` steps a JSON line goes to `--log`. `export.py` writes a state's weights.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

from batch import Batch, batches
from muon import Muon
from network import Trainee
from phisight.config import read_model_config, read_processor_config
from phisight.model.weights import load_model

NANO = Path(__file__).parents[1] / "src" / "phisight" / "assets" / "nano"
WARM_UP = 150  # steps
FLAT = 0.35  # share of the whole before the learning rate falls, in a straight line to LEAST
LEAST = 0.02
HELPER_ALONE = 60  # steps in which only the new helper head learns
HELPER_WEIGHT = 0.2
CLIP = 1.0
LOG_EVERY = 50
SAVE_EVERY = 500
SMOOTHING = 0.95
KEPT = 40  # batches, of those seen once


def main() -> None:
    options = arguments()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_model(NANO, read_model_config(NANO), device=device, dtype=torch.float32)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    trainee = Trainee(network, read_processor_config(NANO)).to(device)
    optimizers = make_optimizers(trainee, options.peak)
    began, elapsed = time.monotonic(), options.elapsed
    progress = Progress(options)
    step = 0
    if options.state.exists():
        state = torch.load(options.state, map_location=device, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, elapsed = state["step"], state["elapsed"]
    if device.type == "cuda":
        # Whole stacks: layer by layer, the processor takes longer to launch than the GPU to run.
        network.model.vision_embed_tokens.img_processor.vision_model.encoder.compile(dynamic=True)
        network.compile(dynamic=True)
    incoming = Feeder(start_workers(options, step), device, options.seed)
    while (here := time.monotonic() - began) < options.seconds:
        waited = time.monotonic()
        try:
            batch = incoming.get()
        except RuntimeError:
            save(options.state, trainee, optimizers, step, elapsed + here)
            raise
        progress.waited += time.monotonic() - waited
        with torch.autocast(device.type, torch.bfloat16):
            losses = trainee(batch)
        helper_only = step < HELPER_ALONE
        loss = losses.helper if helper_only else losses.answer + HELPER_WEIGHT * losses.helper
        loss.backward()
        if helper_only:
            for parameter in network.parameters():
                parameter.grad = None
        norm = nn.utils.clip_grad_norm_(trainee.parameters(), CLIP)
        rate = learning_rate(step, (elapsed + here) / options.total)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        progress.add(batch, losses)
        if step % LOG_EVERY == 0:
            progress.write(step, elapsed + here, rate, float(norm), incoming.again)
        if step % SAVE_EVERY == 0:
            save(options.state, trainee, optimizers, step, elapsed + here)
    save(options.state, trainee, optimizers, step, elapsed + time.monotonic() - began)
    print(f"{step} steps, {progress.samples} samples here, state in {options.state}")


def save(
    path: Path,
    trainee: Trainee,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    elapsed: float,
) -> None:
    """Whole or not at all: a reader may come at any time."""
    saved = [optimizer.state_dict() for optimizer in optimizers]
    state = {"trainee": trainee.state_dict(), "optimizers": saved, "step": step, "elapsed": elapsed}
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of this piece")
    parser.add_argument("--total", type=float, required=True, help="seconds of all pieces")
    parser.add_argument("--elapsed", type=float, default=0.0, help="seconds of the pieces before")
    parser.add_argument("--peak", type=float, default=1.2e-3, help="learning rate")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_optimizers(trainee: Trainee, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, heads, norms and biases."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        inner = parameter.dim() == 2 and ("layers" in name or "img_projection" in name)
        (matrices if inner else others).append(parameter)
    muon = Muon(matrices, lr=peak, weight_decay=0.05, momentum=0.95)
    return [muon, torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.01)]


def learning_rate(step: int, done: float) -> float:
    """As a share of the peak."""
    falling = 1.0 if done < FLAT else LEAST + (1 - LEAST) * max(0.0, 1 - done) / (1 - FLAT)
    return min(1.0, max(step - HELPER_ALONE, 1) / WARM_UP, falling)


def start_workers(options: argparse.Namespace, step: int) -> Any:
    context = multiprocessing.get_context("spawn")
    outgoing = context.Queue(2 * options.workers)
    for number in range(options.workers):
        seed = 1_000_003 * options.seed + 1009 * step + number
        given = (outgoing, options.materials, seed)
        context.Process(target=_draw, args=given, daemon=True).start()
    return outgoing


def _draw(outgoing: Any, materials: Path, seed: int) -> None:
    torch.set_num_threads(1)
    os.nice(5)  # the process that keeps the GPU busy comes first
    try:
        for batch in batches(materials, NANO, seed, "train"):
            outgoing.put(tuple(batch))
    except Exception:
        outgoing.put(RuntimeError(traceback.format_exc()))
        # One that ends takes the batches it has handed over along, and whoever reads them waits.
        threading.Event().wait()


class Feeder:
    """Brings batches to the device by a thread of its own: 90 MB each, 20 ms from plain memory.

    Where the drawing does not keep up, a batch of before comes once more rather than none (data
    echoing, Choi et al. 2019): 15 processes draw 350 samples a second, an H100 learns from 560.
    """

    def __init__(self, incoming: Any, device: torch.device, seed: int) -> None:
        self._incoming, self._device = incoming, device
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(2)
        self._kept: list[Batch] = []  # seen once
        self._random = random.Random(seed)
        self.again = 0
        threading.Thread(target=self._bring, daemon=True).start()

    def get(self) -> Batch:
        if self._ready.empty() and len(self._kept) == KEPT:
            self.again += 1
            return self._kept.pop(self._random.randrange(KEPT))
        batch = self._ready.get()
        if isinstance(batch, Exception):
            raise RuntimeError("no more batches come") from batch
        self._kept = [*self._kept[1 - KEPT :], batch]
        return batch

    def _bring(self) -> None:
        try:
            while True:
                self._ready.put(self._next())
        except Exception as error:
            self._ready.put(error)

    def _next(self) -> Batch:
        given = self._incoming.get()
        if isinstance(given, Exception):
            raise given
        ids, before, *lists = given
        moved = [[self._moved(tensor) for tensor in tensors] for tensors in lists]
        return Batch(self._moved(ids), self._moved(before), *moved)

    def _moved(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


class Progress:
    """Smoothed figures of the pieces of a run, a JSON line at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path: Path = options.log
        self.samples, self.waited = 0, 0.0
        self._began = time.monotonic()
        self._smooth: Tensor | None = None
        self._say({"begins": time.strftime("%Y-%m-%d %H:%M"), "torch": torch.__version__,
                   "seed": options.seed, "total_s": options.total, "peak": options.peak,
                   "commit": commit()})  # fmt: skip

    def add(self, batch: Batch, losses: tuple[Tensor, ...]) -> None:
        self.samples += len(batch.ids)
        now = torch.stack([loss.detach().float() for loss in losses])
        old = now if self._smooth is None else self._smooth
        self._smooth = SMOOTHING * old + (1 - SMOOTHING) * now

    def write(self, step: int, elapsed: float, rate: float, norm: float, again: int) -> None:
        assert self._smooth is not None
        names = ("answer_loss", "helper_loss", "exact", "tokens", "cells")
        figures = dict(zip(names, (round(v, 4) for v in self._smooth.tolist()), strict=True))
        here = time.monotonic() - self._began
        self._say({"step": step, "s": round(elapsed), **figures, "rate": round(rate, 3),
                   "norm": round(norm, 2), "samples_per_s": round(self.samples / here),
                   "waited": round(self.waited / here, 2), "batches_again": again})  # fmt: skip

    def _say(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        print(line, file=sys.stderr, flush=True)
        with self.path.open("a") as log:
            log.write(line + "\n")


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
