"""HD geometry: (width, height) -> resized size, padding, crop grid, image-token count.

Owns these numbers alone; knows nothing of pixels or tensors. Follows the official
`image_processing_phi3_v.py` (HD_transform, padding_336), floating-point divisions included, since
`int(new_w / ratio)` decides the height of the resized picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from phisight.errors import ImageError

CROP = 336  # side of a crop in pixels
PATCHES = 24  # ViT patches along a crop's side: CROP / 14
CELLS = PATCHES // 2  # image tokens along a crop's side, after merging 2x2 patches


@dataclass(frozen=True)
class HDLayout:
    """How one picture is cut. All sizes in pixels except the grid's rows and columns, in crops.

    `transposed` pictures (taller than wide) are laid out lying down, as the reference does, and
    turned back at the end: `resized`, `pad_before` and `pad_after` are in the lying frame, while
    `rows` and `cols` are those of the upright result.
    """

    transposed: bool
    resized: tuple[int, int]  # width, height
    pad_before: int  # white rows above the resized picture
    pad_after: int  # white rows below it
    rows: int
    cols: int

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) of the padded picture: the reference's `image_sizes`."""
        return self.rows * CROP, self.cols * CROP

    @property
    def num_crops(self) -> int:
        """Real crops: the global one and the grid's."""
        return 1 + self.rows * self.cols

    @property
    def num_tokens(self) -> int:
        """Positions the picture takes in a prompt: grid cells, line ends, the global view."""
        lines = self.rows * CELLS * (self.cols * CELLS + 1)
        return lines + 1 + CELLS * (CELLS + 1)


def hd_layout(width: int, height: int, num_crops: int) -> HDLayout:
    """Lay a picture of width x height pixels out on at most `num_crops` crops.

    Raises ImageError if one side is so much longer than the other that nothing would be left of
    the shorter one (the reference fails there as well).
    """
    if min(width, height) < 1:
        raise ImageError(f"a picture of {width}x{height} pixels is empty")
    transposed = width < height
    long, short = (height, width) if transposed else (width, height)
    ratio = long / short
    # The largest number of columns whose grid fits the budget: a loop in the reference, and no
    # square root gives the same grids (1,167 of 4,186 common sizes would differ).
    cols = 1
    while (cols + 1) * math.ceil((cols + 1) / ratio) <= num_crops:
        cols += 1
    new_width = cols * CROP
    new_height = int(new_width / ratio)
    if new_height == 0:
        raise ImageError(
            f"a picture of {width}x{height} pixels is too long and thin: with "
            f"num_crops={num_crops} the longer side may be at most {CROP * num_crops} times the "
            "shorter one; "
            "crop the picture or raise num_crops"
        )
    rows = math.ceil(new_height / CROP)
    padding = rows * CROP - new_height
    before = padding // 2
    if transposed:
        rows, cols = cols, rows
    return HDLayout(transposed, (new_width, new_height), before, padding - before, rows, cols)


def fewest_crops(width: int, height: int, most: int) -> int:
    """The fewest crops, up to `most`, on which a picture is not made smaller; else `most`.

    The reference always takes the largest grid that its budget allows, and enlarges small pictures
    to fill it: an icon costs as much as a photo. Enlarged pixels show nothing new, so a grid at
    least as long as the picture's longer side (both sides have one scale) has all there is to see.
    A model that was trained on enlarged pictures may still read them better: that is why this is
    done only when asked for.
    """
    for num_crops in range(1, most):
        try:
            layout = hd_layout(width, height, num_crops)
        except ImageError:  # too long and thin for so few
            continue
        if layout.resized[0] >= max(width, height):
            return num_crops
    return most
