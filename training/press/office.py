"""Documents for LibreOffice as flat ODF, their way to pictures, and whether they came out right."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from draw.hand import Hand
from press.canvas import smallest

KINDS = {"text": ".fodt", "spreadsheet": ".fods"}
TYPE = "application/vnd.oasis.opendocument."
OBJECT = "Object 1"
SKETCH = 72  # dots per inch at which the ink is looked for: a dot is a point
NAMESPACES = " ".join(
    f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for short, name in (
        ("office", "office"), ("style", "style"), ("text", "text"), ("table", "table"),
        ("fo", "xsl-fo-compatible"), ("svg", "svg-compatible"), ("draw", "drawing"),
        ("chart", "chart"), ("number", "datastyle"),
    )
)  # fmt: skip
NAMESPACES += ' xmlns:xlink="http://www.w3.org/1999/xlink"'
WIDTH = 660  # points between the page's margins: more than any line or table takes
PAGE = """<style:page-layout style:name="pl"><style:page-layout-properties
 fo:page-width="700pt" fo:page-height="700pt" fo:margin="20pt"
 style:print-orientation="landscape"/></style:page-layout>"""
MASTER = """<style:master-page style:name="{name}" style:page-layout-name="pl">
<style:header style:display="false"/><style:footer style:display="false"/></style:master-page>"""


class Document(NamedTuple):
    """A page not yet drawn, and how its picture is to be cut."""

    kind: str  # a key of KINDS
    styles: str
    body: str
    lines: list[str]  # that are to be found in it
    points: float  # its smallest font size
    long: int  # pixels of the picture's longer side
    margins: tuple[float, float, float, float]  # left, top, right, bottom, in points
    ask: str
    answer: str
    chart: str = ""  # an object within; `lines` are then single words, to be found anywhere

    def write(self, base: Path) -> None:
        name = "Standard" if self.kind == "text" else "Default"
        styles = f"<office:automatic-styles>{PAGE}{self.styles}</office:automatic-styles>"
        masters = f"<office:master-styles>{MASTER.format(name=name)}</office:master-styles>"
        body = f"<office:body><office:{self.kind}>{self.body}</office:{self.kind}></office:body>"
        if not self.chart:
            flat = _root(
                "document", styles + masters + body, f'office:mimetype="{TYPE}{self.kind}"'
            )
            base.with_suffix(KINDS[self.kind]).write_text(flat)
            return
        # LibreOffice does not see a chart within a flat document: a package then.
        files = {
            "mimetype": f"{TYPE}text",
            "content.xml": _root("document-content", body),
            "styles.xml": _root("document-styles", styles + masters),
            f"{OBJECT}/content.xml": _root("document-content", self.chart),
        }
        entries = [("/", f"{TYPE}text"), (f"{OBJECT}/", f"{TYPE}chart")]
        entries += [(name, "text/xml") for name in files if name != "mimetype"]
        files["META-INF/manifest.xml"] = _manifest(entries)
        with zipfile.ZipFile(base.with_suffix(".odt"), "w") as package:
            for file, written in files.items():
                package.writestr(file, written)


def _root(name: str, inner: str, more: str = "") -> str:
    head = f'<office:{name} {NAMESPACES} office:version="1.3" {more}>'
    return f'<?xml version="1.0" encoding="UTF-8"?>{head}{inner}</office:{name}>'


def _manifest(entries: list[tuple[str, str]]) -> str:
    files = "".join(
        f'<m:file-entry m:full-path="{path}" m:media-type="{kind}"/>' for path, kind in entries
    )
    space = 'xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" m:version="1.3"'
    return f'<?xml version="1.0" encoding="UTF-8"?><m:manifest {space}>{files}</m:manifest>'


def family(hand: Hand) -> tuple[str, str]:
    """A face by its name, and the file it comes from: none where LibreOffice may choose."""
    if hand.chance(1 / 3):
        names = ("Liberation Serif", "Liberation Sans", "Liberation Mono", "DejaVu Sans", "serif")
        return hand.random.choice(names), ""
    path = hand.font_path()
    from fontTools.ttLib import TTFont  # comes with matplotlib

    with TTFont(path, lazy=True) as font:
        return str(font["name"].getDebugName(1)), path


def pictures(folder: Path, fonts: Path, documents: dict[int, Document]) -> dict[int, Image.Image]:
    """Of those documents that came out as they should, by their numbers."""
    work = folder / "office"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for number, document in documents.items():
        document.write(work / str(number))
    _convert(folder, fonts, sorted(work.iterdir()))
    found = {}
    for number, document in documents.items():
        image = _picture(work / f"{number}.pdf", document)
        if image is not None:
            found[number] = image
    return found


def _convert(folder: Path, fonts: Path, files: list[Path]) -> None:
    home = folder / "home"
    if not home.exists():
        home.mkdir()
        (home / ".fonts").symlink_to(fonts.resolve())  # where fontconfig looks for a user's own
    profile = f"-env:UserInstallation={(home / 'profile').as_uri()}"
    command = ["soffice", profile, "--headless", "--convert-to", "pdf", "--outdir"]
    command.append(str(files[0].parent))
    environment = {**os.environ, "HOME": str(home)}
    subprocess.run([*command, *map(str, files)], check=True, env=environment, capture_output=True)


def _picture(pdf: Path, document: Document) -> Image.Image | None:
    """The page cut to its ink and margins, at the resolution that gives the size asked for."""
    if not (_all_apart if document.chart else _as_written)(pdf, document.lines):
        return None
    sketch = np.asarray(_raster(pdf, SKETCH))
    ink = np.argwhere(sketch.min(2) < 245)
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    a, b, c, d = document.margins
    box = (max(0, left - a), max(0, top - b), right + c, bottom + d)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = document.long / max(width, height)
    size = round(width * scale), round(height * scale)
    if document.points * scale < smallest(*size):
        return None
    page = _raster(pdf, SKETCH * scale)
    x, y = round(box[0] * scale), round(box[1] * scale)
    return page.crop((x, y, x + size[0], y + size[1]))


def _raster(pdf: Path, dots: float) -> Image.Image:
    base = pdf.with_suffix("")
    command = ["pdftoppm", "-r", f"{dots:.3f}", "-singlefile", "-png", str(pdf), str(base)]
    subprocess.run(command, check=True)
    with Image.open(base.with_suffix(".png")) as image:
        return image.convert("RGB")


def _as_written(pdf: Path, lines: list[str]) -> bool:
    """As another program reads the page: proof that no line was broken or lost."""
    found = _read(pdf, "-layout").replace("\f", "").splitlines()
    return [_plain(line) for line in found if line.strip()] == [_plain(line) for line in lines]


def _all_apart(pdf: Path, words: list[str]) -> bool:
    """Whether every word is there, as often as expected, and none lies on another."""
    pattern = r'xMin="(.+?)" yMin="(.+?)" xMax="(.+?)" yMax="(.+?)">(.*?)</word>'
    found = re.findall(pattern, _read(pdf, "-bbox"))
    missing = Counter(map(_plain, words)) - Counter(_plain(html.unescape(w[4])) for w in found)
    boxes = [tuple(map(float, word[:4])) for word in found]
    air = 0.15  # of a box's height, above and below its letters
    boxes = [(a, b + air * (d - b), c, d - air * (d - b)) for a, b, c, d in boxes]
    return not missing and not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )


def _read(pdf: Path, how: str) -> str:
    done = subprocess.run(["pdftotext", how, pdf, "-"], check=True, capture_output=True)
    return done.stdout.decode()


def _plain(line: str) -> str:
    """Without ligatures and without blanks, whose width is the layout's matter."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", line))
