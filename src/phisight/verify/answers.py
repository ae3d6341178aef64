"""The how-to's three questions, asked of the model on this machine.

Owns the questions, their pictures and what an answer is recorded as. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phisight.api import Model
from phisight.processing.processor import Processor, Prompt
from phisight.verify.report import Asked, Finding, Status, worst

PICTURES = Path(__file__).parents[1] / "assets" / "pictures"
MAX_TOKENS = 512
_BOOK_WORDS = ("ALONE", "Maxwell")


@dataclass(frozen=True)
class Question:
    """A question about pictures that come with the package."""

    picture: str  # its name in reports
    text: str
    files: tuple[str, ...]


QUESTIONS = (
    Question("chart", "Could you please introduce this chart to me?", ("chart.png",)),
    Question("book", "Help me get the title and author information of this book?", ("book.png",)),
    Question("pair", "What is difference in this two images?", ("pair-a.png", "pair-b.png")),
)


@dataclass(frozen=True, eq=False)
class Transcript:
    """A prompt and what was answered to it, for another dtype to read along."""

    picture: str
    prompt: Prompt
    token_ids: tuple[int, ...]


def make_prompts(folder: Path) -> list[Prompt]:
    """The questions as a folder's own processor puts them. Raises ConfigError and PromptError."""
    processor = Processor(folder)
    return [processor.prompt(q.text, [PICTURES / name for name in q.files]) for q in QUESTIONS]


def ask_all(
    model: Model,
    prompts: Sequence[Prompt],
    asked: list[Asked],
    usual: str,
    progress: Callable[[str], None],
) -> tuple[Finding, list[Transcript]]:
    """Ask greedily, and add to `asked`, so that it keeps what came before an error.

    `usual` is the machine's own dtype. Raises what Model.ask raises.
    """
    transcripts = []
    dtype = str(model.placement.dtype).removeprefix("torch.")
    for question, prompt in zip(QUESTIONS, prompts, strict=True):
        progress(f"asking about the {question.picture}")
        answer = model.ask(prompt, max_tokens=MAX_TOKENS)
        transcripts.append(Transcript(question.picture, prompt, answer.token_ids))
        usage, seconds = answer.usage, answer.timings
        steps = usage.completion_tokens - 1
        asked.append(
            Asked(
                picture=question.picture,
                question=question.text,
                answer=answer.text,
                dtype=dtype,
                finish_reason=answer.finish_reason,
                prompt_tokens=usage.prompt_tokens,
                image_tokens=usage.image_tokens,
                completion_tokens=usage.completion_tokens,
                processing=round(seconds.processing, 4),
                vision=round(seconds.vision, 4),
                prefill=round(seconds.prefill, 4),
                decode=round(seconds.decode, 4),
                tokens_per_second=round(steps / seconds.decode, 2) if steps else None,
            )
        )
    return _judged(asked, usual), transcripts


def check_book(asked: list[Asked]) -> tuple[Finding, bool]:
    """Was the cover read? A note where not: a checkpoint of random weights cannot."""
    answer = next(item.answer for item in asked if item.picture == "book").lower()
    missing = [word for word in _BOOK_WORDS if word.lower() not in answer]
    if missing:
        message = (
            f"the answer about the book lacks {' and '.join(missing)}: trained weights read the "
            "cover, random ones cannot"
        )
        return Finding("book", Status.NOTE, message), False
    words = " and ".join(_BOOK_WORDS)
    return Finding("book", Status.OK, f"the answer about the book names {words}"), True


def _judged(asked: list[Asked], usual: str) -> Finding:
    empty = [f"the answer about the {a.picture} is empty" for a in asked if not a.answer.strip()]
    endless = [a.picture for a in asked if a.finish_reason != "stop"]
    notes = []
    if endless:
        notes.append(
            f"cut after {MAX_TOKENS} tokens: {', '.join(endless)}; the others ended by themselves"
            if len(endless) < len(asked)
            else f"none of the answers ended within {MAX_TOKENS} tokens"
        )
    if asked[0].dtype != usual:
        notes.append(f"asked in {asked[0].dtype}: the memory is short for {usual}")
    fine = f"{len(asked)} answers, none empty, each ended by the model"
    return worst("answers", empty, notes, fine)
