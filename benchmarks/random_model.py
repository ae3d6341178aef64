"""A model of full size whose weights are drawn on the device: what speed needs no more than."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import phisight
from phisight.config import read_model_config
from phisight.engine.engine import Engine
from phisight.engine.loop import EngineLoop
from phisight.hub import ModelFolder
from phisight.model.phi3v import Phi3V
from phisight.params import EngineConfig
from phisight.placement import choose_placement
from phisight.processing.processor import Processor

FILES = Path(__file__).parents[1] / "tests" / "data" / "phi3v"


def random_model(config: EngineConfig, num_crops: int = 16) -> phisight.Model:
    """Phi-3-vision-128k-instruct by shape and tokenizer, in the device's usual dtype."""
    placement = choose_placement(None, None)
    with torch.device("meta"):
        network = Phi3V(read_model_config(FILES)).to(placement.dtype)
    network.to_empty(device=placement.device)
    fill(network)
    return model_over(network.eval(), FILES, config, num_crops)


def fill(network: nn.Module) -> None:
    """Weights of a network like a trained one's by size, the same each time."""
    generator: torch.Generator | None = None
    for name, weight in network.named_parameters():
        generator = generator or torch.Generator(weight.device).manual_seed(0)
        weight.requires_grad_(False)
        if "norm" in name and name.endswith("weight"):
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, 0.02, generator=generator)


def model_over(
    network: Phi3V, folder: Path, config: EngineConfig, num_crops: int = 16
) -> phisight.Model:
    """A network that is there, behind the public door; the folder gives tokenizer and processor."""
    loop = EngineLoop(Engine(network, config))
    named = ModelFolder(folder.name, folder, None, "named")
    placement = choose_placement(str(network.device), None)
    processor = Processor(folder, num_crops)
    return phisight.Model(named, network.config, network, processor, placement, loop)
