"""Makes a test set with renderers that training never uses: Chromium and LibreOffice.

    python training/pages.py --materials .materials --out .materials/pages

Needs `chromium`, `chromedriver`, `soffice`, `pdftoppm` and `pdftotext` on the path, and Selenium.
Words, names and fonts are the held-out ones, seeds are fixed. Writes ROW-NNN.png or .jpg and
pages.jsonl, one {"row", "file", "ask", "answer"} a line; `read_pages` reads them again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from draw.hand import Hand
from press import charts, covers, documents, graphs, lines, office, paragraphs, tables
from press.browser import Browser
from press.canvas import Draft
from press.store import store

SEED = 7_340_000
INDEX = "pages.jsonl"


class Page(NamedTuple):
    row: str
    path: Path
    ask: str
    answer: str


class Row(NamedTuple):
    browser: Callable[[Hand], Draft]
    office: Callable[[Hand], office.Document] | None = None
    every: int = 2  # so many pages one is LibreOffice's


ROWS = {
    "covers": Row(covers.draft),
    "lines": Row(lines.draft),
    "paragraphs": Row(paragraphs.draft, documents.paragraph),
    "charts": Row(charts.draft, graphs.graph, every=4),
    "tables": Row(tables.draft, documents.grid),
}


class Drawn(NamedTuple):
    number: int
    image: Image.Image
    ask: str
    answer: str


def read_pages(folder: Path) -> list[Page]:
    entries = map(json.loads, (folder / INDEX).read_text().splitlines())
    return [Page(e["row"], folder / e["file"], e["ask"], e["answer"]) for e in entries]


def by_browser(
    browser: Browser, draft: Callable[[Hand], Draft], hands: dict[int, Hand]
) -> Iterator[Drawn]:
    """Draws each page anew until its texts fit."""
    for number, hand in hands.items():
        image = None
        while image is None:
            page = draft(hand)
            image = browser.picture(page)
        yield Drawn(number, image, page.ask, page.answer)


def by_office(
    folder: Path, fonts: Path, document: Callable[[Hand], office.Document], hands: dict[int, Hand]
) -> Iterator[Drawn]:
    """All documents in one call, and those that came out wrong anew in the next."""
    while hands:
        print(f"LibreOffice draws {len(hands)}", flush=True)
        made = {number: document(hand) for number, hand in hands.items()}
        pictures = office.pictures(folder, fonts, made)
        for number, image in pictures.items():
            yield Drawn(number, image, made[number].ask, made[number].answer)
        hands = {number: hand for number, hand in hands.items() if number not in pictures}


def draw(
    browser: Browser, folder: Path, fonts: Path, row: Row, hands: dict[int, Hand]
) -> list[Drawn]:
    if row.office is None:
        return list(by_browser(browser, row.browser, hands))
    its = {number: hand for number, hand in hands.items() if number % row.every == 1}
    others = {number: hand for number, hand in hands.items() if number not in its}
    drawn = [*by_browser(browser, row.browser, others)]
    drawn += by_office(folder, fonts, row.office, its)
    return sorted(drawn, key=lambda page: page.number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200, help="pictures a row")
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    index = []
    fonts = options.materials / "fonts" / "held"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        browser = Browser(folder)
        for row in options.rows:
            first = SEED + 10_000 * list(ROWS).index(row)
            hands = {i: Hand(options.materials, first + i, "held") for i in range(options.count)}
            for page in draw(browser, folder, fonts, ROWS[row], hands):
                base = options.out / f"{row}-{page.number:03d}"
                path = store(hands[page.number], page.image, base)
                entry = {"row": row, "file": path.name, "ask": page.ask, "answer": page.answer}
                index.append(json.dumps(entry, ensure_ascii=False))
            print(f"{row}: {options.count}; refused so far: {browser.refused}", flush=True)
        browser.close()
    (options.out / INDEX).write_text("\n".join(index) + "\n")


if __name__ == "__main__":
    main()
