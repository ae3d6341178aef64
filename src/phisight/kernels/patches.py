"""Patch embedding: a convolution whose stride is its kernel size.

Dimensions: N crops, P patches, p patch side in pixels, E hidden size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from phisight.kernels.dense import widest


def embed_patches(crops: Tensor, weight: Tensor) -> Tensor:
    """(N, 3, H, W) crops and an (E, 3, p, p) kernel to (N, P, E), patches row by row.

    On the CPU this is the convolution the reference runs, for the same bits. On CUDA it is a matrix
    product over patches: cuDNN convolves float32 in TF32 by default, whose ten bits of mantissa put
    the logits off by 5e-4 of the largest.
    """
    if crops.device.type == "cpu":
        side = weight.shape[-1]
        wide, kernel = widest(crops, weight)
        patches = functional.conv2d(wide, kernel, stride=side)
        return patches.flatten(2).transpose(1, 2).to(crops.dtype)
    return embed_patches_by_product(crops, weight)


def embed_patches_by_product(crops: Tensor, weight: Tensor) -> Tensor:
    """The same as one matrix product, on any device."""
    side = weight.shape[-1]
    grid = crops.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (N, 3, rows, p, cols, p)
    pixels = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (N, P, 3*p*p)
    return functional.linear(pixels, weight.flatten(1))
