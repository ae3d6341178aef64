"""Book covers as a stack of blocks in any order, much of which is no title and no author."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from PIL import Image

from draw.block import LOGO, Block, Style, block_of, fitted, line_of, tops_of, write
from draw.hand import Hand
from draw.ornament import among_letters, ornament
from draw.sheet import Color, Sheet

if TYPE_CHECKING:
    from draw.cover import Book

EXTRAS = (
    "A Novel", "A Memoir", "Stories", "Poems", "Essays", "A Thriller", "A Love Story", "Fables",
    "A Play in Three Acts", "A True Story", "Selected Letters", "A Practical Guide", "Large Print",
    "Revised and updated", "Second Edition", "{n}th Edition", "Anniversary Edition", "Unabridged",
    "With a new preface", "With {n} illustrations", "{n} million copies sold", "#1 Bestseller",
    "The New York bestseller", "The international bestseller", "Winner of the {word} Prize",
    "Shortlisted for the {word} Award", "The {word} Series", "{word} Series, Book {n}",
    "Book {n} of the {word} Cycle", "Volume {n}", "Vol. {n}", "Part {n}", "{year}", "${n}.99",
    "First published in {year}", "Now a major film", "With a reading guide", "Only ${n}.50",
    '"Brilliant" - The {word} Times', '"A masterpiece." - {word} Review', "New in paperback",
    '"Funny and wise" - The {word} Herald', '"I could not put it down" - {word} Weekly',
    "Foreword by {name}", "Translated by {name}", "Illustrated by {name}", "{word} Library No. {n}",
)  # fmt: skip
IMPRINTS = (
    "{} Press", "{} Books", "{} & Sons", "{} Editions", "{} Editions", "Editions {}", "{} Verlag",
    "{} University Press", "{} Publishers", "{} House", "{} Publishing", "{} Classics", "{} & Co.",
    "{} Paperbacks", "{} Media", "The {} Company", "{} Library", "Casa Editrice {}", "{}", "{}",
)  # fmt: skip
# Of training's covers alone: a name and a title that are not this book's.
PRACTISED = (
    "By the author of {word}", "From the author of The {word}", "{name} writes of {word}",
    "With an introduction by {name}", "Edited by {name}", "{word} Award Winner {year}",
)  # fmt: skip
BY = ("by", "by", "By", "written by", "a novel by", "stories by", "a book by")


def draw_jacket(hand: Hand, book: Book, width: int, height: int) -> Sheet:
    r = hand.random
    sheet, ground = hand.paper(width, height)
    if hand.chance(0.25):
        ornament(hand, sheet, ground)
    for attempt in range(12):
        faces = tuple(hand.font_path() for _ in range(r.choice((1, 2, 2, 3))))
        align = r.choice((0, 0.5, 0.5, 0.5, 1))
        style = Style(faces, align, r.uniform(0.04, 0.1) * width, sheet)
        blocks = _blocks(hand, book, style, 1 if attempt > 3 else r.choice((1, 1, 2, 3, 6)))
        if fitted(hand, blocks, style):
            break
    tops = tops_of(hand, blocks, style)
    _furnish(hand, style, blocks, tops)
    inks: list[Color] = []
    for block, top in zip(blocks, tops, strict=True):
        if block.lines:
            write(hand, style, block, top, inks)
    ends = [style.margin, *(top + block.height for block, top in zip(blocks, tops, strict=True))]
    if hand.chance(0.3) and inks:
        for above, below in zip(ends, [*tops, height - style.margin], strict=True):
            size = min(0.45 * (below - above), r.uniform(0.2, 0.7) * blocks[0].size)
            if size > 0.3 * sheet.smallest and hand.chance(0.5):
                among_letters(hand, sheet, (above + below) / 2, size, r.choice(inks))
    return sheet


def _blocks(hand: Hand, book: Book, style: Style, most: int) -> list[Block]:
    """Title, with at most so many words a line, author and what else there is."""
    r, height = hand.random, style.sheet.height
    title = _title(hand, book.title, style, most)
    blocks = [title]
    if book.author is not None:
        blocks.insert(hand.chance(0.58), _author(hand, book.author, style, title))
    for _ in range(r.choice((0, 0, 1, 1, 2, 3))):
        size = min(0.04 * height, 0.5 * title.size) * r.uniform(0.6, 1)
        extra = block_of(hand, "extra", _extra(hand, book), style, size)
        blocks.insert(r.randint(0, len(blocks)), extra)
    if hand.chance(0.45):
        depth = r.uniform(0.12, 0.45) * height
        blocks.insert(r.randint(0, len(blocks)), Block("art", [], depth=depth))
    if hand.chance(0.6):
        under = next((i + 1 for i, block in enumerate(blocks) if block.kind == "author"), 0)
        (at,) = r.choices((len(blocks), 0, under), (0.65, 0.15, 0.2))
        blocks.insert(at, _imprint(hand, style, min(0.03 * height, 0.45 * title.size)))
    return blocks


def _title(hand: Hand, title: str, style: Style, most: int) -> Block:
    """Broken at any spaces; lines may differ in size: short words small, or all as wide."""
    r, words, texts = hand.random, title.split(" "), []
    while words:
        count = r.randint(1, most)
        texts.append(" ".join(words[:count]))
        words = words[count:]
    size = style.sheet.height * 0.05 * 4 ** r.random()
    block = block_of(hand, "title", texts, style, size, least=1.4)
    k, size = r.random(), block.size
    for line in block.lines if len(texts) > 1 else ():
        if k < 0.2:
            line.size = min(style.room / line.wide, size * 2.2)
        elif k < 0.5 and len(line.text) <= 3:
            line.size = max(line.least, size * r.uniform(0.45, 0.7))
        elif k > 0.9:
            line.size = max(line.least, size * r.uniform(0.6, 1))
    return block


def _author(hand: Hand, author: str, style: Style, title: Block) -> Block:
    """Larger than the title only where it is plain that this is a name."""
    r, first = hand.random, author.split(maxsplit=1)[0]
    by = r.choice(BY) if hand.chance(0.25) else ""
    plain = by or "." in first or first in _given(hand)
    share = r.uniform(0.8, 1.9) if plain and hand.chance(0.4) else r.uniform(0.3, 0.7)
    printed = author.upper() if hand.chance(0.5) else author
    by = by.upper() if printed.isupper() and hand.chance(0.5) else by
    texts = printed.rsplit(" ", 1) if hand.chance(0.3) else [printed]
    apart = hand.chance(0.5)
    if by and not apart:
        texts[0] = f"{by} {texts[0]}"
    large = [line.size for line in title.lines if len(line.text) > 3]
    size = min(share * min(large, default=title.size), 0.13 * style.sheet.height)
    block = block_of(hand, "author", texts, style, size)
    if by and apart:
        face, least = block.lines[0].face, style.sheet.smallest
        block.lines.insert(0, line_of(hand, by, face, max(least, 0.5 * block.size), least))
    return block


@functools.lru_cache(maxsize=4)
def _given(hand: Hand) -> frozenset[str]:
    """First names; of other words a reader could not tell."""
    return frozenset(name.split()[0] for name in hand.names)


def _extra(hand: Hand, book: Book) -> list[str]:
    r, word = hand.random, hand.word(9).capitalize()
    n, year, name = r.randint(4, 19), r.randint(1950, 2030), r.choice(hand.names)
    extras = EXTRAS + PRACTISED if hand.practises else EXTRAS
    text = r.choice(extras).format(n=n, year=year, word=word, name=name)
    if book.author is not None and hand.chance(0.12 if hand.practises else 0.06):
        text = f"Author of {word} {hand.word(9).capitalize()}"
    text = text.upper() if hand.chance(0.35) else text
    return text.split(" - ") if hand.chance(0.6) else [text]


def _imprint(hand: Hand, style: Style, size: float) -> Block:
    r = hand.random
    word = r.choice(hand.names).split()[-1] if hand.chance(0.25) else hand.word(9).capitalize()
    name = r.choice(IMPRINTS).format(word)
    printed = name.upper() if hand.chance(0.5) else name
    block = block_of(hand, "imprint", [printed], style, size)
    (line,) = block.lines
    if name == word or hand.chance(0.2):
        block.logo, line.wide = True, line.wide + LOGO
        line.size = min(line.size, style.room / line.wide)
    return block


def _furnish(hand: Hand, style: Style, blocks: list[Block], tops: list[float]) -> None:
    """Panels, pictures, frames and rules: all that is no text."""
    r, sheet = hand.random, style.sheet
    width, height, thin = sheet.width, sheet.height, max(1, sheet.width // r.randint(100, 400))
    if hand.chance(0.06):
        sheet.image.paste(hand.photo(width, height))
    between = [
        (top + block.height + below) / 2
        for block, top, below in zip(blocks, tops, tops[1:], strict=False)
    ]
    if between and hand.chance(0.3):
        cut = r.choice(between)
        box = (0, 0, width, cut) if hand.chance(0.5) else (0, cut, width, height)
        sheet.pen.rectangle(box, fill=hand.color())
    for block, top in zip(blocks, tops, strict=True):
        if block.kind == "art":
            inset = r.choice((0, 0, style.margin, 2.5 * style.margin))
            box = (round(inset), round(top), round(width - inset), round(top + block.depth))
            _picture(hand, sheet, box)
    if hand.chance(0.2):
        for inset in (0.5, 0.3) if hand.chance(0.4) else (0.5,):
            edge = style.margin * inset
            box = (edge, edge, width - edge, height - edge)
            sheet.pen.rectangle(box, outline=hand.color(), width=thin)
    if hand.chance(0.25):
        color, reach = hand.color(), r.uniform(0.1, 0.5) * width
        for y in between:
            if hand.chance(0.6):
                sheet.pen.line((width / 2 - reach, y, width / 2 + reach, y), color, thin)


def _picture(hand: Hand, sheet: Sheet, box: tuple[int, int, int, int]) -> None:
    r, k, (x0, y0, x1, y1) = hand.random, hand.random.random(), box
    if x1 - x0 < 8 or y1 - y0 < 8:
        return
    if k < 0.3:
        sheet.image.paste(hand.photo(x1 - x0, y1 - y0), (x0, y0))
    elif k < 0.45:
        side = min(x1 - x0, y1 - y0)
        with Image.open(r.choice(hand.emoji)) as opened:
            icon = opened.convert("RGBA").resize((side, side))
        sheet.image.paste(icon, (r.randint(x0, x1 - side), y0), icon)
    else:
        if hand.chance(0.6):
            sheet.pen.rectangle(box, fill=hand.color())
        for _ in range(r.randint(1, 6)):
            xs, ys = (sorted(r.uniform(*ends) for _ in "ab") for ends in ((x0, x1), (y0, y1)))
            shape = (xs[0], ys[0], xs[1], ys[1])
            draw = r.choice((sheet.pen.ellipse, sheet.pen.rectangle, sheet.pen.line))
            draw(shape, fill=hand.color(), width=r.randint(1, 6))
