"""Text to be read out: lines, paragraphs, receipts, signs, screens."""

from __future__ import annotations

import string

from draw.border import border
from draw.hand import Hand
from draw.prices import price_list
from draw.running import COMMON, MOST, running_text
from draw.sheet import Drawn, Sheet, Turn

READ = (
    "Read all the text in the image.",
    "OCR",
    "Transcribe the text.",
    "What does the text say?",
    "Read the text.",
    "Write out the text in this picture.",
    "What is written here?",
)
SIGN = ("What does the sign say?", "Read the sign.", "What is written on the sign?")
RECEIPT = ("Read the receipt.", "What is on this receipt?")
SCREEN = ("What is on the screen?", "Read the screen.")
PUNCTUATION = ("", "", "", "", "", ",", ",", ".", ".", ";", ":", "!", "?")
GOODS = ("Tea", "Bread", "Milk", "Coffee", "Cheese", "Apples", "Soap", "Paper", "Lamp", "Pens")


def text(hand: Hand, width: int, height: int) -> Drawn:
    kinds = (scattered, paragraph, sign, receipt, screen, prices)
    (draw,) = hand.random.choices(kinds, (0.38, 0.22, 0.1, 0.1, 0.1, 0.1))
    return draw(hand, width, height)


def scattered(hand: Hand, width: int, height: int) -> Drawn:
    """Lines of different sizes, faces and colours, one below the other."""
    r = hand.random
    sheet, _ = hand.paper(width, height)
    if hand.practises and hand.chance(0.12):
        edge, thick = max(1, width // 250), r.randint(1, max(2, width // 150))
        border(hand, sheet, (edge, edge, width - edge - thick, height - edge - thick), thick)
    face, written, y = hand.font_path(), [], height * r.uniform(0.01, 0.15)
    for _ in range(r.randint(1, 9)):
        if hand.chance(0.3):
            face = hand.font_path()
        line = " ".join(_piece(hand) for _ in range(r.randint(1, 6)))
        size = max(sheet.smallest, height * r.uniform(0.025, 0.12))
        if hand.practises and hand.chance(0.25):
            size = sheet.smallest * r.uniform(1, 1.3)
        font = hand.fitted(face, line, width * 0.94, size, sheet.smallest)
        while font.getlength(line) > width * 0.97 and " " in line:
            line = line.rpartition(" ")[0]
        if y + font.size * 1.4 > height or font.getlength(line) > width * 0.99:
            break
        x = r.uniform(0.01, 0.99) * (width - font.getlength(line))
        sheet.text(x, y, line, font, hand.ink_at(sheet, x, y, font.getlength(line), font))
        written.append(line)
        y += font.size * r.uniform(1.25, 2.2)
    return _drawn(hand, sheet, written, READ) or scattered(hand, width, height)


def paragraph(hand: Hand, width: int, height: int) -> Drawn:
    """Running text."""
    made = running_text(hand, width, height)
    return _drawn(hand, *made, READ) or scattered(hand, width, height)


def sign(hand: Hand, width: int, height: int) -> Drawn:
    """A few large words on a plate."""
    r = hand.random
    sheet, _ = hand.paper(width, height)
    if hand.chance(0.4) and hand.photos:
        sheet.image.paste(hand.photo(width, height))
    x0, y0 = width * r.uniform(0.03, 0.2), height * r.uniform(0.03, 0.25)
    plate = hand.color()
    box = (x0, y0, width - x0, height - y0)
    edge = hand.color()
    sheet.pen.rounded_rectangle(box, r.randint(0, 40), fill=plate, outline=edge, width=2)
    face, ink, upper = hand.font_path(), hand.ink(plate), hand.chance(0.5)
    lines = []
    for _ in range(r.randint(1, 4)):
        line = " ".join(_piece(hand) for _ in range(r.randint(1, 3)))
        lines.append(line.upper() if upper else line)
    room = (height - 2 * y0) / len(lines) / 1.3
    sizes = [
        hand.fitted(face, line, (width - 2 * x0) * 0.9, max(room, sheet.smallest), sheet.smallest)
        for line in lines
    ]
    font = min(sizes, key=lambda font: font.size)
    lines = [line for line in lines if font.getlength(line) < width - 2 * x0]
    y = y0 + (height - 2 * y0 - font.size * 1.25 * len(lines)) / 2
    for line in lines:
        sheet.text((width - font.getlength(line)) / 2, y, line, font, ink)
        y += font.size * 1.25
    return _drawn(hand, sheet, lines, (*READ[:2], *SIGN)) or scattered(hand, width, height)


def receipt(hand: Hand, width: int, height: int) -> Drawn:
    """A shop's name, things and prices, a total."""
    r = hand.random
    sheet, ground = hand.paper(width, height)
    face, ink = hand.font_path(), hand.ink(ground, 110)
    font = hand.font(face, max(sheet.smallest, height / r.uniform(16, 24)))
    currency = r.choice(("$", "", "€", "£"))
    entries, total = [], 0
    for _ in range(r.randint(2, 7)):
        cents = r.randint(50, 9999)
        total += cents
        name = r.choice(GOODS) if hand.chance(0.5) else hand.word(9).capitalize()
        if hand.chance(0.3):
            name = f"{r.randint(2, 9)} x {name}"
        entries.append((name, f"{currency}{cents // 100}.{cents % 100:02d}"))
    entries.append((r.choice(("Total", "TOTAL", "Sum")), f"{currency}{total / 100:.2f}"))
    lines: list[tuple[str, ...]] = [(hand.word().upper() + r.choice((" STORE", " SHOP", "")),)]
    if hand.chance(0.5):
        lines.append((f"{r.randint(1, 28):02d}/{r.randint(1, 12):02d}/{r.randint(2001, 2029)}",))
    lines += entries
    if hand.chance(0.4):
        lines.append((r.choice(("Thank you!", "Thank you for your visit", "Come again")),))
    y, written, left = height * 0.03, [], width * r.uniform(0.03, 0.15)
    for line in lines:
        if y + font.size * 1.3 > height:
            break
        if font.getlength(" ".join(line)) > width - 2 * left:
            return scattered(hand, width, height)
        x = left if len(line) == 2 else (width - font.getlength(line[0])) / 2
        sheet.text(x, y, line[0], font, ink)
        if len(line) == 2:
            sheet.text(width - left - font.getlength(line[1]), y, line[1], font, ink)
        written.append(" ".join(line))
        y += font.size * 1.35
    return _drawn(hand, sheet, written, (*READ, *RECEIPT)) or scattered(hand, width, height)


def prices(hand: Hand, width: int, height: int) -> Drawn:
    """What stands at either side of a line is read as one."""
    made = price_list(hand, width, height)
    drawn = _drawn(hand, *made, READ) if made is not None else None
    return drawn or prices(hand, width, height)


def screen(hand: Hand, width: int, height: int) -> Drawn:
    """A window with a title bar, some labels and buttons."""
    r = hand.random
    sheet, _ = hand.paper(width, height)
    dark = hand.chance(0.3)
    ground = hand.color(10, 50) if dark else hand.color(225, 255)
    face = hand.font_path()
    font = hand.font(face, max(sheet.smallest, height / r.uniform(14, 22)))
    margin = width * 0.03
    pen = sheet.pen
    pen.rectangle((margin, margin, width - margin, height - margin), fill=ground, outline=(99,) * 3)
    bar = hand.color()
    pen.rectangle((margin, margin, width - margin, margin + font.size * 1.6), fill=bar)
    title = " ".join(hand.word(9).capitalize() for _ in range(r.randint(1, 3)))
    written, ink, y = [], hand.ink(ground, 110), margin + font.size * 0.15
    if font.getlength(title) < width - 6 * margin:
        sheet.text(2 * margin, y, title, font, hand.ink(bar))
        written.append(title)
    y += font.size * 1.9
    for _ in range(r.randint(1, 7)):
        line = f"{hand.word(9).capitalize()}: {_piece(hand)}"
        if hand.chance(0.4):
            line = " ".join(_piece(hand) for _ in range(r.randint(1, 4)))
        if y + font.size * 3.2 > height - margin:
            break
        if font.getlength(line) < width - 4 * margin:
            sheet.text(2 * margin, y, line, font, ink)
            written.append(line)
            y += font.size * 1.5
    label = r.choice(("OK", "Cancel", "Save", "Close", "Next", "Apply", hand.word(8).capitalize()))
    if hand.chance(0.6) and font.getlength(label) < width * 0.4:
        x, key = width - 3 * margin - font.getlength(label), hand.color()
        bottom = height - 1.5 * margin
        pen.rounded_rectangle(
            (x - margin, bottom - font.size * 1.5, width - 2 * margin, bottom), 6, fill=key
        )
        sheet.text(x, bottom - font.size * 1.4, label, font, hand.ink(key))
        written.append(label)
    return _drawn(hand, sheet, written, (*READ, *SCREEN)) or scattered(hand, width, height)


def _drawn(hand: Hand, sheet: Sheet, lines: list[str], asks: tuple[str, ...]) -> Drawn | None:
    answer = "\n".join(lines)
    if not lines or len(answer) > MOST:
        return None
    whole = Turn(
        ("Describe the image.", "What is in the picture?"), f"The image shows text:\n{answer}"
    )
    turns = [Turn(asks, answer, 8), whole]
    if len(lines) > 2:
        turns.append(Turn(("What is the first line?", "Read the first line."), lines[0], 0.5))
        turns.append(Turn(("What is the last line?", "Read the last line."), lines[-1], 0.5))
    return Drawn([sheet], turns)


def _piece(hand: Hand) -> str:
    k = hand.random.random()
    if k < 0.16:
        return hand.number()
    if k < (0.24 if hand.practises else 0.2):
        letters = string.ascii_letters + string.digits + "-#/&@_+"
        return "".join(hand.random.choice(letters) for _ in range(hand.random.randint(2, 8)))
    if k < 0.26:
        return hand.random.choice(hand.names)
    word = hand.random.choice(COMMON) if hand.chance(0.15) else hand.word()
    style = hand.random.random()
    word = word.upper() if style < 0.2 else word.capitalize() if style < 0.5 else word
    return word + hand.random.choice(PUNCTUATION)
