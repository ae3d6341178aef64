"""`phisight ask examples/book.png` from start to end, and the same question once loaded.

GOMP_SPINCOUNT=2000 python benchmarks/ask_book.py [RUNS]    # as the command line sets it
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from record import record, spread

import phisight

BOOK = Path(__file__).parents[1] / "examples" / "book.png"
QUESTION = "Help me get the title and author information of this book?"
EXPECTED = 'The title of the book is "ALONE" and the author is Morgan Maxwell.'


def timed(run: object) -> float:
    began = time.perf_counter()
    assert callable(run)
    run()
    return time.perf_counter() - began


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    command = [sys.executable, "-m", "phisight", "ask", str(BOOK), QUESTION]
    help_command = [sys.executable, "-m", "phisight", "--help"]

    def ask() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == EXPECTED, done.stdout

    def helped() -> None:
        subprocess.run(help_command, capture_output=True, check=True)

    ask()  # the files into the page cache
    whole = [timed(ask) for _ in range(runs)]
    helps = [timed(helped) for _ in range(runs)]
    began = time.perf_counter()
    model = phisight.load(prefix_cache=False, image_memory=0.0)  # nothing found again
    loaded = time.perf_counter() - began
    answers = [model.ask(QUESTION, [BOOK]) for _ in range(runs + 1)]
    assert {answer.text for answer in answers} == {EXPECTED}
    totals = [answer.timings.total for answer in answers]
    keeping = phisight.load()
    keeping.ask(QUESTION, [BOOK])
    again = [keeping.ask(QUESTION, [BOOK]).timings.total for _ in range(runs)]
    record(
        "ask_book",
        placement=str(model.placement),
        answer=EXPECTED,
        whole_command_s=spread(whole),
        help_s=spread(helps),
        load_s=round(loaded, 2),
        first_once_loaded_s=round(totals[0], 3),
        once_loaded_s=spread(totals[1:]),
        asked_again_s=spread(again),
        bar="whole command at most 6 s, once loaded at most 1.5 s, help under 0.3 s",
    )


if __name__ == "__main__":
    main()
