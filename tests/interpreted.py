"""Triton kernels on the CPU, read by Triton's interpreter; `test_triton` runs this file.

In float32 and float64 only: the interpreter of 3.7.1 rounds to bfloat16 towards zero and has no
float8. Those, and shapes of the full size, are `test_gpu_kernels`'.
"""

import pytest
import torch
from torch import Tensor

from phisight.kernels import fused, reference
from phisight.kernels.skinny import skinny, tiles_for
from phisight.kernels.streamed import stream

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
TABLE = [[3, 5, 7], [1, 0, 0], [9, 8, 0], [2, 6, 4], [10, 0, 0]]
LENGTHS = [20, 1, 16, 24, 7]  # of blocks of 8
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    error = (got.double() - expected.double()).abs().max()
    assert error <= TOLERANCE[got.dtype] * expected.double().abs().max()


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@every_dtype
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 48), (2, 1000)])
def test_between_products(dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = normal(rows, size, dtype=dtype), normal(size, dtype=dtype)
    assert_close(fused.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    assert_close(fused.quick_gelu(4 * x), reference.quick_gelu(4 * x))
    both = normal(rows, 2 * size, dtype=dtype)
    assert_close(fused.silu_product(both), reference.silu_product(both))


@pytest.mark.parametrize(("outs", "ins"), [(74, 41), (12, 1100)])
def test_one_row_past_streamed_weights(outs: int, ins: int) -> None:
    x, weight, norm = normal(1, ins), normal(outs, ins) * ins**-0.5, normal(ins)
    residual = normal(1, outs)
    assert_close(stream(x, weight), reference.linear(x, weight, None))
    assert_close(stream(x, weight, residual=residual), reference.linear(x, weight, residual))
    given = (x, norm, 1e-5, weight)
    assert_close(stream(x, weight, norm=(norm, 1e-5)), reference.normed_linear(*given))
    assert_close(stream(x, weight, norm=(norm, 1e-5), gated=True), reference.gated_linear(*given))


@pytest.mark.parametrize("rows", [2, 16, 19])
def test_few_rows_by_tiles(rows: int) -> None:
    tiles = (16, 32, 2, 4)
    x, weight, norm = normal(rows, 70), normal(74, 70) * 70**-0.5, normal(70)
    residual = normal(rows, 74)
    expected = reference.linear(x, weight, residual)
    assert_close(skinny(x, weight, residual=residual, tiles=tiles), expected)
    gated = skinny(reference.rms_norm(x, norm, 1e-5), weight, gated=True, tiles=tiles)
    assert_close(gated, reference.gated_linear(x, norm, 1e-5, weight))


@pytest.mark.parametrize(("chip", "taken"), [((9, 0), True), ((8, 0), False), ((8, 9), False)])
def test_tiles_are_of_the_chip_they_were_measured_on(
    chip: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: chip)
    x, weight = (
        torch.empty(size, 3072, dtype=torch.bfloat16, device="meta") for size in (20, 16384)
    )
    assert (tiles_for(x, weight) is not None) == taken
    assert tiles_for(x[:, :70], weight[:, :70]) is None, "of a size that nobody measured"


@every_dtype
@pytest.mark.parametrize(("heads", "size"), [(1, 2), (2, 96)])
def test_store_and_attend(dtype: torch.dtype, heads: int, size: int) -> None:
    """Also where the blocks hold what is no number beyond the sequence's tokens."""
    table, lengths = (torch.tensor(numbers, dtype=torch.int32) for numbers in (TABLE, LENGTHS))
    stores = normal(2, 12, heads, 8, size, dtype=dtype)
    stores[:, 7, :, 4:] = torch.nan
    own, other = stores.clone(), stores.clone()
    qkv = normal(len(TABLE), 3 * heads * size, dtype=dtype)
    cos, sin = normal(2, len(TABLE), size, dtype=dtype)
    rotated = reference.rotate_and_store(qkv, cos, sin, *other, table, lengths)
    assert_close(fused.rotate_and_store(qkv, cos, sin, *own, table, lengths), rotated)
    assert torch.equal(own.isnan(), other.isnan())
    assert_close(own.nan_to_num(), other.nan_to_num())
    mixed = fused.attend_blocks(rotated, *other, table, lengths)
    assert_close(mixed, reference.attend_blocks(rotated, *other, table, lengths))


@every_dtype
@pytest.mark.parametrize(("rows", "last"), [(2, 2), (3, 40)])
def test_rows_of_one_sequence(dtype: torch.dtype, rows: int, last: int) -> None:
    width = -(-last // 32)
    table = torch.arange(width + 1, dtype=torch.int32).flip(0)
    lengths = torch.arange(last - rows + 1, last + 1, dtype=torch.int32).clamp(min=1)
    lengths[-1] = 1
    stores = normal(2, width + 3, 1, 32, 96, dtype=dtype)
    given = (normal(rows, 1, 96, dtype=dtype), *stores, table, lengths)
    assert_close(fused.attend_sequence(*given), reference.attend_sequence(*given))
