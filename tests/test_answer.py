"""Ends of answers (row 10 of test_hazards), with an engine that says what it is told."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from phisight.answer import Stream, Timings, Usage
from phisight.api import Model
from phisight.engine.request import EngineTimes, FinishReason, Request, Token
from phisight.params import SamplingParams
from phisight.processing.tokenizer import Tokenizer

SIGN = Path(__file__).parents[1] / "examples" / "sign.png"


class Parrot:
    """An engine loop whose one request is answered with given ids."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = deque(ids)

    def submit(self, request: Request) -> int:
        self._stop_ids, self._left = request.stop_ids, request.params.max_tokens
        return 0

    def next_token(self, request_id: int) -> Token | None:
        if not self._ids:
            return None
        token, finish = self._ids.popleft(), None
        self._left -= 1
        if token in self._stop_ids:
            finish = FinishReason.STOP
        elif self._left == 0:
            finish = FinishReason.LENGTH
        if finish is not None:
            self._ids.clear()
        return Token(token, EngineTimes(0.0, 0.0, 0.0), finish)

    def abandon(self, request_id: int) -> None:
        self._ids.clear()


def say(tokenizer: Tokenizer, ids: list[int], **options: object) -> Stream:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    request = Request((1,), (), params, tokenizer.stop_ids)
    return Stream(Parrot(ids), request, tokenizer, Usage(1, 0), Timings())  # type: ignore[arg-type]


@pytest.fixture(params=["official", "nano_folder"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.getfixturevalue(request.param))


def control_ids(tokenizer: Tokenizer) -> list[int]:
    """Every control token but </s>, which the official file calls no special token."""
    return [token_id for name, token_id in tokenizer._control.items() if name != "</s>"]


def test_an_answer_ends_at_end_and_shows_no_control_token(tokenizer: Tokenizer) -> None:
    text, after = (tokenizer.encode_plain(text) for text in ("A cat.", " And more."))
    for stop in tokenizer.stop_ids:
        answer = say(tokenizer, [*text, stop, *after]).finish()
        assert (answer.text, answer.finish_reason) == ("A cat.", "stop")
        assert answer.token_ids == (*text, stop)
    for control in set(control_ids(tokenizer)) - tokenizer.stop_ids:
        assert say(tokenizer, [*text, control], max_tokens=len(text) + 1).finish().text == "A cat."


CUT = "é 日本語 😀👩‍🚀!"


def test_an_answer_cut_anywhere_streams_whole_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_plain(CUT)
    assert len(ids) > len(CUT)  # characters in parts, with both tokenizers
    for most in range(1, len(ids) + 1):
        stream = say(tokenizer, ids, max_tokens=most)
        pieces = list(stream)
        answer = stream.finish()
        assert "".join(pieces) == answer.text
        assert (answer.finish_reason, len(answer.token_ids)) == ("length", most)
        whole = answer.text.rstrip("\ufffd")  # half a character is marked, at the very end only
        assert CUT.startswith(whole)
        assert all(piece in CUT for piece in pieces[:-1])
    assert answer.text == CUT


@pytest.mark.parametrize("stop", ["本", "語 😀", "😀", "\u200d🚀", "<|end|>"])
def test_a_stop_string_in_parts_ends_the_answer_before_it(tokenizer: Tokenizer, stop: str) -> None:
    text = CUT + "<|end|>..."  # spelt out, as a model may read it off a picture: it is text
    stream = say(tokenizer, tokenizer.encode_plain(text), stop=["nowhere", stop])
    pieces = list(stream)
    answer = stream.finish()
    assert answer.text == "".join(pieces) == text[: text.index(stop)]
    assert (answer.finish_reason, answer.stop) == ("stop", stop)


def test_one_token(nano: Model) -> None:
    answer = nano.ask("OCR", [SIGN], max_tokens=1)
    assert (len(answer.token_ids), len(answer.text), answer.finish_reason) == (1, 1, "length")
    assert not nano._loop._engine._jobs
