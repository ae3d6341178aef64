"""Running text: sentences, set as paragraphs are."""

from __future__ import annotations

from collections.abc import Iterator

from draw.border import border
from draw.hand import Hand
from draw.sheet import Color, Font, Sheet

MOST = 400  # characters of an answer
# Rare words of a dictionary alone would teach that letters are all there is to a word.
COMMON = (
    "the of and to in a is that for it was on are as with his they at be this from have or by one "
    "had not but what all were when we there can an your which their said if do will each about "
    "how up out them then she many some so these would other into has more her two like him see "
    "time could no make than first been its who now people my made over did down only way find use "
    "may water long little very after words called just where most know get through back much "
    "before go good new write our used me man too any day same right look think also around "
    "another came come work three word must because does part even place well such here take why "
    "things help put years different away again off went old number great tell men say small every "
    "found still between name should home big give air line set own under read last never us left "
    "end along while might next sound below saw something thought both few those always looked "
    "show large often together asked house world going want school important until form food keep "
    "children feet land side without boy once animals life enough took sometimes four head above "
    "kind began almost live page got earth need far hand high year mother light parts country "
    "father let night following picture being study second eyes soon times story boys since white "
    "days ever paper hard near sentence better best across during today others however sure means "
    "knew try told young miles sun ways thing whole hear example heard several change answer room "
    "sea against top turned learn point city play toward five using himself usually"
).split()


def running_text(hand: Hand, width: int, height: int) -> tuple[Sheet, list[str]]:
    """The sheet and its lines, of 20 to 46 characters; practised from 13 on."""
    r = hand.random
    sheet, ground = hand.paper(width, height)
    face, per = hand.font_path(), r.randint(20, 46)
    # Wide gaps between words, and lines around them, are not yet a table.
    justified = hand.practises and hand.chance(0.25)
    if hand.practises and hand.chance(0.2):
        per = r.randint(13, 24)
    sample = hand.font(face, 100).getlength("the quick brown fox jumps over") / 30 / 100
    size = max(sheet.smallest, min(width * 0.9 / per / sample, height * 0.09))
    font, ink = hand.font(face, size), hand.ink(ground, 110)
    step = font.size * r.uniform(1.15, 1.7)
    y, x = height * r.uniform(0.02, 0.1), width * r.uniform(0.02, 0.06)
    if hand.practises and hand.chance(0.25):
        edges = (x * 0.3, y * 0.5, width - x * 0.3, height * r.uniform(0.9, 0.99))
        border(hand, sheet, edges, r.randint(1, max(2, width // 150)))
    written: list[str] = []
    if hand.chance(0.25):
        heading = " ".join(hand.word().capitalize() for _ in range(r.randint(1, 3)))
        large = hand.fitted(hand.font_path(), heading, width * 0.9, size * 1.5, sheet.smallest)
        sheet.text(x, y, heading, large, hand.ink(ground, 110))
        written.append(heading)
        y += large.size * 1.7
    words = sentences(hand)
    middle = hand.chance(0.15)
    while y + step < height and sum(map(len, written)) < MOST - per and len(written) < 12:
        line = next(words)
        word = next(words)
        while font.getlength(f"{line} {word}") < width - 2 * x and len(line) < per:
            line, word = f"{line} {word}", next(words)
        if font.getlength(line) > width - x:
            break
        left = (width - font.getlength(line)) / 2 if middle else x
        if justified:
            _spread(sheet, line, (x, y, width - x), font, ink)
        else:
            sheet.text(left, y, line, font, ink)
        written.append(line)
        y += step
        if hand.chance(0.06):
            y += step * 0.5
    return sheet, written


def _spread(
    sheet: Sheet, line: str, place: tuple[float, float, float], font: Font, ink: Color
) -> None:
    """From one margin to the other, the gaps between its words alike."""
    left, y, right = place
    words = line.split(" ")
    free = right - left - sum(map(font.getlength, words))
    for word in words:
        sheet.text(left, y, word, font, ink)
        left += font.getlength(word) + free / max(1, len(words) - 1)


def sentences(hand: Hand) -> Iterator[str]:
    """Words without end, in sentences."""
    start = True
    while True:
        word = hand.random.choice(COMMON) if hand.chance(0.4) else hand.word(11)
        if hand.chance(0.04):
            word = hand.number()
        if start:
            word = word.capitalize()
        start = hand.chance(0.12)
        yield word + ("." if start else "," if hand.chance(0.07) else "")
