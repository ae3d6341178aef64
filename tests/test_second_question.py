"""A second question on a picture: what is computed for it is counted."""

import functools
import math
from pathlib import Path

import pytest

import phisight
from phisight.engine.runner import Runner
from phisight.kernels import native, packed

BOOK = Path(__file__).parents[1] / "examples" / "book.png"
BLOCK = 32  # tokens: what lies in a block that is not full is read again


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_nothing_is_encoded_read_or_unpacked_again(
    weights: str, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_library", functools.partial(native.opened, library))
    model = phisight.load("nano", device="cpu", weights=weights)
    encoded, read = [], []
    encode, reads = Runner.encode, Runner.read

    def encoding(self: Runner, pictures: list) -> None:
        encoded.extend(pictures)
        encode(self, pictures)

    def reading(self: Runner, slices: list, new_blocks: list) -> object:
        read.append(sum(part.count for part in slices))
        return reads(self, slices, new_blocks)

    monkeypatch.setattr(Runner, "encode", encoding)
    monkeypatch.setattr(Runner, "read", reading)
    first = model.ask("Who is the author of this book?", [BOOK])
    assert len(encoded) == 1
    chunks = math.ceil(first.usage.prompt_tokens / 512)
    assert sum(read[:chunks]) == first.usage.prompt_tokens
    read.clear()
    for name in ("int4_unpacked", "unpack_int4", "unpack_int8"):
        monkeypatch.setattr(native if name == "int4_unpacked" else packed, name, refused)
    second = model.ask("What is the title of this book, please?", [BOOK])
    assert len(encoded) == 1, "the picture is not encoded again"
    new = second.usage.prompt_tokens - second.usage.cached_tokens
    assert read[0] == new <= len("What is the title of this book, please?") + 16 + BLOCK
    assert sum(read[1:]) == len(read) - 1
    assert "ALONE" in second.text


def refused(*_: object) -> None:
    raise AssertionError("a matrix was unpacked")
