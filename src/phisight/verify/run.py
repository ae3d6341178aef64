"""All checks in order. A fault in one hides no other, and nothing but a missing model raises.

Owns the order, and what a check needs of those before it.
"""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from phisight.api import load
from phisight.config import ModelConfig
from phisight.errors import BudgetError, PhisightError
from phisight.hub import find_model
from phisight.model.memory import free_bytes
from phisight.model.phi3v import Phi3V
from phisight.model.weights import stored_bytes
from phisight.placement import Placement, choose_placement
from phisight.processing.processor import Prompt
from phisight.verify import agreement, answers, declared, environment, files, selftest, weights
from phisight.verify.report import Finding, Report, Status, gigabytes, printed, without_paths

T = TypeVar("T")
Progress = Callable[[str], None]
_DTYPES = (torch.float32, torch.bfloat16)
_OF_CONTENTS = ("config", "preprocessor", "tokenizer", "chat template", "weights", "values")


def verify(
    model: str | os.PathLike[str] | None = None,
    *,
    quick: bool = False,
    progress: Progress = lambda line: None,
) -> Report:
    """Everything there is to find out about a model folder, on this machine.

    `quick` leaves out the comparison of dtypes; `progress` is called with what is being done.
    Raises ModelNotFoundError, and OptionError for a name that is none.
    """
    found = find_model(model)
    folder = found.path.resolve()
    hub = files.hub_name(folder)
    name = printed(hub[0]) if hub else files.shared_name(found)
    report = Report(model=name, revision=hub[1] if hub else None)
    # What phisight knows by name was put there by the user's own tools; a folder may be anyone's.
    refused = files.refused_files(folder, anywhere=not files.is_folder(found))
    _Checks(report, folder, refused, progress).all(quick)
    return report


class _Checks:
    """The report being filled."""

    def __init__(
        self, report: Report, folder: Path, refused: dict[str, str], progress: Progress
    ) -> None:
        self._report, self._folder, self._progress = report, folder, progress
        self._refused = refused  # by name, why a file is not opened

    def all(self, quick: bool) -> None:
        report, folder = self._report, self._folder
        hashed = self._run("files", lambda: files.check_files(folder, self._refused)) or []
        report.files = [item.record for item in hashed]
        self._run("hub cache", lambda: files.check_cache(hashed))
        report.never_opened = self._run("code", lambda: files.check_unread(folder)) or []
        config, usable = self._contents()
        self._run("processor", selftest.check_processor)
        packed = config.weights if config is not None else None
        placement = self._attempt("machine", lambda: choose_placement(None, None, packed))
        broken = [check for check, fine in usable.items() if not fine]
        if placement is None or broken:
            why = f"not run: a fault in {', '.join(broken or ['machine'])}"
            self._skip(("answers", "book", "dtypes"), why)
        if placement is not None:
            facts = self._attempt("machine", lambda: environment.describe_machine(placement))
            report.environment = facts or {}
            if config is not None and not broken:
                self._speak(placement, config, quick)

    def _contents(self) -> tuple[ModelConfig | None, dict[str, bool]]:
        """What the files hold: config.json's, and which checks let the model run."""
        folder, report = self._folder, self._report
        if any(path.name in self._refused for path in files.readable_files(folder)):
            self._skip(_OF_CONTENTS, "not run: a fault in files")
            return None, {"files": False}
        config, recognised = self._run("config", lambda: declared.check_config(folder)) or (
            None,
            None,
        )
        report.recognised = recognised.name if recognised else None
        usable: dict[str, bool | None] = {
            "config": config is not None,
            "preprocessor": self._run(
                "preprocessor", lambda: declared.check_preprocessor(folder, recognised)
            ),
            "tokenizer": self._run("tokenizer", lambda: declared.check_tokenizer(folder, config)),
            "chat template": self._run("chat template", lambda: declared.check_template(folder)),
        }
        if config is None:
            self._skip(("weights",), "not run: a fault in config")
        else:
            usable["weights"] = self._run(
                "weights", lambda: weights.check_keys(folder, config, self._refused)
            )
        usable["values"] = bool(self._run("values", lambda: weights.check_values(folder)))
        return config, {check: bool(fine) for check, fine in usable.items()}

    def _speak(self, placement: Placement, config: ModelConfig, quick: bool) -> None:
        """The checks that run the model: in one dtype, then, that one gone, in the other."""
        prompts = self._attempt("answers", lambda: answers.make_prompts(self._folder))
        if prompts is None:
            self._skip(("book", "dtypes"), "not run: no answers")
            return
        needs = _memory_needs(config, prompts)
        free = free_bytes(placement.device)
        spoken = _spoken_dtype(placement, needs, free)
        if spoken is None:
            lack = _lack(needs["bfloat16"], free)
            self._skip(("answers", "book"), f"not run: {lack}")
            self._skip(("dtypes",), f"not measured: {lack}")
            return
        both = not quick and needs["float32"] <= free
        transcripts, logits = self._listen(spoken, placement, prompts, both)
        gc.collect()
        if placement.device.type == "cuda":
            torch.cuda.empty_cache()
        if quick:
            self._skip(("dtypes",), "not measured: left out by --quick")
        elif not both:
            lack = _lack(needs["float32"], free)
            self._skip(("dtypes",), f"not measured: {lack}")
        elif not transcripts:
            self._skip(("dtypes",), "not run: not everything was answered")
        elif logits is not None:
            self._run("dtypes", lambda: self._compare(spoken, logits, transcripts))

    def _listen(
        self, spoken: str, placement: Placement, prompts: list[Prompt], both: bool
    ) -> tuple[list[answers.Transcript], agreement.Logits | None]:
        """Ask, and with `both` keep the logits; the model is gone when this returns."""
        model = self._attempt("answers", lambda: load(self._folder, dtype=spoken))
        if model is None:
            self._skip(("book",), "not run: no answers")
            return [], None
        asked = self._report.answers
        usual = _dtype_name(placement)
        transcripts = self._run(
            "answers", lambda: answers.ask_all(model, prompts, asked, usual, self._progress)
        )
        if any(item.picture == "book" for item in asked):
            self._run("book", lambda: answers.check_book(asked))
        else:
            self._skip(("book",), "not run: not answered")
        if not transcripts or not both:
            return transcripts or [], None
        self._progress(f"reading the answers along in {spoken}")
        return transcripts, self._attempt(
            "dtypes", lambda: agreement.read_along(model, transcripts)
        )

    def _compare(
        self, spoken: str, logits: agreement.Logits, transcripts: list[answers.Transcript]
    ) -> tuple[Finding, bool]:
        other = next(dtype for dtype in agreement.DTYPES if dtype != spoken)
        self._progress(f"reading the answers along in {other}")
        model = load(self._folder, dtype=other)
        by_dtype = {spoken: logits, other: agreement.read_along(model, transcripts)}
        finding, self._report.agreement = agreement.compare(by_dtype, spoken, transcripts)
        return finding, True

    def _run(self, check: str, work: Callable[[], tuple[Finding, T]]) -> T | None:
        """What a check found out besides its finding; None if it could not."""
        self._progress(f"checking: {check}")
        outcome = self._attempt(check, work)
        if outcome is None:
            return None
        finding, value = outcome
        self._add(finding)
        return value

    def _attempt(self, check: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except BudgetError as error:  # this machine's lack, or the context's; no damage
            self._add(Finding(check, Status.NOTE, f"not measured: {error}"))
        except PhisightError as error:
            self._add(Finding(check, Status.FAULT, str(error)))
        except Exception as error:  # our own mistake, which must not hide the other checks
            kind = type(error).__name__
            self._add(Finding(check, Status.FAULT, f"this check broke down ({kind}): report that"))
        return None

    def _skip(self, checks: tuple[str, ...], why: str) -> None:
        for check in checks:
            self._add(Finding(check, Status.NOTE, why))

    def _add(self, finding: Finding) -> None:
        message = without_paths(finding.message, self._folder)
        self._report.findings.append(dataclasses.replace(finding, message=message))


def _dtype_name(placement: Placement) -> str:
    return str(placement.dtype).removeprefix("torch.")


def _memory_needs(config: ModelConfig, prompts: list[Prompt]) -> dict[str, int]:
    """By dtype, bytes for the weights, and so much that half of it, which the cache takes, holds
    the longest prompt and its answer."""
    longest = max(len(prompt.ids) for prompt in prompts) + answers.MAX_TOKENS
    with torch.device("meta"):
        network = Phi3V(config)
    return {
        str(dtype).removeprefix("torch."): stored_bytes(config, dtype)
        + 2 * network.to(dtype).bytes_to_read(longest)
        for dtype in _DTYPES
    }


def _spoken_dtype(placement: Placement, needs: dict[str, int], free: int) -> str | None:
    """The machine's own dtype; bfloat16 where that does not fit; None where nothing does."""
    for dtype in (_dtype_name(placement), "bfloat16"):
        if needs[dtype] <= free:
            return dtype
    return None


def _lack(needed: int, free: int) -> str:
    return f"needs {gigabytes(needed)}, {gigabytes(free)} free"
