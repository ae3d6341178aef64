"""Named jobs: a question that the model answers well, and how many pictures it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A job by name. With `together`, all pictures go into one question; else each gets its own."""

    name: str
    summary: str
    question: str
    together: bool = False
    min_images: int = 1


TASKS = (
    Task("describe", "Say what each picture shows.", "Describe the image."),
    Task("ocr", "Write out the text in each picture.", "Read all the text in the image."),
    Task(
        "compare",
        "Say what is different between pictures.",
        "Compare the two images.",
        together=True,
        min_images=2,
    ),
)
