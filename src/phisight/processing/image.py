"""Opening pictures and cutting them into normalized crops.

Owns every decoder setting and every pixel; knows nothing of prompts or of the model. The cutting
follows the official `image_processing_phi3_v.py` bit for bit (Pillow bilinear, white padding,
bicubic global view of the *normalized* picture); the opening is ours, since the reference leaves
it to the caller.

Dimensions: H, W padded height and width in pixels; R, C rows and columns of the crop grid;
N = 1 + R*C crops.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from phisight.config import ProcessorConfig
from phisight.errors import ImageError, PhisightWarning
from phisight.fetch import PUBLIC_URLS, UrlPolicy, fetch, is_url
from phisight.fetch.url import shorten
from phisight.hd import CROP, HDLayout, hd_layout
from phisight.processing.guard import MeteredReader

ImageSource = str | os.PathLike[str] | bytes | Image.Image

# Raster formats people have. Left out on purpose: EPS (runs a PostScript interpreter), FITS and
# other scientific containers (CVE-2026-40192, a gzip bomb), and everything Pillow adds later.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 89_478_485  # Pillow's own bound (256 MiB of RGB), enforced here before decoding
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # not MPO, a camera's JPEG with previews
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
_BAND = 2**20  # pixels converted at a time: a whole picture would be held four times over


@dataclass(frozen=True, eq=False)
class ImageCrops:
    """One picture as the vision tower takes it: the global crop, then the grid row by row.

    `pixels` is float32 of shape (N, 3, 336, 336), real crops only (the reference adds blank ones).
    `key` is a hash of what is seen: size, grid, every pixel after resizing, and how it is
    normalized. With all crops it might have had the picture would take `spared` tokens more.
    """

    pixels: torch.Tensor
    layout: HDLayout
    key: bytes
    spared: int = 0

    @property
    def num_tokens(self) -> int:
        return self.layout.num_tokens


def open_image(source: ImageSource, *, urls: UrlPolicy = PUBLIC_URLS) -> Image.Image:
    """The picture as an RGB image.

    A PIL image is taken as the reference takes it, `convert("RGB")`. A path, a URL or the bytes of
    a file are opened as people see them: EXIF orientation applied, transparency on white, 16-bit
    grey scaled to 8 bits. `urls` says which URLs may be opened; a server that takes them from
    others passes NO_URLS. Raises ImageError for anything that is not a readable picture in one of
    FORMATS with at most MAX_PIXELS pixels, UrlError for a URL that gives none.
    """
    if isinstance(source, Image.Image):
        try:
            return source.convert("RGB")
        except Exception as error:  # opened but not yet read, and its file is damaged or gone
            raise ImageError(
                f"{picture_name(source)} cannot be read ({type(error).__name__})"
            ) from None
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), picture_name(source))
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"a picture must be a path, bytes or a PIL image, got {type(source).__name__}; "
            "for an array use PIL.Image.fromarray"
        )
    if isinstance(source, str) and is_url(source):
        return _decode(io.BytesIO(fetch(source, urls)), picture_name(source))
    path = Path(os.fsdecode(source))
    try:
        # A pipe that nobody writes to would be waited for without end.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ImageError(f"{path}: not a file; pipe the picture in and name it -")
        file = path.open("rb", buffering=0)
        if path.stat().st_size == 0:
            file.close()
            raise ImageError(f"{path}: the file is empty")
    except ImageError:  # it is a ValueError too
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "no file name"
        raise ImageError(f"{path}: cannot be read ({reason})") from None
    with file:
        return _decode(file, str(path))


def picture_name(source: ImageSource) -> str:
    """What a message calls a picture."""
    if isinstance(source, Image.Image):
        return "the PIL image"
    if isinstance(source, bytes):
        return f"{len(source)} bytes of data"
    return shorten(source) if isinstance(source, str) and is_url(source) else os.fsdecode(source)


def cut_crops(image: Image.Image, config: ProcessorConfig, num_crops: int) -> ImageCrops:
    """Resize, pad, normalize and cut an RGB picture (`HD_transform` and `preprocess`)."""
    layout = hd_layout(image.width, image.height, num_crops)
    canvas = padded_rgb(image, layout)
    normalizing = f"{layout.rows}x{layout.cols} {config.image_mean} {config.image_std}:"
    key = hashlib.sha256(normalizing.encode())
    key.update(canvas.data)
    pixels = torch.from_numpy(canvas)  # (H, W, 3) uint8
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.image_mean, config.image_std))
    # Contiguous (3, H, W) float32 before anything else, as the reference has it: another memory
    # layout would take other kernels and round differently.
    normalized = pixels.permute(2, 0, 1).contiguous().float().div_(255).sub_(mean).div_(std)
    crops = torch.empty(layout.num_crops, 3, CROP, CROP)
    crops[:1] = torch.nn.functional.interpolate(normalized[None], size=(CROP, CROP), mode="bicubic")
    grid = normalized.view(3, layout.rows, CROP, layout.cols, CROP).permute(1, 3, 0, 2, 4)
    crops[1:].view(layout.rows, layout.cols, 3, CROP, CROP).copy_(grid)
    return ImageCrops(crops, layout, key.digest())


def padded_rgb(image: Image.Image, layout: HDLayout) -> np.ndarray:
    """The resized picture on its white canvas, (H, W, 3) uint8, upright and contiguous."""
    if layout.transposed:  # Pillow resizes in two rounded passes, so lying down changes the bits
        image = image.transpose(Image.Transpose.TRANSPOSE)
    resized = np.asarray(image.resize(layout.resized, Image.Resampling.BILINEAR))
    padding = ((layout.pad_before, layout.pad_after), (0, 0), (0, 0))
    canvas = np.pad(resized, padding, constant_values=255)
    if layout.transposed:
        canvas = canvas.transpose(1, 0, 2)
    return np.ascontiguousarray(canvas)


def _decode(raw: io.RawIOBase | io.BytesIO, name: str) -> Image.Image:
    try:
        with MeteredReader(raw, name) as file, Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise _too_large(name, f"{opened.width}x{opened.height} pixels")
            more = opened.format in _ANIMATED and _has_more_frames(opened)
            opened.load()
            picture = _opaque_rgb(_upright(opened), name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not a picture phisight reads; convert it to one of {', '.join(FORMATS)}"
        ) from None
    except MemoryError:
        raise ImageError(f"{name}: no memory to decode it; scale the picture down") from None
    # Damaged data makes Pillow's decoders raise nearly anything. Their texts can hold addresses:
    # none is passed on.
    except Exception:
        raise ImageError(f"{name}: the picture is damaged or cut short") from None
    if more:
        message = f"{name} has more than one frame or page; only the first is used"
        warnings.warn(message, PhisightWarning, stacklevel=2)
    return picture


def _has_more_frames(image: Image.Image) -> bool:
    """Not by n_frames: counting the pages of a TIFF takes time by their square."""
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says.

    Pillow's `exif_transpose` also writes the EXIF back, and fails on odd tags of real cameras.
    """
    method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if method is None:
        return image
    upright = image.transpose(method)
    # All other metadata goes, lest the picture be turned a second time by whoever gets it.
    upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return upright


def _opaque_rgb(image: Image.Image, name: str) -> Image.Image:
    """RGB as people see it: transparency on white, grey of more than 8 bits scaled down."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _in_bands(image, lambda band: _eight_bit(band, name))
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB picture of `convert`'s results, a band of rows at a time."""
    result = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        result.paste(convert(image.crop(box)).convert("RGB"), box)
    return result


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied grey, which converts to nothing else
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits, scaled from 0..65535; `convert` would clip it to white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: grey levels outside 0..65535 have no agreed brightness; "
            "scale the picture to 8 or 16 bits"
        )
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(f"{name}: {size}; the limit is {MAX_PIXELS:,} pixels. Scale the picture down")
