"""What people and programs see: answers on stdout, notes on stderr, and exit codes."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from phisight.cli.waiting import Waiting
from phisight.errors import AnswerError, DeviceError, InputError, ModelError, PhisightError

if TYPE_CHECKING:
    from phisight.answer import Answer, Stream
    from phisight.api import Model

# 1 is left to crashes and to output that cannot be written, 2 is also what wrong usage exits with.
EXIT_CODES: dict[type[PhisightError], int] = {
    InputError: 2,
    ModelError: 3,
    DeviceError: 4,
    AnswerError: 5,
}


_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def exit_code(error: PhisightError) -> int:
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


def note(text: str) -> None:
    """One dim line on stderr."""
    from rich.console import Console  # 25 ms that --help does without

    console = Console(stderr=True, highlight=False, markup=False)
    # Wrapped between words at a terminal, one line for a file.
    console.print(printable(text), style="dim", soft_wrap=not console.is_terminal)


def note_model(model: Model) -> None:
    chosen = "" if model.chosen_by == "named" else f" ({model.chosen_by})"
    note(f"{model.name}{chosen} on {model.placement}")
    if model.note:
        note(model.note)


def note_costs(answer: Answer) -> None:
    if answer.finish_reason == "length":
        note(f"cut after {answer.usage.completion_tokens} tokens; --max-tokens allows more")
    if not answer.text.strip():
        note("the answer is empty")
    note(answer.summary())


def printable(text: str) -> str:
    """Without control characters: text read off a picture must not steer a terminal.

    Nor may it turn the order of what is shown: the marks that do are left out.
    """
    return "".join(
        c for c in text if c in "\n\t" or (unicodedata.category(c) != "Cc" and c not in _TURNS)
    )


def one_line(text: str) -> str:
    """A name or a message, which a line feed in it must not make two of."""
    return printable(text.replace("\n", "\\n"))


def show_stream(stream: Stream) -> Answer:
    """Write an answer as it comes."""
    with Waiting(stream) as waiting:
        for piece in stream:
            waiting.close()
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    sys.stdout.write("\n")
    answer = stream.finish()
    note_costs(answer)
    return answer


def finished(stream: Stream) -> Answer:
    """The whole answer, shown by none of its pieces."""
    with Waiting(stream, whole=True):
        return stream.finish()


def show_json(model: Model, question: str, images: Sequence[str], answer: Answer) -> None:
    """Write one answer as a JSON line."""
    record = {
        "model": model.name,
        "device": str(model.placement.device),
        "dtype": str(model.placement.dtype).removeprefix("torch."),
        "question": question,
        "images": list(images),
        **dataclasses.asdict(answer),
    }
    write_json_line(record)


def show_error(error: PhisightError, images: Sequence[str] = (), *, as_json: bool = False) -> None:
    """One sentence on stderr; for programs also a JSON line in the answer's place."""
    sys.stderr.write(f"phisight: {one_line(str(error))}\n")
    if as_json:
        write_json_line({"images": list(images), "error": str(error)})


def write_json_line(record: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")  # ASCII: fits any terminal and steers none
    sys.stdout.flush()
