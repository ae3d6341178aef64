"""Named jobs: a question that the model answers well, and how many pictures it takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A job by name: each picture gets its own question, or `num_images` of them share one."""

    name: str
    summary: str
    question: str
    num_images: int | None = None


TASKS = (
    Task("describe", "Say what each picture shows.", "Describe the image."),
    Task("ocr", "Write out the text in each picture.", "Read all the text in the image."),
    Task(
        "compare",
        "Say what is different between two pictures.",
        "Compare the two images.",
        num_images=2,
    ),
)
