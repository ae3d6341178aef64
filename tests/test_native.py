"""The compiled kernels against what they are defined by: rows by blocks of packed weights,
attention of many queries, and what stands between a layer's products."""

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phisight.kernels import between, native, native_attention, packed, reached, reference
from phisight.kernels.ways import Kind, Way


@pytest.fixture(autouse=True, params=["library", "other_library"])
def _compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = request.getfixturevalue(request.param)
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, path))
    yield


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def stored(kind: Kind, weight: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """A weight's parts as they are stored, and what these mean."""
    if kind == Kind.INT4:
        four = packed.pack_int4(weight)
        return four, packed.unpack_int4(*four, weight.shape[1])
    eight = packed.pack_int8(weight)
    return eight, packed.unpack_int8(*eight)


@pytest.mark.parametrize("kind", [Kind.INT8, Kind.INT4])
@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("shape", [(37, 41), (264, 448), (100, 1300), (33, 4230)], ids=str)
@pytest.mark.parametrize("rows", [1, 16, 17, 33, 130, 210])
def test_rows_by_blocks(kind: Kind, way: Way, shape: tuple[int, int], rows: int) -> None:
    """(33, 4230) by 210 rows is more than a core's cache holds: inputs are taken in two parts."""
    if way > native.best_way():
        pytest.skip("this processor does not multiply so")
    parts, meant = stored(kind, normal(*shape) * 0.02)
    x = normal(rows, shape[1]).to(torch.float32 if way == Way.FLOAT else torch.bfloat16)
    y = native.rows(x, kind, *parts, way=way)
    right = x.double() @ meant.double().T
    bound = 1e-5 if way == Way.FLOAT else 8e-3
    assert y.dtype == x.dtype
    assert (y.double() - right).abs().max() <= bound * right.abs().max()


def mixed_as_defined(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Assert that; the three in float64, heads before tokens."""
    if not native_attention.can_mix(q, k, v):
        pytest.skip("this processor has no tile registers")
    wide = [x.double().transpose(1, 2) for x in (q, k, v)]
    right = functional.scaled_dot_product_attention(*wide).transpose(1, 2)
    got = native_attention.mix(q, k, v)
    assert (got.double() - right).abs().max() <= 8e-3 * right.abs().max()
    return wide


@pytest.mark.parametrize(
    ("queries", "total", "size"), [(20, 90, 32), (70, 70, 64), (33, 300, 96), (300, 300, 32)]
)
def test_attention_of_many(queries: int, total: int, size: int) -> None:
    q, k, v = (normal(2, n, 3, size + i).bfloat16()[..., :size].contiguous()
               for i, n in enumerate((queries, total, total)))  # fmt: skip
    wide = mixed_as_defined(q, k, v)
    table = torch.randperm(40, generator=torch.Generator().manual_seed(0))[: -(-total // 16)]
    keys, values = (torch.full((40, 3, 16, size), torch.nan).bfloat16() for _ in range(2))
    for store, x in ((keys, k), (values, v)):
        for i in range(total):
            store[table[i // 16], :, i % 16] = x[0, i]
    mask = torch.ones(queries, total, dtype=torch.bool).tril(total - queries)
    right = functional.scaled_dot_product_attention(*(x[:1] for x in wide), attn_mask=mask)
    got = native_attention.mix_pages(q[0], keys, values, table, total)
    assert (got.double() - right[0].transpose(0, 1)).abs().max() <= 8e-3 * right.abs().max()


def test_attention_of_far_scores() -> None:
    """A query that sees one key only, and scores that lie hundreds apart."""
    q, k, v = (100 * normal(1, 40, 2, 32 + i).bfloat16()[..., :32].contiguous() for i in range(3))
    mixed_as_defined(q, k, v)


@pytest.mark.parametrize("shape", [(3, 64), (2, 33, 96)], ids=str)
def test_between_products(shape: tuple[int, ...]) -> None:
    x = (4 * normal(*shape)).bfloat16()
    x.view(-1)[:4] = torch.tensor([0.0, -200.0, 200.0, -20.0])
    weight = normal(shape[-1]).bfloat16()
    wide = x.double()
    with torch.inference_mode():
        gelu, product = between.quick_gelu(x.clone()), between.silu_product(x)
        norm = between.rms_norm(x, weight, 1e-5)
    for got, right in (
        (gelu, wide * torch.sigmoid(1.702 * wide)),
        (product, reference.silu_product(wide)),
        (norm, reference.rms_norm(wide, weight.double(), 1e-5)),
    ):
        assert got.dtype == torch.bfloat16
        assert ((got.double() - right).abs() <= 8e-3 * right.abs() + 1e-30).all()
    assert (norm.double() - reference.rms_norm(x, weight, 1e-5)).abs().max() <= 0.04


def test_between_products_elsewhere() -> None:
    """What is differentiated, of another type or not contiguous goes through torch."""
    x = normal(4, 64).requires_grad_()
    between.quick_gelu(x.bfloat16()).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        y = normal(4, 64).bfloat16()[:, ::2]
        assert torch.equal(between.quick_gelu(y), y * torch.sigmoid(1.702 * y))


def test_rotation_and_writing() -> None:
    """Out of the middle of wider rows, as a layer's queries, keys and values lie."""
    qkv = normal(9, 3, 2, 64).bfloat16()
    cos, sin = (normal(9, 64 + i).bfloat16()[:, :64].contiguous() for i in (0, 1))
    with torch.inference_mode():
        got = between.rotate(qkv[:, :2], cos, sin)
        wide = [x.double() for x in (qkv[:, :2], cos, sin)]
        assert not reached.is_plain(torch.ones(1, device="meta"))
        right = between.rotate(*wide)
        assert got.dtype == torch.bfloat16
        assert (got.double() - right).abs().max() <= 8e-3 * right.abs().max()
        store = torch.zeros(5, 2, 4, 64).bfloat16()
        blocks = torch.tensor([3, 3, 3, 3, 0, 0, 0, 0, 4])
        places = torch.arange(9) % 4
        assert native_attention.can_write(store, blocks, qkv[:, 2])
        native_attention.write(store, blocks, places, qkv[:, 2])
        for i in range(9):
            assert torch.equal(store[blocks[i], :, places[i]], qkv[i, 2])
        assert store.count_nonzero() <= 9 * 2 * 64
