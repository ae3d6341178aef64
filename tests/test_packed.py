"""Packed weights: what the stored numbers mean, and that every way of multiplying agrees."""

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from phisight.kernels import native, native_attention, packed, paged, reached
from phisight.kernels.ways import GROUP, Way
from phisight.model.packed import FullLinear, Int4Linear, Int8Linear

SHAPES = [(16, 128), (37, 41), (264, 448), (64, 300)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}


@pytest.fixture(params=["library", "other_library", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With the compiled kernels, as the other kind of machine builds them, and without."""
    plain = request.param == "plain"
    path = Path("/nowhere") if plain else request.getfixturevalue(request.param)
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, path))
    assert native.is_built() != plain
    return "plain" if plain else "compiled"


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_store_the_nearest_of_sixteen(shape: tuple[int, int]) -> None:
    weight = normal(*shape)
    codes, scales, offsets = packed.pack_int4(weight)
    groups = packed.groups_of(shape[1])
    assert codes.shape == (shape[0], groups * GROUP // 2)
    assert codes.dtype == torch.uint8
    got = packed.unpack_int4(codes, scales, offsets, shape[1])
    padded = functional.pad(weight, (0, groups * GROUP - shape[1]))
    parts = padded.unflatten(1, (groups, -1))
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    rounded = ((parts - low) / (high - low) * 15).round() / 15 * (high - low) + low
    plain = (rounded.flatten(1)[:, : shape[1]] - weight).square().mean()
    assert (got - weight).square().mean() < 1.02 * plain  # as rounding to the range, or better


def test_an_extreme_weight_does_not_spoil_its_group() -> None:
    weight = normal(8, 128)
    weight[:, 5] = 8.0
    got = packed.unpack_int4(*packed.pack_int4(weight), 128)
    step = (8.0 - weight.amin(1)) / 15
    assert (got - weight).square().mean(1).max() < (step.square() / 12).max()


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_a_group_of_equal_weights_stays_what_it_is(value: float) -> None:
    weight = torch.full((16, 128), value)
    assert torch.equal(packed.unpack_int4(*packed.pack_int4(weight), 128), weight)
    codes, scales = packed.pack_int8(weight)
    assert (packed.unpack_int8(codes, scales) - weight).abs().max() <= abs(value) / 127


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, packed.FEW, packed.FEW + 1, 129])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_multiplies_what_is_stored(
    way: str, shape: tuple[int, int], rows: int, dtype: torch.dtype
) -> None:
    weight, x = normal(*shape) * 0.02, normal(rows, shape[1]).to(dtype)
    four, eight = packed.pack_int4(weight), packed.pack_int8(weight)
    stored = [packed.unpack_int4(*four, shape[1]), packed.unpack_int8(*eight)]
    got = [packed.linear_int4(x, *four), packed.linear_int8(x, *eight)]
    laid = packed.in_torchs_layout(*four, dtype)
    assert (laid is None) == bool(shape[0] % 16)
    if laid is not None:
        stored.append(stored[0])
        got.append(packed.linear_int4_by_torch(x, *laid))
    for weights, y in zip(stored, got, strict=True):
        right = x.double() @ weights.double().T
        assert y.dtype == dtype
        assert (y.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()


def test_the_compiled_unpacking_is_the_definition(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    parts = packed.pack_int4(normal(70, 300))
    right = packed.unpack_int4(*parts, 3 * GROUP).bfloat16()
    assert torch.equal(native.int4_unpacked(*parts), right)


@pytest.mark.parametrize("shape", [(264, 448), (37, 96), (70, 64)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("product", [Way.FLOAT, Way.BFLOAT16])
def test_compiled_products_in_bfloat16(
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    rows: int,
    product: Way,
) -> None:
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    if product > native.best_way():
        pytest.skip("this processor does not multiply bfloat16")
    weight, x = normal(*shape).bfloat16(), normal(rows, shape[1]).bfloat16()
    right = x.double() @ weight.double().T
    got = native.dense(x, weight, way=product).double()
    assert (got - right).abs().max() <= 6e-3 * right.abs().max()
    monkeypatch.setattr(native, "best_way", lambda: product)
    monkeypatch.setattr(reached, "torch_multiplies_bfloat16", lambda: product != Way.FLOAT)
    assert native.can_multiply(x, weight) == (rows <= 4 or product == Way.FLOAT)
    assert not native.can_multiply(normal(17, shape[1]).bfloat16(), weight)
    assert not native.can_multiply(x.float(), weight)
    assert not native.can_multiply(x[:, :-1], weight[:, :-1])


@pytest.mark.parametrize("size", [32, 96])
def test_compiled_attention(library: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    keys, values = (normal(40, 3, 16, size + i).bfloat16()[..., :size].contiguous() for i in (0, 1))
    q = normal(3, 3, size).bfloat16()
    pages = paged.Pages.of([([3, 1, 7], 40), ([9], 1), ([10, 11, 12, 20, 30], 80)], keys)
    wide = (tensor.double() for tensor in (q, keys, values))
    right = paged.attend_pages_gathered(*wide, pages)
    assert native_attention.can_attend(q, keys)
    got = paged.attend_pages(q, keys, values, pages)
    assert (got.double() - right).abs().max() <= 4e-3
    alone = paged.Pages.of([([9], 1)], keys)
    assert torch.equal(paged.attend_pages(q[1:2], keys, values, alone)[0], got[1])


def test_a_library_of_another_version_is_left_alone(library: Path, tmp_path: Path) -> None:
    assert native.opened(tmp_path / "no.so") is None
    (tmp_path / "text.so").write_text("no library")
    assert native.opened(tmp_path / "text.so") is None
    (tmp_path / "other.c").write_text("int phisight_version(void) { return 0; }")
    other = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "other.c", "-o", other], check=True)
    assert native.opened(other) is None
    assert native.opened(library) is not None


def test_what_is_not_meant_is_refused_or_left_to_torch(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled kernels read memory by its address: nothing else may reach them."""
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    full = FullLinear(64, 32).bfloat16()
    four, eight = Int4Linear(128, 32), Int8Linear(64, 32)
    with torch.inference_mode():
        for layer, width in ((full, 64), (four, 128), (eight, 64)):
            for wrong in (width - 32, 2 * width):
                with pytest.raises((RuntimeError, ValueError)):
                    layer(torch.ones(1, wrong, dtype=torch.bfloat16))
    x, weight = torch.ones(1, 64, dtype=torch.bfloat16), full.weight.detach()
    assert not native.can_multiply(x, weight.to("meta"))
    assert not native.can_multiply(x.to("meta"), weight)
    parts = packed.pack_int4(normal(32, 128))
    assert not native.takes(torch.ones(1, 128, device="meta"), *parts)
    with pytest.raises(TypeError, match="packed weights cannot be converted"):
        packed.linear_int4(torch.ones(1, 128), parts[0], parts[1].float(), parts[2])
