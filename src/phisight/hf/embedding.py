"""Ids and pictures of a batch to input embeddings.

Owns which picture an image place of a row means, and the checks that ids and pictures belong
together.

Dimensions: B rows, T tokens, D hidden size, N pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phisight.errors import ImageError, PromptError
from phisight.hd import CROP
from phisight.model.phi3v import Phi3VModel
from phisight.model.projector import ImageEmbedding


def embed(
    network: Phi3VModel,
    input_ids: Tensor,
    pixel_values: Tensor | None = None,
    image_sizes: Tensor | None = None,
) -> Tensor:
    """(B, T, D) embeddings of (B, T) ids and their pictures, in the processor's form.

    -n in `input_ids` is a place of the row's picture n; `pixel_values` (N, crops, 3, 336, 336) and
    `image_sizes` (N, 2), heights and widths in pixels, hold the pictures row by row. Raises
    PromptError and ImageError where they do not belong together.
    """
    input_ids = beside(input_ids, network.embed_tokens.weight)
    per_row = (-input_ids).amax(1).clamp(min=0)  # pictures of each row, (B,)
    before = per_row.cumsum(0) - per_row
    slots = torch.where(input_ids < 0, input_ids - before[:, None], input_ids)
    images: list[Tensor] = []
    if pixel_values is not None:
        images = _encode(network.vision_embed_tokens, pixel_values, image_sizes)
    if len(images) != int(per_row.sum()):
        raise PromptError(
            f"input_ids have places for {int(per_row.sum())} pictures and pixel_values hold "
            f"{len(images)}: pass on all that the processor gave, model.generate(**inputs)"
        )
    for number, image in enumerate(images, start=1):
        if (places := int((slots == -number).sum())) != len(image):
            raise PromptError(
                f"picture {number} has {len(image)} image tokens and input_ids {places} places "
                "for it: pass on all that the processor gave, unchanged"
            )
    return network.embed(slots, images)


def _encode(
    tower: ImageEmbedding, pixel_values: Tensor, image_sizes: Tensor | None
) -> list[Tensor]:
    """The image tokens of each picture; blank crops are not encoded."""
    if image_sizes is None or len(image_sizes) != len(pixel_values):
        raise ImageError("pixel_values need image_sizes, a (height, width) for each picture")
    images = []
    for crops, (height, width) in zip(pixel_values, image_sizes.tolist(), strict=True):
        rows, cols = height // CROP, width // CROP
        if (rows * CROP, cols * CROP) != (height, width) or rows * cols + 1 > len(crops):
            raise ImageError(
                f"image_sizes says {height}x{width}, which are not multiples of {CROP}, or more "
                f"than the {len(crops) - 1} crops in pixel_values"
            )
        real = crops[: 1 + rows * cols].to(tower.glb_GN.dtype)
        images.append(tower(beside(real, tower.glb_GN), rows, cols))
    return images


def beside(tensor: Tensor, weight: Tensor) -> Tensor:
    """The tensor on the weight's device; as it is if that is off-loaded: its hook moves it."""
    return tensor if weight.is_meta else tensor.to(weight.device)
