"""Patch features of a picture's crops to its image tokens (`image_embedding_phi3_v.py`).

Owns the order of image tokens: the grid line by line over all crops, each line ended by `sub_GN`;
then one `glb_GN`; then the global view, its lines ended by `sub_GN` as well. Only real crops are
encoded; the reference also encodes blank padding and gets the same bits.

Dimensions: N = 1 + R*C crops (global first), P = 24*24 patches, E vision size, D model size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phisight.config import ModelConfig
from phisight.hd import CELLS, PATCHES
from phisight.model.packed import FullLinear
from phisight.model.vision import VisionTransformer


class ImageProcessor(nn.Module):
    """The level `img_processor` of the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config.vision)


class ImageEmbedding(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        merged = 4 * config.vision.hidden_size
        self.img_processor = ImageProcessor(config)
        self.glb_GN = nn.Parameter(torch.empty(1, 1, merged))
        self.sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged))
        self.img_projection = nn.Sequential(
            FullLinear(merged, config.hidden_size),
            nn.GELU(),
            FullLinear(config.hidden_size, config.hidden_size),
        )

    def forward(self, crops: Tensor, rows: int, cols: int) -> Tensor:
        """(N, 3, 336, 336) crops of one picture to its (num_tokens, D) image tokens."""
        return self.project(self.img_processor.vision_model(crops), rows, cols)

    def project(self, features: Tensor, rows: int, cols: int) -> Tensor:
        """(N, P, E) patch features of one picture to its (num_tokens, D) image tokens."""
        tokens = torch.cat(
            [
                self._lines(_merge(features[1:], rows, cols)),
                self.glb_GN[0],
                self._lines(_merge(features[:1], 1, 1)),
            ]
        )
        return self.img_projection(tokens)

    def _lines(self, cells: Tensor) -> Tensor:
        """(lines, cells, 4E) to (lines * (cells + 1), 4E), a separator after every line."""
        ends = self.sub_GN[0].expand(len(cells), 1, -1)
        return torch.cat([cells, ends], dim=1).flatten(0, 1)


def _merge(features: Tensor, rows: int, cols: int) -> Tensor:
    """2x2 patches to one cell, in the order row, column, channel; crops joined to one grid.

    (R*C, P, E) to (R*12, C*12, 4E).
    """
    grid = features.unflatten(1, (CELLS, 2, CELLS, 2)).unflatten(0, (rows, cols))
    assert grid.shape[2:6] == (PATCHES // 2, 2, PATCHES // 2, 2)
    merged = grid.permute(0, 2, 1, 4, 3, 5, 6).flatten(4)  # (R, 12, C, 12, 4E)
    return merged.flatten(2, 3).flatten(0, 1)
