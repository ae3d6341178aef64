"""Two pictures to be compared: scenes, charts, covers, texts, or two of different kinds.

An answer first says all that each picture shows, so that what differs can be told from the words.
"""

from __future__ import annotations

from dataclasses import replace

from draw.chart import draw_figures
from draw.cover import Book, draw_cover, random_author, random_book
from draw.figures import Figures, random_figures
from draw.hand import Hand
from draw.scene import (
    COLORS,
    PLACES,
    Thing,
    draw_scene,
    random_name,
    random_things,
    with_places,
)
from draw.sheet import Drawn, Sheet, Turn

COMPARE = (
    "What is difference in this two images?",
    "Compare the two images.",
    "What changed between the images?",
    "What is the difference between these two pictures?",
    "How do the two images differ?",
)
SAME = "there is none"


def pair(hand: Hand, width: int, height: int) -> Drawn:
    k = hand.random.random()
    if k < 0.42:
        return scenes(hand, width, height)
    if k < 0.66:
        return charts(hand, width, height)
    if k < 0.82:
        return covers(hand, width, height)
    return texts(hand, width, height) if k < 0.93 else kinds(hand, width, height)


def _turns(first: str, second: str, difference: str) -> list[Turn]:
    whole = f"The first image shows {first}, while the second image shows {second}."
    return [
        Turn(COMPARE, f"{whole} The difference: {difference}.", 8),
        Turn(("Do the two images show the same?", "Are the two images the same?"),
             "Yes." if difference.startswith(SAME) else f"No: {difference}.", 0.8),
        Turn(("What does the first image show?",), f"The first image shows {first}.", 0.6),
        Turn(("What does the second image show?",), f"The second image shows {second}.", 0.6),
    ]  # fmt: skip


def scenes(hand: Hand, width: int, height: int) -> Drawn:
    r = hand.random
    before = random_things(hand, r.randint(1, 5))
    after, k = list(before), r.random()
    i = r.randrange(len(before))
    old = before[i]
    place = PLACES[old.place]
    color, _, shape = old.name.partition(" ")
    new = Thing(old.place, random_name(hand, 0.5))
    if color in COLORS and k < 0.22:
        new = Thing(old.place, f"{r.choice(list(COLORS))} {shape}")
    free = [n for n in range(9) if n not in [thing.place for thing in before]]
    if k < 0.45 and new.name != old.name:
        after[i] = new
        difference = f"the {old.name} at the {place} becomes {new.noun}"
    elif k < 0.58 and len(before) > 1:
        after.pop(i)
        difference = f"the {old.name} at the {place} is gone"
    elif k < 0.7:
        added = Thing(r.choice(free), random_name(hand, 0.5))
        after = sorted([*after, added])
        difference = f"{added.noun} appears at the {PLACES[added.place]}"
    elif k < 0.8 and [thing.name for thing in before].count(old.name) == 1:
        moved = Thing(r.choice(free), old.name)
        after = sorted([*(thing for thing in before if thing != old), moved])
        difference = f"the {old.name} moves from the {place} to the {PLACES[moved.place]}"
    else:
        difference = f"{SAME}, they show the same objects"
    sheets = [draw_scene(hand, things, width, height) for things in (before, after)]
    return Drawn(sheets, _turns(with_places(before), with_places(after), difference))


def charts(hand: Hand, width: int, height: int) -> Drawn:
    while True:
        before = random_figures(hand)
        if before.kind == "pie" or len(before.series) > 1:
            continue
        after, difference = _changed(hand, before)
        sheets = [draw_figures(hand, figures, width, height) for figures in (before, after)]
        drawn = [sheet for sheet in sheets if sheet is not None]
        if len(drawn) == 2:
            names = [f"{f.title_sentence()} with {f.body()}" for f in (before, after)]
            return Drawn(drawn, _turns(names[0], names[1], difference))


def _changed(hand: Hand, before: Figures) -> tuple[Figures, str]:
    r, row = hand.random, list(before.values[0])
    i, k = r.randrange(len(row)), r.random()
    label, old = before.labels[i], row[i]
    if k < 0.6:
        row[i] = r.choice(row) + (before.step / 2 or 1)
        if before.shown(row[i]) != before.shown(old) and row[i] > 0:
            shown = f"from {before.shown(old)} to {before.shown(row[i])}"
            return replace(before, values=(tuple(row),)), f"the value for {label} changes {shown}"
    if k < 0.85:
        title = random_figures(hand).title
        if title != before.title:
            change = f'the title changes from "{before.title}" to "{title}"'
            return replace(before, title=title), change
    return before, f"{SAME}, they show the same values"


def covers(hand: Hand, width: int, height: int) -> Drawn:
    width, height = min(width, height), max(width, height)
    before = random_book(hand)
    after, k = before, hand.random.random()
    difference = f"{SAME}, the title and the author are the same"
    if k < 0.4:
        after = Book(random_book(hand).title, before.author)
        difference = f'the title changes from "{before.title}" to "{after.title}"'
    elif k < 0.75 and before.author is not None:
        after = Book(before.title, random_author(hand))
        difference = f"the author changes from {before.author} to {after.author}"
    names = []
    for book in (before, after):
        by = "" if book.author is None else f" by {book.author}"
        names.append(f'the book "{book.title}"{by}')
    sheets = [draw_cover(hand, book, width, height) for book in (before, after)]
    return Drawn(sheets, _turns(names[0], names[1], difference))


def texts(hand: Hand, width: int, height: int) -> Drawn:
    words = [hand.word() for _ in range(hand.random.randint(2, 7))]
    other, i = list(words), hand.random.randrange(len(words))
    difference = f"{SAME}, the texts are the same"
    if hand.chance(0.7):
        other[i] = hand.word()
        difference = f'"{words[i]}" becomes "{other[i]}"'
        if other[i] == words[i]:
            difference = f"{SAME}, the texts are the same"
    sheets = [_few_words(hand, line, width, height) for line in (words, other)]
    first, second = (f'the text "{" ".join(line)}"' for line in (words, other))
    return Drawn(sheets, _turns(first, second, difference))


def _few_words(hand: Hand, words: list[str], width: int, height: int) -> Sheet:
    sheet, ground = hand.paper(width, height)
    face, ink = hand.font_path(), hand.ink(ground, 110)
    per = hand.random.randint(1, 3)
    lines = [" ".join(words[i : i + per]) for i in range(0, len(words), per)]
    size = max(sheet.smallest, min(height / len(lines) / 1.5, height * 0.14))
    font = min(
        (hand.fitted(face, line, width * 0.92, size, sheet.smallest) for line in lines),
        key=lambda font: font.size,
    )
    y = (height - font.size * 1.3 * len(lines)) * hand.random.uniform(0.2, 0.8)
    for line in lines:
        sheet.text((width - font.getlength(line)) / 2, y, line, font, ink)
        y += font.size * 1.3
    return sheet


def kinds(hand: Hand, width: int, height: int) -> Drawn:
    """A scene and a cover, in either order."""
    things, book = random_things(hand, hand.random.randint(1, 3)), random_book(hand)
    by = "" if book.author is None else f" by {book.author}"
    both = [
        (draw_scene(hand, things, width, height), with_places(things)),
        (draw_cover(hand, book, width, height), f'the book "{book.title}"{by}'),
    ]
    hand.random.shuffle(both)
    sheets = [sheet for sheet, _ in both]
    return Drawn(sheets, _turns(both[0][1], both[1][1], "they show different things"))
