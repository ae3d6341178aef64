import json
from pathlib import Path

import pytest

from phisight.errors import ImageError
from phisight.hd import CROP, hd_layout

GOLDENS = json.loads(
    Path(__file__).with_name("reference").joinpath("goldens/processor.json").read_text()
)


@pytest.mark.parametrize("num_crops", [4, 16])
def test_official_sizes_and_token_counts(num_crops: int) -> None:
    rows = [row for row in GOLDENS["sizes"] if row["num_crops"] == num_crops]
    assert len(rows) == 200
    for row in rows:
        layout = hd_layout(row["w"], row["h"], num_crops)
        assert list(layout.padded_size) == row["image_size"], row
        assert layout.num_tokens == row["num_img_tokens"], row
        assert layout.num_crops == row["crops_used"], row


def test_extreme_shapes_fail_where_the_official_code_does() -> None:
    outcomes = []
    for row in GOLDENS["extreme"]:
        size = (row["w"], row["h"])
        if row["result"] == "ok":
            outcomes.append(hd_layout(*size, row["num_crops"]).num_crops)
            continue
        with pytest.raises(ImageError, match=f"{size[0]}x{size[1]} pixels is too long and thin"):
            hd_layout(*size, row["num_crops"])
    assert outcomes == [5, 17], "one row or column of all the crops, and the global view"


def test_message_names_the_limit_and_the_remedy() -> None:
    with pytest.raises(ImageError, match=r"num_crops=4 .* at most 1344 times .* raise num_crops"):
        hd_layout(1, 6000, 4)


def test_padding_fills_the_grid() -> None:
    for width, height in [(1, 1), (640, 480), (480, 640), (5376, 1), (1, 5376), (333, 1000)]:
        layout = hd_layout(width, height, 16)
        lines = layout.cols if layout.transposed else layout.rows
        assert layout.pad_before + layout.resized[1] + layout.pad_after == lines * CROP
        assert 0 <= layout.pad_after - layout.pad_before <= 1
