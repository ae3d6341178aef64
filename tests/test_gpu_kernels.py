"""Every Triton kernel against its definition on odd shapes and every dtype; `pytest -m gpu`."""

import pytest
import torch

from phisight.kernels import operations, reference

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
TABLE = [[3, 5, 7], [1, 0, 0], [9, 8, 0], [2, 6, 4], [10, 0, 0]]
LENGTHS = [20, 1, 16, 24, 7]  # of blocks of 8
SHAPES = [(1, 2), (3, 96), (7, 64), (5, 16)]  # heads and their size


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    error = (got.double() - expected.double()).abs().max()
    assert error <= TOLERANCE.get(got.dtype, 0.07) * expected.double().abs().max()


def normal(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator(CUDA).manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, device=CUDA, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 48), (5, 3072), (2, 1000)])
def test_rms_norm(dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = normal(rows, size, dtype=dtype), normal(size, dtype=dtype)
    assert_close(operations(CUDA).rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 2), (3, 80), (5, 8192)])
def test_silu_product(dtype: torch.dtype, rows: int, size: int) -> None:
    x = normal(rows, 2 * size, dtype=dtype)
    assert_close(operations(CUDA).silu_product(x), reference.silu_product(x))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1,), (3, 577, 80), (2, 4096)])
def test_quick_gelu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = 4 * normal(*shape, dtype=dtype)
    assert_close(operations(CUDA).quick_gelu(x), reference.quick_gelu(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 5, 20])
@pytest.mark.parametrize(("outs", "ins"), [(37, 41), (1100, 1000), (9216, 3072), (3072, 8192)])
@pytest.mark.parametrize("adds", [False, True])
def test_linear(dtype: torch.dtype, rows: int, outs: int, ins: int, adds: bool) -> None:
    x, weight = normal(rows, ins, dtype=dtype), normal(outs, ins, dtype=dtype)
    residual = normal(rows, outs, dtype=dtype) if adds else None
    expected = reference.linear(*(t.double() for t in (x, weight)), None)
    if residual is not None:
        expected += residual.double()
    assert_close(operations(CUDA).linear(x, weight, residual), expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 5, 20])
@pytest.mark.parametrize(
    ("outs", "ins"), [(74, 41), (1100, 1000), (9216, 3072), (16384, 3072), (2432, 448)]
)
def test_linear_after_norm_and_with_gates(
    dtype: torch.dtype, rows: int, outs: int, ins: int
) -> None:
    x, norm = normal(rows, ins, dtype=dtype), normal(ins, dtype=dtype)
    weight = normal(outs, ins, dtype=dtype) * ins**-0.5  # or SiLU has no curve left
    for name in ("normed_linear", "gated_linear"):
        got, expected = (
            getattr(ops, name)(x, norm, 1e-5, weight) for ops in (operations(CUDA), reference)
        )
        assert_close(got, expected)


@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn], ids=["same", "fp8"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "size"), SHAPES)
def test_store_and_attend(
    dtype: torch.dtype, heads: int, size: int, stored: torch.dtype | None
) -> None:
    """Also where the blocks hold what is no number beyond the sequence's tokens."""
    rows = len(TABLE)
    table, lengths = (
        torch.tensor(numbers, dtype=torch.int32, device=CUDA) for numbers in (TABLE, LENGTHS)
    )
    stores = normal(2, 12, heads, 8, size, dtype=dtype).to(stored or dtype)
    if stored is None:
        stores[:, 7, :, 4:] = torch.nan
    own, other = stores.clone(), stores.clone()
    qkv = normal(rows, 3 * heads * size, dtype=dtype)
    cos, sin = normal(2, rows, size, dtype=dtype)
    rotated = reference.rotate_and_store(qkv, cos, sin, *other, table, lengths)
    assert_close(operations(CUDA).rotate_and_store(qkv, cos, sin, *own, table, lengths), rotated)
    if stored is None:
        assert torch.equal(own.isnan(), other.isnan())
        assert_close(own.nan_to_num(), other.nan_to_num())
    else:  # a product rounded the other way may be one step of three bits away
        apart = (own.float() - other.float()).abs()
        assert (apart <= 0.13 * other.float().abs() + 1e-3).all()
    mixed = operations(CUDA).attend_blocks(rotated, *other, table, lengths)
    assert_close(mixed, reference.attend_blocks(rotated, *other, table, lengths))


@pytest.mark.parametrize("heads", [3, 9, 32])
def test_store_of_many_rows(heads: int) -> None:
    rows, dtype = 50, torch.bfloat16
    table = torch.randperm(3 * rows, device=CUDA).int().view(rows, 3)
    lengths = torch.arange(rows, device=CUDA).int() % 24 + 1
    qkv = normal(rows, 3 * heads * 96, dtype=dtype)
    cos, sin = normal(2, rows, 96, dtype=dtype)
    stores = normal(2, 3 * rows, heads, 8, 96, dtype=dtype)
    own, other = stores.clone(), stores.clone()
    rotated = operations(CUDA).rotate_and_store(qkv, cos, sin, *own, table, lengths)
    assert_close(rotated, reference.rotate_and_store(qkv, cos, sin, *other, table, lengths))
    assert_close(own, other)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 4097), (2, 31), (40, 700)])
def test_attention_in_many_parts(rows: int, length: int) -> None:
    width = -(-length // 32)
    table = torch.randperm(rows * width, device=CUDA).int().view(rows, width)
    lengths = torch.full((rows,), length, dtype=torch.int32, device=CUDA)
    q = normal(rows, 32, 96, dtype=torch.bfloat16)
    stores = normal(2, rows * width, 32, 32, 96, dtype=torch.bfloat16)
    mixed = operations(CUDA).attend_blocks(q, *stores, table, lengths)
    assert_close(mixed, reference.attend_blocks(q, *stores, table, lengths))
    assert torch.equal(mixed, operations(CUDA).attend_blocks(q, *stores, table, lengths))


@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn], ids=["same", "fp8"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "last"), [(2, 2), (7, 40), (16, 4097), (31, 2600), (32, 33)])
@pytest.mark.parametrize(("heads", "size"), [(3, 96), (5, 16)])
def test_rows_of_one_sequence(
    dtype: torch.dtype, rows: int, last: int, heads: int, size: int, stored: torch.dtype | None
) -> None:
    """Each sees those before it; a row without a sequence has one token."""
    width = -(-last // 32)
    table = torch.randperm(width + 3, device=CUDA).int()[: width + 1]
    lengths = torch.arange(last - rows + 1, last + 1, dtype=torch.int32, device=CUDA).clamp(min=1)
    lengths[-1] = 1
    q = normal(rows, heads, size, dtype=dtype)
    stores = normal(2, width + 3, heads, 32, size, dtype=dtype).to(stored or dtype)
    given = (q, *stores, table, lengths)
    assert_close(operations(CUDA).attend_sequence(*given), reference.attend_sequence(*given))
