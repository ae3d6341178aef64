"""A model of full size whose weights are drawn on the device: what speed needs no more than."""

from __future__ import annotations

from pathlib import Path

import torch

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
    folder = ModelFolder("random-4.1b", FILES, None, "named")
    placement = choose_placement(None, None)
    model_config = read_model_config(FILES)
    with torch.device("meta"):
        network = Phi3V(model_config).to(placement.dtype)
    network.to_empty(device=placement.device)
    generator = torch.Generator(placement.device).manual_seed(0)
    for name, weight in network.named_parameters():
        weight.requires_grad_(False)
        if "norm" in name and name.endswith("weight"):
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, 0.02, generator=generator)
    loop = EngineLoop(Engine(network.eval(), config))
    processor = Processor(FILES, num_crops)
    return phisight.Model(folder, model_config, network, processor, placement, loop)
