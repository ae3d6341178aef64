"""Stop strings, however the text is cut into pieces."""

import itertools

import pytest

from phisight.processing.stops import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    """What comes out of each piece, up to the stop; and the stop found."""
    watch, out = StopStrings(stops), []
    for piece in pieces:
        out.append(watch.add(piece))
        if watch.found is not None:
            return out, watch.found
    return [*out, watch.finish()], None


@pytest.mark.parametrize(
    ("stops", "text", "expected", "found"),
    [
        (["END"], "say END now", "say ", "END"),
        (["END"], "say EN", "say EN", None),
        (["END"], "EENDx", "E", "END"),
        (["aab"], "aaab", "a", "aab"),
        (["abc", "bc"], "xabcd", "x", "abc"),
        (["bc", "abcd"], "xabcd", "xa", "bc"),
        (["\n\n", "stop"], "one\ntwo\n\nthree", "one\ntwo", "\n\n"),
        (["語"], "日本語", "日本", "語"),
        ([], "anything", "anything", None),
    ],
)
def test_every_way_of_cutting_the_text_gives_the_same(
    stops: list[str], text: str, expected: str, found: str | None
) -> None:
    cuts = range(1, len(text))
    for places in itertools.chain.from_iterable(
        itertools.combinations(cuts, count) for count in (0, 1, 2, 3)
    ):
        ends = [0, *places, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
        out, stop = run(stops, pieces)
        assert ("".join(out), stop) == (expected, found), pieces


def test_only_what_may_begin_a_stop_is_held_back() -> None:
    out, _ = run(["END", "</s>"], ["ab", "cE", "N", "X<", "/", "b"])
    assert out == ["ab", "c", "", "ENX", "", "</b", ""]
