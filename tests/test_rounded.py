"""Inputs rounded to 8 bits: what that means, and that every way of multiplying agrees."""

import functools
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import phisight
from phisight.errors import OptionError
from phisight.kernels import native, packed, rounded
from phisight.kernels.ways import Bytes, Kind
from phisight.model.packed import Int4Linear, Int7Linear, Int8Linear

EXAMPLES = Path(__file__).parents[1] / "examples"
PACK = {Kind.INT8: packed.pack_int8, Kind.INT4: packed.pack_int4, Kind.INT7: rounded.pack_int7}


@pytest.fixture(params=["library", "other_library"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = request.getfixturevalue(request.param)
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, path))
    rounded.best_way.cache_clear()
    yield
    rounded.best_way.cache_clear()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def meant(kind: Kind, parts: tuple[Tensor, ...], width: int) -> Tensor:
    """The weights that packed parts stand for, (N, K)."""
    if kind == Kind.INT8:
        return packed.unpack_int8(*parts)
    unpack = packed.unpack_int4 if kind == Kind.INT4 else rounded.unpack_int7
    return unpack(*parts, width)


def test_a_row_keeps_a_127th_of_each_span_s_largest() -> None:
    x = normal(5, 300)
    x[:, 130] = 1000.0  # costs its own span alone
    near = rounded.round_rows(x, 128)
    error = (near - x).abs()
    assert error[:, :128].max() <= x[:, :128].abs().amax() / 254
    assert error[:, 256:].max() <= x[:, 256:].abs().amax() / 254
    assert error[:, 128:256].max() <= 1000 / 254
    assert torch.equal(near[:, 130], x[:, 130])
    assert torch.equal(rounded.round_rows(torch.zeros(2, 200), 128), torch.zeros(2, 200))


def test_seven_bits_store_the_nearest_of_128() -> None:
    weight = normal(33, 700) * 0.02
    weight[:, 600] = 5.0  # in the second span
    parts = rounded.pack_int7(weight)
    assert parts[0].shape == (2, 12, 32, 64)
    assert parts[1].shape == parts[2].shape == (33, 2)
    error = (rounded.unpack_int7(*parts, 700) - weight).abs()
    for span in (slice(0, 512), slice(512, 700)):
        whole = weight[:, span].amax(1) - weight[:, span].amin(1)
        # Half a step, and what rounding scale and offset to bfloat16 moves the farthest code.
        assert (error[:, span].amax(1) <= whole * (0.5 / 127 + 2**-8)).all()
    assert parts[0].max() <= 127


@pytest.mark.parametrize(
    ("kind", "way"), [(k, w) for k in Kind for w in Bytes if rounded.can_multiply(k, w)], ids=str
)
@pytest.mark.parametrize("shape", [(37, 41), (264, 448), (100, 1300), (33, 4230)], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 17, 33, 130, 330])
@pytest.mark.usefixtures("compiled")
def test_every_way_multiplies_what_was_rounded(
    kind: Kind, way: Bytes, shape: tuple[int, int], rows: int
) -> None:
    """Up to four rows are another kernel's; 330 of 4,230 inputs are more than one panel. Eight bits
    by eight do not fit AVX2's sums of two products, so that pair is not there."""
    if not native.built().phisight_has_bytes(int(way)):
        pytest.skip("this processor does not multiply so")
    parts = PACK[kind](normal(*shape) * 0.02)
    codes, scales, *offsets = parts
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 4e-3)):
        x, bias = normal(rows, shape[1]).to(dtype), normal(shape[0]) if rows % 2 else None
        y = rounded.multiply(x, kind, codes, scales, *offsets or [None], bias, way=way)
        right = (
            rounded.round_rows(x, rounded.span_of(kind)).double()
            @ meant(kind, parts, shape[1]).double().T
        )
        right = right if bias is None else right + bias
        assert y.dtype == dtype
        assert (y.double() - right).abs().max() <= bound * right.abs().max()


@pytest.mark.parametrize("way", [way for way in Bytes if way != Bytes.NONE], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.usefixtures("compiled")
def test_an_activation_within_is_the_one_after(way: Bytes, dtype: torch.dtype) -> None:
    """Large outputs too, of both signs; more than are written through the caches."""
    if not native.built().phisight_has_bytes(int(way)):
        pytest.skip("this processor does not multiply so")
    parts, bias = rounded.pack_int7(normal(2048, 300) * 0.2), normal(2048) * 20
    x = normal(600, 300).to(dtype)
    with torch.inference_mode():
        y = rounded.multiply(x, Kind.INT7, *parts, bias, gelu=True, way=way)
        plain = rounded.multiply(x, Kind.INT7, *parts, bias, way=way)
    right = plain.double() * torch.sigmoid(1.702 * plain.double())
    near = (y.double() - right).abs() / right.abs().clamp(min=1e-3)
    assert near.max() <= (2**-8 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("kind", "way"),
    [(Kind.INT4, Bytes.PAIRS), (Kind.INT4, Bytes.WIDE_FOURS), (Kind.INT8, Bytes.WIDE_FOURS)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(37, 41), (264, 448), (100, 1280), (33, 4230)], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 16])
@pytest.mark.usefixtures("compiled")
def test_sixteen_bits_stand_for_bfloat16(
    kind: Kind, way: Bytes, shape: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearer than a result's last digit; and what decoding asks for is this."""
    if not native.built().phisight_has_bytes(int(way)):
        pytest.skip("this processor does not multiply so")
    monkeypatch.setattr(native, "few", lambda x: 16)
    asked = []
    monkeypatch.setattr(native, "way_of_words", lambda *of: asked.append(of) or way)
    parts = PACK[kind](normal(*shape) * 0.02)
    # Rows of 8 bits are not padded, and kernels of words take whole groups alone.
    width = -(-shape[1] // 128) * 128 if kind == Kind.INT8 else shape[1]
    if width != shape[1]:
        parts = (torch.nn.functional.pad(parts[0], (0, width - shape[1])), *parts[1:])
    x = normal(rows, width).bfloat16()
    if rows > 1:
        x[-1, 1] = 300.0  # costs its own group's small numbers alone
    y = (packed.linear_int8 if kind == Kind.INT8 else packed.linear_int4)(x, *parts)
    assert len(asked) == 1
    right = x.double() @ meant(kind, parts, width).double().T
    assert y.dtype == torch.bfloat16
    error = (y.double() - right).abs().amax(1)
    assert (error <= 4e-3 * right.abs().amax(1)).all()
    x[0, 2] = torch.inf
    y = (packed.linear_int8 if kind == Kind.INT8 else packed.linear_int4)(x, *parts)
    assert not y[0].isfinite().any()
    assert y[1:].isfinite().all()


@pytest.mark.parametrize(
    ("has", "found"),
    [
        ((), {}),
        ((Bytes.PAIRS,), {(Kind.INT4, 256): Bytes.PAIRS, (Kind.INT4, 130): Bytes.PAIRS}),
        (
            (Bytes.PAIRS, Bytes.WIDE_FOURS),
            {(Kind.INT4, 256): Bytes.WIDE_FOURS, (Kind.INT8, 256): Bytes.WIDE_FOURS},
        ),
    ],
)
def test_words_are_taken_where_they_are_fast(
    has: tuple[Bytes, ...],
    found: dict[tuple[Kind, int], Bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = types.SimpleNamespace(phisight_has_bytes=lambda way: way in has)
    monkeypatch.setattr(native, "built", lambda: library)
    for kind in (Kind.INT4, Kind.INT8):
        for width in (256, 130):
            x = torch.zeros(1, width, dtype=torch.bfloat16)
            assert native.way_of_words(x, kind) == found.get((kind, width), Bytes.NONE)
            assert native.way_of_words(x.float(), kind) == Bytes.NONE


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.usefixtures("compiled")
def test_what_is_no_number_stays_none(kind: Kind, rows: int) -> None:
    codes, scales, *offsets = PACK[kind](normal(32, 256))
    for broken in (torch.nan, torch.inf):
        x = normal(rows, 256)
        x[1, 200] = broken
        y = rounded.linear(x, kind, codes, scales, *offsets)
        assert not y[1].isfinite().any()
        assert y[0].isfinite().all()


@pytest.mark.parametrize("path", ["compiled", "plain"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layers_give_the_same_with_kernels_and_without(
    path: str, dtype: torch.dtype, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows of 4 bits by torch's own operation, of rows that are rounded to bfloat16 again."""
    found = library if path == "compiled" else Path("/nowhere")
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, found))
    rounded.best_way.cache_clear()
    weight = normal(48, 200) * 0.02
    layers = (Int4Linear(200, 48, rounds=True), Int8Linear(200, 48, rounds=True))
    for layer in (*layers, Int7Linear(200, 48)):
        kind = {Int4Linear: Kind.INT4, Int8Linear: Kind.INT8, Int7Linear: Kind.INT7}[type(layer)]
        parts = layer.pack(weight)
        state = {**parts, "bias": normal(48)} if kind == Kind.INT7 else parts
        layer.load_state_dict(state)
        if isinstance(layer, Int4Linear):
            layer.settle(dtype)
        wide = meant(kind, tuple(parts.values()), 200).double()
        for rows in (1, 7, 70):
            x = normal(rows, 200).to(dtype)
            right = rounded.round_rows(x, rounded.span_of(kind)).double() @ wide.T
            right = right + state["bias"] if kind == Kind.INT7 else right
            bound = 1e-5 if dtype == torch.float32 else 8e-3
            y = layer(x[None])
            assert y.shape == (1, rows, 48)
            assert (y[0].double() - right).abs().max() <= bound * right.abs().max()
    rounded.best_way.cache_clear()


def test_how_rounded_rows_are_multiplied_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        (Bytes.NONE, "int4"): "multiplied as float32: no kernels for them",
        (Bytes.PAIRS, "int4"): "multiplied as whole numbers",
        (Bytes.PAIRS, "int8"): "multiplied as float32 but for the vision tower's: AVX2 has no "
        "products for int8",
        (Bytes.FOURS, "int8"): "multiplied as whole numbers",
    }
    for (way, weights), right in told.items():
        monkeypatch.setattr(rounded, "best_way", lambda way=way: way)
        assert rounded.described(weights) == right


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_model_that_rounds_answers_the_how_tos_questions(
    weights: str, nano: phisight.Model, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    rounded.best_way.cache_clear()
    model = phisight.load("nano", device="cpu", weights=weights, activations="int8")
    assert "inputs in int8, multiplied as " in str(model.placement)
    tower = model.network.model.vision_embed_tokens
    assert not any(type(layer) is torch.nn.Linear for layer in tower.modules())
    asks = {
        "book.png": "Help me get the title and author information of this book?",
        "chart.png": "Could you please introduce this stock to me?",
    }
    rows = [{"prompt": question, "images": [EXAMPLES / name]} for name, question in asks.items()]
    together = [answer.text for answer in model.ask_many(rows)]
    assert together == [answer.text for answer in nano.ask_many(rows)]
    # An answer does not depend on what runs beside it.
    assert model.ask(asks["book.png"], [EXAMPLES / "book.png"]).text == together[0]
    prompt = model.processor.prompt("?", [EXAMPLES / "book.png"])
    shown = nano.processor.prompt("?", [EXAMPLES / "book.png"])
    near, right = model.encode_image(prompt.images[0]), nano.encode_image(shown.images[0])
    error = (near.features - right.features).float()
    assert 0 < error.norm() < 0.1 * right.features.float().norm()
    rounded.best_way.cache_clear()


def test_only_packed_models_round() -> None:
    with pytest.raises(OptionError, match="add weights=int4"):
        phisight.load("nano", device="cpu", activations="int8")


def test_answers_kept_on_disk_are_not_those_of_another_rounding(tmp_path: Path) -> None:
    """A question on a picture that a model without rounding kept reads it anew."""
    for activations, again in ((None, False), ("int8", False), ("int8", True)):
        model = phisight.load(
            "nano", device="cpu", weights="int8", activations=activations, cache_dir=tmp_path
        )
        answer = model.ask("Describe this.", [EXAMPLES / "chart.png"], max_tokens=2)
        assert (answer.usage.cached_tokens > 0) == again
