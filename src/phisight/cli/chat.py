"""`chat`: a conversation at the terminal, or line by line from a pipe."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from phisight.cli import options
from phisight.cli.ask import PICTURES_HELP
from phisight.cli.pictures import STDIN, Picture, find_pictures
from phisight.errors import BudgetError, ImageError, InputError
from phisight.params import EngineConfig, LoadOptions, SamplingParams

if TYPE_CHECKING:
    from phisight.chat import Chat

HELP = "/add PICTURES adds them to the next question, /new starts over, /quit or Ctrl-D ends"


@options.expand(without=("logprobs", *options.SERVING))
def chat(
    pictures: Annotated[list[str] | None, typer.Argument(help=PICTURES_HELP)] = None,
    model: options.ModelName = None,
    *,
    placed: LoadOptions,
    cache: EngineConfig,
    params: SamplingParams,
) -> None:
    """Talk about pictures, one question after another.

    Pictures named here go with the first question.
    """
    if STDIN in (pictures or []):
        raise ImageError("- cannot be a picture in a chat: standard input is where questions are")
    waiting = find_pictures(pictures or [])
    from phisight.api import load
    from phisight.cli import output

    loaded = load(model, **options.loading(placed, cache))
    output.note_model(loaded)
    output.note(HELP)
    session = _Session(loaded.chat(), waiting, params)
    for line in _lines():
        if line == "/quit":
            break
        try:
            session.take(line)
        except InputError as error:
            output.show_error(error)
            session.failed = True
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            output.note("stopped; that question is forgotten")
    if session.failed and not _is_interactive():
        raise typer.Exit(2)


class _Session:
    """A conversation and the pictures waiting for its next question."""

    def __init__(self, talk: Chat, waiting: list[Picture], params: SamplingParams) -> None:
        self._talk, self._waiting = talk, waiting
        self._options = dataclasses.asdict(params)
        self.failed = False

    def take(self, line: str) -> None:
        """Obey a command, or ask a question."""
        from phisight.cli import output

        command, _, rest = line.partition(" ")
        if command == "/add":
            self._add(rest)
        elif command == "/new":
            self._talk.messages.clear()
            self._waiting.clear()
            output.note("a new conversation")
        elif command == "/help":
            output.note(HELP)
        elif command.startswith("/") and command.count("/") == 1:
            raise InputError(f"{command} is no command: {HELP}")
        elif line.strip():
            self._ask(line.strip())

    def _add(self, names: str) -> None:
        from phisight.cli import output

        try:
            words = shlex.split(names)
        except ValueError:
            raise ImageError(f"/add {names}: a quotation mark is open") from None
        if STDIN in words or not words:
            raise ImageError("/add needs the name of a picture")
        self._waiting += find_pictures(words)
        names = ", ".join(picture.name for picture in self._waiting)
        output.note(f"with the next question: {names}")

    def _ask(self, question: str) -> None:
        from phisight.cli import output

        sources = [picture.source for picture in self._waiting]
        try:
            with self._talk.stream(question, sources, **self._options) as stream:
                output.show_stream(stream)
        except (ImageError, BudgetError):
            if self._waiting:
                output.note("the pictures of this question are put aside; /add them again")
            raise
        finally:
            self._waiting.clear()


def _is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _lines() -> Iterator[str]:
    """Lines that a person types, with a prompt and line editing, or that are piped in."""
    if not _is_interactive():
        yield from (line.rstrip("\r\n") for line in sys.stdin or ())
        return
    import contextlib

    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() its editing and history
    while True:
        try:
            yield input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return
