"""Each operation against its plainest form, on odd shapes and every dtype."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from phisight.kernels import fused_fault, paged
from phisight.kernels.paged import (
    Pages,
    attend_pages_gathered,
    attend_pages_in_place,
    parts_of,
    read_pages,
    runs_of,
    write_pages,
)
from phisight.kernels.patches import embed_patches, embed_patches_by_product

# Of the largest value; bfloat16 keeps 8 bits, and sums of rounded products drift by a few of them.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Pages], torch.Tensor]


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


# Blocks of 8 tokens, out of 40, of which each sequence holds some.
SEQUENCES = [
    ([3], 1),
    ([9, 10, 11, 12], 30),
    ([7, 5, 6, 20], 32),
    ([0, 39], 9),
    ([1, 8, 13, 14], 31),
]


@pytest.mark.parametrize("attend", [attend_pages_gathered, attend_pages_in_place])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "size"), [(1, 2), (7, 64), (3, 96)])
@pytest.mark.parametrize("long_blocks", [0, 2, 99])
def test_one_query_over_blocks(
    attend: Attend,
    dtype: torch.dtype,
    heads: int,
    size: int,
    long_blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 40, heads, 8, size, generator=generator).to(dtype)
    q = torch.randn(len(SEQUENCES), heads, size, generator=generator).to(dtype)
    monkeypatch.setattr(paged, "RUN_WORTH", long_blocks * 2 * keys[0].nbytes)
    mixed = attend(q, keys, values, Pages.of(SEQUENCES, keys))
    for row, (blocks, stored) in enumerate(SEQUENCES):
        used = torch.tensor(blocks[: -(-stored // 8)])
        k, v = (read_pages(store, used, stored, dtype) for store in (keys, values))
        assert k.shape == (heads, stored, size)
        expected = functional.scaled_dot_product_attention(q[row, :, None], k, v)  # (H, 1, d)
        assert_close(mixed[row], expected[:, 0])


@pytest.mark.parametrize("blocks", [[5, 1, 2], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.float8_e4m3fn], ids=str)
def test_what_is_written_to_blocks_is_read_from_them(dtype: torch.dtype, blocks: list[int]) -> None:
    store = torch.zeros(6, 3, 4, 2).to(dtype)
    x = torch.arange(9 * 3 * 2).view(9, 3, 2) % 16
    written, at = torch.tensor(blocks), torch.arange(9)
    write_pages(store, written[at // 4], at % 4, x.to(torch.float32))
    ways: list[torch.Tensor | slice] = [written]
    if len(runs_of(blocks)) == 1:
        ways += runs_of(blocks)
    for way in ways:
        read = read_pages(store, way, 9, torch.float32)
        assert read.tolist() == x.transpose(0, 1).tolist()


def test_runs_are_neighbours() -> None:
    assert runs_of([4, 5, 6, 1, 9, 8]) == [slice(4, 7), slice(1, 2), slice(9, 10), slice(8, 9)]
    assert runs_of([]) == []


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([4, 5, 6, 1, 9], [slice(4, 7), [1, 9]]),
        ([1, 9, 4, 5, 6], [[1, 9], slice(4, 7)]),
        ([1, 4, 5, 6, 9, 20, 21, 22], [[1, 9], slice(4, 7), slice(20, 23)]),
        ([4, 5, 6, 1, 2], [slice(4, 7), slice(1, 3)]),
        ([7, 3], [[7, 3]]),
        ([2], [slice(2, 3)]),
    ],
)
def test_short_runs_are_copied_together(blocks: list[int], expected: list[Any]) -> None:
    parts = parts_of(blocks, 3)
    assert [part if isinstance(part, slice) else part.tolist() for part in parts] == expected


def test_a_gpu_without_a_working_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no compiler for what it builds: steps then run without it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "phisight.kernels.fused", raising=False)
    fault = fused_fault.__wrapped__(torch.device("cuda"))
    assert fault is not None
    assert fault.startswith("Triton does not work here (")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert fused_fault.__wrapped__(torch.device("cuda")) == (
        "cuda is older than Triton's kernels are made for"
    )
    assert fused_fault.__wrapped__(torch.device("cpu")) == "cpu runs no Triton kernels"
