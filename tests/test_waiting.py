"""How far a request is, and the line that tells of it."""

import io
import sys
import time

import pytest

import phisight
from phisight.cli import waiting
from phisight.cli.waiting import Pace, Waiting
from phisight.engine.request import Progress


def test_a_line_tells_the_stage_and_how_long_it_will_take() -> None:
    pace = Pace()

    def line(now: float, *counts: int) -> str:
        return pace.line(Progress(*counts), now)

    assert line(10.0, 0, 17, 0, 2524, 0) == "looking at crops: 0 of 17"
    assert line(14.0, 8, 17, 0, 2524, 0) == "looking at crops: 8 of 17, about 4 s"
    assert line(19.0, 17, 17, 0, 2524, 0) == "reading tokens: 0 of 2524"
    assert line(24.0, 17, 17, 512, 2524, 0) == "reading tokens: 512 of 2524, about 20 s"
    assert line(26.0, 17, 17, 512, 2524, 0) == "reading tokens: 512 of 2524, about 18 s"
    assert line(44.0, 17, 17, 2524, 2524, 1) == "writing tokens: 1"
    assert line(46.0, 17, 17, 2524, 2524, 15) == "writing tokens: 15, 7.0 a second"


def test_a_request_tells_how_far_it_is() -> None:
    model = phisight.load("nano", device="cpu", chunk_tokens=100)
    steps: list[Progress] = []
    step = model._loop._engine.step

    def watched() -> object:
        for request_id in list(model._loop._engine._jobs):
            progress = model._loop._engine.progress(request_id)
            assert progress is not None
            steps.append(progress)
        return step()

    model._loop._engine.step = watched  # type: ignore[method-assign, assignment]
    answer = model.ask("OCR", ["examples/sign.png"], max_tokens=3, ignore_eos=True)
    prompt = answer.usage.prompt_tokens
    assert steps[0] == Progress(0, 5, 0, prompt, 0)
    assert [progress.read for progress in steps[:3]] == [0, 100, 200]
    assert all(progress.crops_done == 5 for progress in steps[1:])
    assert steps[-1].read == prompt
    assert steps[-1].written == 2
    assert model._loop._engine.progress(10**6) is None


def test_crops_are_told_as_they_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = phisight.load("nano", device="cpu", num_crops=16)
    seen: list[int] = []
    saw = model._loop._engine._runner._saw
    monkeypatch.setattr(
        model._loop._engine._runner, "_saw", lambda count: (seen.append(count), saw(count))
    )
    model.ask("OCR", ["examples/book.png"], max_tokens=1)
    assert len(seen) > 2
    assert max(seen) == 2
    assert model._loop._engine._runner.crops_done == 0


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Stream:
    """A request that has read half of its prompt, and stays there."""

    progress = Progress(5, 5, 386, 772, 0)


def test_the_line_is_shown_at_a_terminal_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = _Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Waiting(_Stream()):  # type: ignore[arg-type]
        deadline = time.monotonic() + 10
        while "386 of 772" not in shown.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "reading tokens: 386 of 772" in shown.getvalue()
    assert shown.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h"))  # erased, cursor back


def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    with Waiting(_Stream()):  # type: ignore[arg-type]
        time.sleep(0.3)
    assert shown.getvalue() == ""
