"""Fetch and cut what training pictures are drawn with: fonts, words, names, named things.

    python training/materials.py --out .materials

Fonts, a word list and an emoji face come from the Debian packages of `sources.toml`, through apt;
names from the PyPI package Faker. Fonts are cut down to the characters that are drawn, so that
three hundred of them take a few megabytes. Photographs are `photos.py`'s.

Writes fonts/train, fonts/held, emoji and words.json; needs apt-get, dpkg-deb, fonttools and Faker.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import string
import subprocess
import tempfile
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

from faker import Faker
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

SOURCES = Path(__file__).with_name("sources.toml")
CHARACTERS = string.printable[:95] + "€£"
LARGEST = 60_000  # bytes of a cut font
LIGHTEST = 300  # of the weights 100 to 900 that fonts name
ICON = 96  # pixels of a named thing's picture
RUDE = re.compile(r"shit|fuck|cunt|nigg|fag|whore|slut|rape|rapi|bitch|anus|penis|porn|piss|damn")
SEED = 7
NUM_NAMES, NUM_COMPANIES = 25_000, 6_000
LOCALES = ("en_US", "en_GB", "en_IE", "en_IN", "de_DE", "es_ES", "it_IT", "nl_NL", "fr_FR")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    sources = tomllib.loads(SOURCES.read_text())
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder)
        fonts = sources["fonts"]
        packages = [sources["words"]["package"], sources["emoji"]["package"]]
        unpack([*packages, *fonts["train"], *fonts["held"]], unpacked)
        for split in ("train", "held"):
            cut_fonts(fonts, unpacked, split, out / "fonts" / split)
        draw_emoji(sources["emoji"], unpacked, out / "emoji")
        words = read_words(unpacked / sources["words"]["package"])
    (out / "words.json").write_text(json.dumps({"words": words, **made_up_names()}))


def unpack(packages: list[str], folder: Path) -> None:
    """Each Debian package into a folder of its name; nothing is installed or run."""
    subprocess.run(["apt-get", "download", "-q", *packages], cwd=folder, check=True)
    for archive in sorted(folder.glob("*.deb")):
        target = folder / archive.name.partition("_")[0]
        target.mkdir()
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True)


def cut_fonts(fonts: dict[str, Any], unpacked: Path, split: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    chance, left_out = random.Random(SEED), fonts["leave_out"]
    count = size = 0
    for package in sorted(fonts[split]):
        files = sorted((unpacked / package).rglob("*.[ot]tf"))
        files = [p for p in files if p.exists() and not any(w in p.name.lower() for w in left_out)]
        if package == "fonts-noto-core":  # hundreds of scripts, of which these are Latin
            files = [p for p in files if re.match(r"Noto(Sans|Serif)(Display)?-", p.name)]
        chance.shuffle(files)
        kept = 0
        for file in files:
            if kept < fonts["most"] and (data := cut(file)) is not None:
                name = re.sub(r"[^a-z0-9]+", "-", f"{package[6:]}-{file.stem}".lower())
                (out / f"{name}{file.suffix}").write_bytes(data)
                kept, count, size = kept + 1, count + 1, size + len(data)
        if not kept:
            print(f"{package}: no face of use")
    print(f"{split}: {count} fonts, {size / 1e6:.1f} MB")


def cut(file: Path) -> bytes | None:
    """The font with no other characters than those drawn; None if it lacks some or is too light."""
    font = TTFont(file, lazy=True)
    weight = font["OS/2"].usWeightClass if "OS/2" in font else 400
    if any(ord(c) not in font.getBestCmap() for c in CHARACTERS) or weight < LIGHTEST:
        return None
    options = subset.Options(layout_features=["kern"], hinting=False, notdef_outline=True)
    options.name_IDs = [1, 2, 4, 6]
    options.drop_tables += [
        "FFTM",
        "gasp",
        "DSIG",
        "BASE",
        "meta",
        "STAT",
        "fvar",
        "gvar",
        "avar",
        "HVAR",
    ]
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=CHARACTERS)
    subsetter.subset(font)
    with tempfile.NamedTemporaryFile(suffix=file.suffix) as target:
        subset.save_font(font, target.name, options)
        data = Path(target.name).read_bytes()
    return data if len(data) <= LARGEST else None


def draw_emoji(emoji: dict[str, Any], unpacked: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (file,) = (unpacked / emoji["package"]).rglob("*.ttf")
    font = ImageFont.truetype(file, emoji["size"])
    for name in emoji["names"]:
        said = emoji["said"].get(name, name)
        picture = Image.new("RGBA", (136, 128))
        character = unicodedata.lookup(name.upper())
        ImageDraw.Draw(picture).text((0, 0), character, font=font, embedded_color=True)
        box = picture.getbbox()
        assert box is not None, name
        picture = picture.crop(box)
        picture.thumbnail((ICON, ICON), Image.Resampling.LANCZOS)
        square = Image.new("RGBA", (ICON, ICON))
        square.paste(picture, ((ICON - picture.width) // 2, (ICON - picture.height) // 2))
        square.quantize(128).save(out / f"{said.replace(' ', '-')}.png", optimize=True)
    print(f"{len(emoji['names'])} named things")


def read_words(package: Path) -> list[str]:
    """In random order, so that any part of the list is like any other."""
    (file,) = (path for path in package.rglob("american-english") if path.is_file())
    words = sorted({w for w in file.read_text().split() if re.fullmatch(r"[a-z]{2,12}", w)})
    random.Random(SEED).shuffle(words)
    return [word for word in words if not RUDE.search(word)]  # samples of it are shown


def made_up_names() -> dict[str, list[str]]:
    fakers = [Faker(locale) for locale in LOCALES]
    for number, faker in enumerate(fakers):
        faker.seed_instance(SEED + number)
    names: dict[str, None] = {}
    companies: dict[str, None] = {}
    while len(names) < NUM_NAMES:
        faker = fakers[len(names) % len(fakers)]
        name = f"{faker.first_name()} {faker.last_name()}"
        if re.fullmatch(r"[A-Za-z' -]{4,26}", name):
            names[name] = None
    while len(companies) < NUM_COMPANIES:
        company = fakers[len(companies) % 4].company()
        if company.isascii():
            companies[company] = None
    return {"names": list(names), "companies": list(companies)}


if __name__ == "__main__":
    main()
