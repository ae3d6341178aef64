"""What was found out about a model folder: plain values, and their JSON form.

Owns the schema and the removal of private things: no text in a report holds an absolute path.
Knows nothing of how anything is found out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

SCHEMA = 1  # of the JSON form: raised when a key changes its meaning or goes away
NOT_DONE = ("not run", "not measured")  # how the message of a check that was not made begins
_LONGEST = 2000  # characters of a message: a file may hold names and texts of any length
_ABSOLUTE = re.compile(
    r"(?<![\w.:/<|&~])/(?:[^\s/'\"<>|:;,]+/)+[^\s/'\"<>|:;,]*|\b[A-Za-z]:\\[^\s'\"]+"
)


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, also: not measured
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One check's outcome, in one sentence."""

    check: str
    status: Status
    message: str


@dataclass(frozen=True)
class FileRecord:
    """A file phisight reads."""

    name: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Asked:
    """A question put to the model, and its greedy answer. Seconds are Answer.timings'."""

    picture: str
    question: str
    answer: str
    dtype: str
    finish_reason: str  # "stop": the model ended by itself
    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    processing: float
    vision: float
    prefill: float
    decode: float
    tokens_per_second: float | None  # of decoding; None for an answer of one token


@dataclass(frozen=True)
class Agreement:
    """float32 and bfloat16 given the same prompt and the first tokens of the same answer."""

    picture: str
    num_tokens: int
    same_top1: float  # share of tokens
    largest_difference: float | None  # of logits; None where it is no finite number
    mean_difference: float | None
    first_difference: int | None  # index of the first token they disagree about
    margin: float | None  # there, float32's likeliest logit above its second likeliest
    rewritten: int  # tokens that recomputing everything picks as the engine had picked them


@dataclass
class Report:
    """Everything, as it is found out."""

    model: str
    revision: str | None = None  # the hub's commit, for a snapshot in the hub cache
    recognised: str | None = None  # "Phi-3-vision"
    findings: list[Finding] = field(default_factory=list)
    files: list[FileRecord] = field(default_factory=list)
    never_opened: list[str] = field(default_factory=list)
    answers: list[Asked] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == Status.FAULT]

    @property
    def verdict(self) -> str:
        """The last word, in one sentence; what was not looked at is part of it."""
        count = f"{len(self.findings)} checks"
        if self.faults:
            names = ", ".join(dict.fromkeys(finding.check for finding in self.faults))
            verdict = f"fault: {len(self.faults)} of {count} ({names})"
        else:
            verdict = f"ok: no fault in {count}"
        left_out = [f.check for f in self.findings if f.message.startswith(NOT_DONE)]
        return f"{verdict}; not measured or not run: {', '.join(left_out)}" if left_out else verdict

    def to_json(self) -> str:
        """Indented, ASCII, no NaN; begins with the schema's number."""
        record = {"schema": SCHEMA, "verdict": self.verdict, **dataclasses.asdict(self)}
        return json.dumps(record, indent=1, allow_nan=False) + "\n"


def worst(check: str, faults: list[str], notes: list[str], fine: str) -> Finding:
    """One finding out of what a check came upon."""
    if faults:
        return Finding(check, Status.FAULT, "; ".join(faults))
    if notes:
        return Finding(check, Status.NOTE, "; ".join(notes))
    return Finding(check, Status.OK, fine)


def file_safe(name: str) -> str:
    """A model's name as part of a file's: owner/model becomes owner--model."""
    return re.sub(r"[^\w.-]", "_", name.replace("/", "--")).lstrip(".")[:100] or "model"


def without_paths(text: str, folder: Path) -> str:
    """A message on one line of some length, without the folder's place or other absolute paths."""
    text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "").replace(f"{folder}: ", "")
    text = text.replace(str(folder), folder.name)
    line = printed(" ".join(_ABSOLUTE.sub("(path)", text).split()))
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."


def printed(name: str) -> str:
    """A name in characters that can be written: a file's bytes may be no UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def listed(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
