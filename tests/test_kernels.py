"""Each operation against its plainest form, on odd shapes and every dtype."""

import pytest
import torch
from torch.nn import functional

from phisight.kernels.attention import attend_one
from phisight.kernels.patches import embed_patches, embed_patches_by_product

# Of the largest value; bfloat16 keeps 8 bits, and sums of rounded products drift by a few of them.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= TOLERANCE[a.dtype] * b.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("crops", "hidden", "side", "rows", "cols"), [(1, 5, 14, 3, 2), (3, 36, 7, 1, 5)]
)
def test_patches(
    dtype: torch.dtype, crops: int, hidden: int, side: int, rows: int, cols: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(crops, 3, rows * side, cols * side, generator=generator).to(dtype)
    weight = torch.randn(hidden, 3, side, side, generator=generator).to(dtype)
    assert_close(embed_patches(pixels, weight), embed_patches_by_product(pixels, weight))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "stored", "size"), [(1, 1, 2), (7, 123, 64), (3, 1025, 96)])
def test_one_query(dtype: torch.dtype, heads: int, stored: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, heads, stored + 9, size, generator=generator).to(dtype)
    q = torch.randn(heads, 1, size, generator=generator).to(dtype)
    seen = (q[None], keys[None, :, :stored], values[None, :, :stored])
    expected = functional.scaled_dot_product_attention(*seen)[0]
    assert_close(attend_one(q, keys, values, stored), expected)
