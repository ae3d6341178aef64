"""The example pictures as drawn, and what the demo shows."""

import hashlib
import subprocess
import sys
from pathlib import Path

import phisight

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_pictures_are_the_ones_drawn_once() -> None:
    sums = dict(
        reversed(line.split()) for line in (EXAMPLES / "SHA256SUMS").read_text().splitlines()
    )
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in EXAMPLES.glob("*.png")}
    assert found == sums
    assert len(sums) == 6


def test_the_book_is_read_right(nano: phisight.Model) -> None:
    answer = nano.ask(
        "Help me get the title and author information of this book?", [EXAMPLES / "book.png"]
    )
    assert answer.text == 'The title of the book is "ALONE" and the author is Morgan Maxwell.'


def test_the_demo_shows_three_questions_answers_and_timings() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=True
    )
    for name in ("chart.png", "book.png", "pair-a.png", "pair-b.png"):
        assert name in done.stdout
    assert done.stdout.count("? ") == done.stdout.count(" s  ") == 3
    assert '"ALONE" and the author is Morgan Maxwell' in done.stdout
