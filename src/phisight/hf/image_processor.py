"""Pictures to the official processor's padded tensors. The pixels are `processing.image`'s.

Dimensions: N pictures, C = num_crops + 1 crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from phisight.config import ProcessorConfig
from phisight.errors import ImageError, OptionError
from phisight.hd import CELLS, CROP, hd_layout
from phisight.params import LoadOptions
from phisight.processing.image import (
    ImageCrops,
    ImageSource,
    cut_crops,
    open_image,
    picture_name,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_FIXED: dict[str, Any] = {"num_img_tokens": CELLS * CELLS, "do_convert_rgb": True}


class Phi3VImageProcessor(BaseImageProcessor):
    """The official `image_processing_phi3_v.py`: `num_crops` is the most crops of a picture.

    Also takes what `phisight.open_image` opens: paths, URLs, bytes.
    """

    model_input_names = ("pixel_values", "image_sizes")

    def __init__(
        self,
        num_crops: int = 1,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        for key, value in _FIXED.items():
            if kwargs.get(key, value) != value:
                raise OptionError(f"{key}={kwargs[key]!r}: only {value} is implemented")
        super().__init__(**kwargs)
        self.num_crops = num_crops
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(
        self,
        images: ImageSource | Sequence[ImageSource],
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """`pixel_values` (N, C, 3, 336, 336) in float32, zeros after a picture's own crops;
        `image_sizes` (N, 2), the (height, width) after padding; `num_img_tokens`, a list.

        Raises ImageError for what is not a readable picture.
        """
        if kwargs:
            raise OptionError(f"preprocess has no option {', '.join(kwargs)}")
        crops = [self.crops(image) for image in as_list(images)]
        return self.pad(crops, return_tensors)

    def crops(self, image: ImageSource) -> ImageCrops:
        """One picture cut. Raises ImageError, OptionError for `num_crops` outside its limits."""
        LoadOptions(num_crops=self.num_crops)  # here, since anyone may set it at any time
        opened = open_image(image)
        try:
            return cut_crops(opened, self._config(), self.num_crops)
        except ImageError as error:
            raise ImageError(f"{picture_name(image)}: {error}") from None

    def pad(self, images: Sequence[ImageCrops], return_tensors: str | None) -> BatchFeature:
        """Pictures cut to the tensors of `preprocess`."""
        pixels = torch.zeros(len(images), self.num_crops + 1, 3, CROP, CROP)
        for place, image in zip(pixels, images, strict=True):
            place[: len(image.pixels)] = image.pixels
        sizes = [list(image.layout.padded_size) for image in images]
        return BatchFeature(
            {
                "pixel_values": pixels,
                "image_sizes": torch.tensor(sizes),
                "num_img_tokens": [image.num_tokens for image in images],
            },
            tensor_type=return_tensors,
            skip_tensor_conversion=["num_img_tokens"],
        )

    def calc_num_image_tokens(self, images: Image.Image | Sequence[Image.Image]) -> list[int]:
        """How many positions of a prompt each picture will take."""
        return [
            self.calc_num_image_tokens_from_image_size(*image.size) for image in as_list(images)
        ]

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """The same by a picture's size in pixels."""
        return hd_layout(width, height, self.num_crops).num_tokens

    def _config(self) -> ProcessorConfig:
        (r, g, b), (r_std, g_std, b_std) = self.image_mean, self.image_std
        return ProcessorConfig(self.num_crops, (r, g, b), (r_std, g_std, b_std))


class Phi3VVideoProcessor:
    """There is none. Every pipeline looks for one, and in want of it runs the folder's code."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        raise OptionError("Phi-3-V reads pictures, not videos: pass the frames as images")


def as_list(images: Any) -> list[Any]:
    """Several pictures, or the one."""
    return list(images) if isinstance(images, (list, tuple)) else [images]
