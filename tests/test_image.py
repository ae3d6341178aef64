"""Crops against the official processor's bits, and files as people see them."""

import dataclasses
import io
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference.images import make_image, sha

from phisight.config import ProcessorConfig, read_processor_config
from phisight.errors import ImageError, PhisightWarning
from phisight.hd import CROP
from phisight.processing.image import FORMATS, MAX_PIXELS, cut_crops, open_image

GOLDENS = json.loads(
    Path(__file__).with_name("reference").joinpath("goldens/processor.json").read_text()
)


@pytest.fixture(scope="module")
def config(official: Path) -> ProcessorConfig:
    return read_processor_config(official)


def test_defaults_are_the_checkpoints(config: ProcessorConfig, nano_folder: Path) -> None:
    assert config.num_crops == GOLDENS["num_crops_default"] == 16
    assert read_processor_config(nano_folder).num_crops == 6


@pytest.mark.parametrize("part", range(8))
def test_official_pixels_bit_for_bit(config: ProcessorConfig, part: int) -> None:
    rows = (GOLDENS["sizes"] + GOLDENS["modes"])[part::8]
    assert len(rows) > 50
    for row in rows:
        image = make_image(row["w"], row["h"], row["seed"], row["kind"], row["mode"])
        assert sha(np.asarray(image))[:16] == row["raw_sha256"], f"another picture was made: {row}"
        crops = cut_crops(open_image(image), config, row["num_crops"])
        assert sha(crops.pixels.numpy()) == row["sha256_used"], row
        assert (
            sha(crops.pixels[1:].numpy()) == row["sha256_local"] or row["crops_used"] < row["crops"]
        )
        assert crops.num_tokens == row["num_img_tokens"], row


def test_only_real_crops_are_kept(config: ProcessorConfig) -> None:
    crops = cut_crops(Image.new("RGB", (1000, 300)), config, 16)
    assert crops.pixels.shape == (1 + crops.layout.rows * crops.layout.cols, 3, CROP, CROP)
    assert len(crops.pixels) < 17


def test_the_key_tells_how_pixels_are_normalized(config: ProcessorConfig) -> None:
    image = Image.new("RGB", (100, 100))
    ways = [
        config,
        dataclasses.replace(config, image_mean=(0.5, 0.5, 0.5)),
        dataclasses.replace(config, image_std=(0.5, 0.5, 0.5)),
    ]
    assert len({cut_crops(image, way, 4).key for way in ways}) == 3
    assert cut_crops(image, config, 4).key == cut_crops(image, config, 4).key


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_pil_image_is_taken_as_the_official_code_takes_it() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert open_image(clear).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_in_a_file_lies_on_white(mode: str) -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "RGB":  # a colour marked transparent
        data = png(
            Image.fromarray(np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)), transparency=(9, 9, 9)
        )
    else:
        data = png(half.convert(mode) if mode != "P" else half.quantize(4))
    opened = open_image(data)
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_a_pil_image_that_cannot_be_read_or_cut_is_refused(config: ProcessorConfig) -> None:
    buffer = io.BytesIO()
    make_image(400, 300, 2).save(buffer, "JPEG")
    half = io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with Image.open(half) as lazy, pytest.raises(ImageError, match="PIL image cannot be read"):
        open_image(lazy)
    with pytest.raises(ImageError, match="0x5 pixels is empty"):
        cut_crops(open_image(Image.new("RGB", (0, 5))), config, 4)


def test_premultiplied_grey_opens() -> None:
    """A TIFF of mode La, which Pillow converts to LA only."""
    buffer = io.BytesIO()
    Image.new("LA", (3, 2), (80, 255)).save(buffer, "TIFF", tiffinfo={338: 2})
    data = bytearray(buffer.getvalue())
    at = data.index((338).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at + 8] = 1  # ExtraSamples: associated alpha
    with Image.open(io.BytesIO(bytes(data))) as plain:
        assert plain.mode == "La"
    assert open_image(bytes(data)).getpixel((0, 0)) == (80, 80, 80)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="pipe: not a file; pipe the picture in and name it -"):
        open_image(tmp_path / "pipe")


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    opened = open_image(png(Image.fromarray(levels)))
    assert [opened.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 128, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    path = tmp_path / "phone.jpg"
    image.save(path, exif=exif)
    assert open_image(path).size == (20, 40)
    with Image.open(path) as taken_as_is:
        assert open_image(taken_as_is).size == (40, 20)


@pytest.mark.parametrize("mode", ["CMYK", "L", "YCbCr"])
def test_other_jpeg_modes_equal_plain_conversion(mode: str) -> None:
    buffer = io.BytesIO()
    make_image(60, 40, 1).convert(mode).save(buffer, "JPEG")
    with Image.open(io.BytesIO(buffer.getvalue())) as plain:
        expected = plain.convert("RGB")
    assert open_image(buffer.getvalue()).tobytes() == expected.tobytes()


def test_every_allowed_format_opens() -> None:
    for name in FORMATS:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), "white").save(buffer, name)
        assert open_image(buffer.getvalue()).getpixel((4, 4)) == (255, 255, 255), name


def test_a_cameras_multi_picture_jpeg_opens_without_a_note() -> None:
    buffer = io.BytesIO()
    first, preview = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (4, 4))
    first.save(buffer, "MPO", save_all=True, append_images=[preview])
    assert open_image(buffer.getvalue()).size == (8, 8)


def test_frames_left_out_are_said(tmp_path: Path) -> None:
    path = tmp_path / "many.gif"
    frames = [Image.new("L", (5, 5), 10 * i) for i in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.warns(
        PhisightWarning, match="has more than one frame or page; only the first is used"
    ):
        opened = open_image(path)
    assert (opened.size, opened.getpixel((2, 2))) == ((5, 5), (0, 0, 0))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"


@pytest.mark.parametrize("data", [b"", b"hello", EPS, SVG, b"\x89PNG\r\n\x1a\n"], ids=range(5))
def test_what_is_no_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "named.png"
    path.write_bytes(data)
    with pytest.raises(
        ImageError,
        match="named.png: (not a picture|the picture is|the file is empty)",
    ):
        open_image(path)


def test_a_truncated_jpeg_is_refused() -> None:
    buffer = io.BytesIO()
    make_image(400, 300, 2).save(buffer, "JPEG")
    data = buffer.getvalue()
    with pytest.raises(ImageError, match="damaged or cut short"):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize("side", [9_500, 40_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(side: int) -> None:
    # One colour at one bit a pixel: a small file that would decode to gigabytes.
    Image.MAX_IMAGE_PIXELS, saved = None, Image.MAX_IMAGE_PIXELS
    try:
        data = png(Image.new("1", (side, side)))
    finally:
        Image.MAX_IMAGE_PIXELS = saved
    assert side * side > MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(
            ImageError, match="the limit is 89,478,485 pixels. Scale the picture down"
        ):
            open_image(data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", "no/such/file.png: no such file"),
        ("file:///etc/passwd", "file URLs are not opened; give the path itself"),
        (".", "cannot be read"),
        ("a\0b", "cannot be read"),
        (np.zeros((4, 4, 3), np.uint8), "PIL.Image.fromarray"),
    ],
    ids=["missing", "url", "folder", "nul", "array"],
)
def test_what_is_no_file_is_refused(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(source)  # type: ignore[arg-type]


def test_grey_levels_without_a_scale_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.ones((3, 3), np.float32)).save(path)
    with pytest.raises(ImageError, match="no agreed brightness"):
        open_image(path)
