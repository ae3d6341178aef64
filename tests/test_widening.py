"""bfloat16 on a processor that has no products of it: everything is multiplied in float32."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import phisight
from phisight.engine.capacity import CacheShape
from phisight.engine.engine import Engine
from phisight.engine.request import Request, Token
from phisight.kernels import dense, native, reached
from phisight.kernels.ways import Way
from phisight.params import SamplingParams
from phisight.placement import choose_placement

EXAMPLES = Path(__file__).parents[1] / "examples"
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "convolution", "mkldnn", "attention")


@pytest.fixture
def _plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor with AVX2 alone."""
    monkeypatch.setattr(reached, "torch_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(native, "best_way", lambda: Way.FLOAT)
    yield


class Products(TorchDispatchMode):
    """Names of the products of bfloat16 that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        of = [x.dtype for x in args if isinstance(x, Tensor)]
        if torch.bfloat16 in of and any(word in name for word in PRODUCTS):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.usefixtures("_plain")
def test_a_linear_layer_is_float32s_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "PIECE", 4 * 64 * 10)  # ten outputs at a time
    x, weight, bias = normal(2, 3, 64), normal(37, 64), normal(37)
    right = (x.double() @ weight.double().T + bias.double()).float()
    with Products() as products:
        got = dense.linear(x, weight, bias)
    assert not products.seen
    assert got.dtype == torch.bfloat16
    assert (got.float() - right).abs().max() <= 2**-8 * right.abs().max()
    assert torch.equal(dense.linear(x.float(), weight.float()), x.float() @ weight.float().T)


@pytest.mark.usefixtures("_plain")
def test_what_is_traced_is_left_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not dense.widens(normal(2, 2))


def steps(model: phisight.Model) -> list[int]:
    """Ids of a short answer on a picture, by an engine in this thread."""
    engine = Engine(model.network, shape=CacheShape(120, 16, torch.bfloat16))
    prompt = model.processor.prompt("What is this?", [EXAMPLES / "book.png"])
    (image,) = prompt.images
    features = model.network.encode_image(image.pixels, image.layout.rows, image.layout.cols)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    for _ in range(2):  # two at once: single tokens beside a prompt
        engine.add(Request(prompt.ids, [features], params))
    ids = []
    while not engine.is_idle:
        for output in engine.step():
            assert isinstance(output.result, Token)
            ids.append(output.result.token_id)
    return ids


@pytest.mark.parametrize("path", ["compiled", "plain"])
@pytest.mark.parametrize("weights", [None, "int8", "int4"])
@pytest.mark.usefixtures("_plain")
def test_no_product_of_bfloat16_is_left(
    path: str, weights: str | None, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Callable[[], Any] = lambda: native.opened(library) if path == "compiled" else None  # noqa: E731
    monkeypatch.setattr(native, "_library", found)
    load = functools.partial(phisight.load, "nano", device="cpu", weights=weights)
    model, wide = load(dtype="bfloat16"), load(dtype="float32")
    with torch.inference_mode(), Products() as products:
        got = steps(model)
    # Torch's own operation of 4 bits takes rows of bfloat16, and is quick everywhere.
    left = [name for name in products.seen if "int4pack" not in name]
    assert not left
    with torch.inference_mode():
        assert got == steps(wide)


@pytest.mark.usefixtures("_plain")
def test_every_cpu_has_half_of_float32s_memory() -> None:
    placement = choose_placement("cpu", None)
    assert placement.dtype == torch.bfloat16
    assert placement.reason == "half of float32's memory; cpu multiplies it in float32"
