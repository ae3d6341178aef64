"""What can be told of a model and a picture without loading weights: sizes, crops, costs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from PIL import Image

from phisight.config import read_model_config, read_processor_config
from phisight.hd import HDLayout, fewest_crops, hd_layout
from phisight.hub import ModelFolder, find_model
from phisight.model.phi3v import Phi3V
from phisight.model.weights import stored_bytes
from phisight.params import DTYPES, LoadOptions
from phisight.processing.draw import draw_crops
from phisight.processing.image import ImageSource, open_image


@dataclass(frozen=True)
class ModelPreview:
    """A model's sizes, from its configuration alone."""

    folder: ModelFolder
    num_parameters: int
    weights: str | None  # how those of the language model are packed
    bytes_by_dtype: Mapping[str, int]
    context: int  # most tokens, prompt and answer together
    num_crops: int  # most crops a picture is cut into
    token_bytes: int  # cache of one token in bfloat16; float32 takes twice as much

    def weight_bytes(self, dtype: str) -> int:
        """Memory for the weights, those that are not packed in "bfloat16" or "float32"."""
        return self.bytes_by_dtype[dtype]


@dataclass(frozen=True, eq=False, repr=False)
class CropPreview:
    """How a picture is cut for a model, and what that costs."""

    drawing: Image.Image
    layout: HDLayout
    model: ModelPreview
    full: HDLayout  # with all the crops it may have: another one with crops="auto" alone

    @property
    def cache_bytes(self) -> int:
        """Memory that the picture's tokens take in the cache, in bfloat16."""
        return self.layout.num_tokens * self.model.token_bytes

    def __repr__(self) -> str:
        return f"<phisight.CropPreview {self}>"

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        out = io.BytesIO()
        self.drawing.save(out, "PNG")
        return out.getvalue()

    def __str__(self) -> str:
        layout, model = self.layout, self.model
        height, width = layout.padded_size
        return (
            f"{layout.cols} x {layout.rows} crops of 336 pixels ({width} x {height}) and one of "
            f"the whole: {layout.num_tokens} tokens of {model.context} "
            f"({layout.num_tokens / model.context:.0%}), "
            f"{self.cache_bytes / 2**20:.0f} MiB of memory in bfloat16"
            + ("" if self.full == layout else f"; {self.full.num_tokens} tokens without crops=auto")
        )


def preview_model(name: str | os.PathLike[str] | None = None) -> ModelPreview:
    """A model's sizes. Raises ModelError."""
    folder = find_model(name)
    config = read_model_config(folder.path)
    with torch.device("meta"):
        network = Phi3V(replace(config, weights=None)).to(torch.bfloat16)
    return ModelPreview(
        folder,
        sum(parameter.numel() for parameter in network.parameters()),
        config.weights,
        {name: stored_bytes(config, getattr(torch, name)) for name in DTYPES},
        config.max_positions,
        read_processor_config(folder.path).num_crops,
        network.bytes_per_token_cached(),
    )


def preview_crops(
    image: ImageSource,
    model: str | os.PathLike[str] | None = None,
    *,
    num_crops: int | None = None,
    crops: str | None = None,
) -> CropPreview:
    """How a model would cut a picture; `num_crops` and `crops` as in `load`. Raises ImageError,
    ModelError."""
    options = LoadOptions(num_crops=num_crops, crops=crops)
    sizes = preview_model(model)
    opened = open_image(image)
    width, height, most = opened.width, opened.height, options.num_crops or sizes.num_crops
    full = layout = hd_layout(width, height, most)
    if options.crops is not None:
        layout = hd_layout(width, height, fewest_crops(width, height, most))
    return CropPreview(draw_crops(opened, layout), layout, sizes, full)
