"""Book covers: a title, mostly an author, and whatever else a cover has on it."""

from __future__ import annotations

from dataclasses import dataclass

from draw.hand import Hand
from draw.jacket import draw_jacket
from draw.ornament import ornament
from draw.running import COMMON
from draw.sheet import Drawn, Sheet, Turn
from draw.text import READ

BOTH = (
    "Help me get the title and author information of this book?",
    "What is the title and who is the author of this book?",
    "Who wrote this book and what is it called?",
    "Extract the title and the author.",
    "What are the title and the author of this book?",
    "Read the title and author from this cover.",
    "Can you tell me the name of this book and its writer?",
)
TITLE = ("What is the title of this book?", "What is this book called?", "Name the book.")
AUTHOR = ("Who is the author of this book?", "Who wrote this book?", "Name the author.")
WHOLE = ("Describe the image.", "What does this image show?", "What is in the picture?")
EXTRAS = (
    "A Novel", "Bestseller", "Second Edition", "A Memoir", "Volume {}", "Poems", "Stories",
    "Book {} of the series", "With a new preface", "The international bestseller", "{}th edition",
)  # fmt: skip
JACKETS = 0.55  # share of covers in the other layout
JOINERS = ("of the", "of", "and the", "and", "in the", "in", "to", "without", "for", "at")


@dataclass(frozen=True)
class Book:
    title: str  # as printed
    author: str | None  # as people write it, whatever the cover does

    def sentence(self) -> str:
        if self.author is None:
            return f'The title of the book is "{self.title}". No author is named on the cover.'
        return f'The title of the book is "{self.title}" and the author is {self.author}.'

    def turns(self) -> list[Turn]:
        nobody = "No author is named on the cover."
        author = nobody if self.author is None else f"The author is {self.author}."
        return [
            Turn(BOTH, self.sentence(), 7),
            Turn(TITLE, f'The title of the book is "{self.title}".'),
            Turn(AUTHOR, author),
            Turn(WHOLE, f"The image shows a book cover. {self.sentence()}"),
        ]


def random_book(hand: Hand) -> Book:
    r = hand.random
    count = r.choice((1, 1, 2, 2, 2, 3, 3, 4, 5))
    words = [r.choice(COMMON) if hand.chance(0.12) else hand.word() for _ in range(count)]
    if len(words) > 1 and hand.chance(0.4):
        words.insert(r.randint(1, len(words) - 1), r.choice(JOINERS))
    if hand.chance(0.35):
        words.insert(0, r.choice(("the", "the", "a", "my", "how to", "no")))
    title = " ".join(words)
    if hand.chance(0.06):
        title += f" {r.choice((str(r.randint(2, 99)), str(r.randint(1900, 2050)), 'II', 'III'))}"
    if hand.chance(0.05):
        title += r.choice("?!")
    style = r.random()
    title = title.upper() if style < 0.4 else title.title() if style < 0.85 else title.capitalize()
    absent = hand.chance(0.14 if hand.practises else 0.1)
    return Book(title, None if absent else random_author(hand))


def random_author(hand: Hand) -> str:
    r = hand.random
    if hand.chance(0.5):
        return r.choice(hand.names)
    first = hand.word(9).capitalize() if hand.chance(0.4) else r.choice(hand.names).split()[0]
    if hand.chance(0.12):
        first = r.choice("ABCDEFGHIJKLMNOPRSTW") + "." + r.choice((" ", " J. ", " K. "))
        return first.strip() + " " + hand.word(10).capitalize()
    middle = r.choice("ABCDEFGHIJKLMNOPRSTW") + ". " if hand.chance(0.2) else ""
    return f"{first} {middle}{hand.word(11).capitalize()}"


def cover(hand: Hand, width: int, height: int) -> Drawn:
    book = random_book(hand)
    sheet = draw_cover(hand, book, width, height)
    return Drawn([sheet], [*book.turns(), Turn(READ, sheet.written, 1.5)])


def draw_cover(hand: Hand, book: Book, width: int, height: int) -> Sheet:
    if hand.chance(JACKETS):
        return draw_jacket(hand, book, width, height)
    return _plain(hand, book, width, height)


def _plain(hand: Hand, book: Book, width: int, height: int) -> Sheet:
    r = hand.random
    sheet, ground = hand.paper(width, height)
    for _ in range(hand.random.randint(1, 3) if hand.chance(0.65) else 0):
        ornament(hand, sheet, ground)
    author_first = hand.chance(0.2)
    top = height * r.uniform(0.04, 0.16)
    face = hand.font_path()
    align = r.choice(("middle", "middle", "middle", "left", "right"))
    if author_first and book.author is not None:
        top = _author(hand, sheet, book.author, top, face, align) + height * 0.05
    elif hand.chance(0.3):
        top = r.uniform(0.2, 0.4) * height
    lines = _broken(hand, book.title)
    size = r.uniform(0.05, 0.17) * height
    room = (height * 0.68 - top) / len(lines) / 1.25
    size = max(sheet.smallest * 1.1, min(size, room))
    font = min(
        (hand.fitted(face, line, width * 0.9, size, sheet.smallest) for line in lines),
        key=lambda font: font.size,
    )
    if hand.chance(0.12):
        box = (0, top - font.size * 0.3, width, top + font.size * (1.25 * len(lines) + 0.2))
        ground = hand.color()
        sheet.pen.rectangle(box, fill=ground)
    left = [_left(hand, sheet, font.getlength(line), align) for line in lines]
    widest = max(map(font.getlength, lines))
    block = hand.font(face, font.size * 1.25 * len(lines) / 1.2)
    ink = hand.ink_at(sheet, min(left), top, widest, block)
    for x, line in zip(left, lines, strict=True):
        sheet.text(x, top, line, font, ink)
        top += font.size * 1.25
    low = height * r.uniform(0.74, 0.88)
    if hand.chance(0.4) and low - top > sheet.smallest * 4:
        words = r.choice(EXTRAS).format(r.randint(4, 9))
        extra = hand.fitted(face, words, width * 0.8, height * 0.035, sheet.smallest)
        y = (top + low) / 2 if hand.chance(0.6) else top + font.size * 0.2
        x = _left(hand, sheet, extra.getlength(words), align)
        sheet.text(x, y, words, extra, hand.ink_at(sheet, x, y, extra.getlength(words), extra))
    if book.author is not None and not author_first:
        y = low if hand.chance(0.75) else max(top + sheet.smallest, height * r.uniform(0.55, 0.7))
        other = face if hand.chance(0.5) else hand.font_path()
        _author(hand, sheet, book.author, y, other, align)
    if hand.chance(0.22):
        _publisher(hand, sheet)
    return sheet


def _author(hand: Hand, sheet: Sheet, author: str, y: float, face: str, align: str) -> float:
    printed = author.upper() if hand.chance(0.35) else author
    printed = hand.random.choice(("", "", "", "by ", "By ", "written by ")) + printed
    size = hand.random.uniform(0.04, 0.08) * sheet.height
    font = hand.fitted(face, printed, sheet.width * 0.88, size, sheet.smallest)
    y = min(y, sheet.height - font.size * 1.5)
    x = _left(hand, sheet, font.getlength(printed), align)
    ink = hand.ink_at(sheet, x, y, font.getlength(printed), font)
    sheet.text(x, y, printed, font, ink)
    return y + font.size * 1.3


def _publisher(hand: Hand, sheet: Sheet) -> None:
    words = ("Press", "Books", "House", "Publishing", "Publishers", "Verlag", "Library", "& Co", "")
    name = f"{hand.word(8).capitalize()} {hand.random.choice(words)}".strip()
    name = name.upper() if hand.chance(0.6) else name
    font = hand.font(hand.font_path(), max(sheet.smallest, sheet.height * 0.022))
    y = sheet.height - font.size * 1.4
    x = (sheet.width - font.getlength(name)) / 2
    sheet.text(x, y, name, font, hand.ink_at(sheet, x, y, font.getlength(name), font))


def _broken(hand: Hand, title: str) -> list[str]:
    words, per = title.split(" "), hand.random.randint(1, 4)
    return [" ".join(words[i : i + per]) for i in range(0, len(words), per)]


def _left(hand: Hand, sheet: Sheet, length: float, align: str) -> float:
    margin = sheet.width * 0.06
    free = sheet.width - length
    if align == "middle" or free < 2 * margin:
        return free * 0.5
    return margin if align == "left" else free - margin
