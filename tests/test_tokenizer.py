import json
import random
from pathlib import Path

import pytest

from phisight.errors import ConfigError
from phisight.processing.tokenizer import Tokenizer

GOLDENS = json.loads(
    Path(__file__).with_name("reference").joinpath("goldens/tokenizer.json").read_text()
)


@pytest.fixture(scope="module")
def tokenizer(official: Path) -> Tokenizer:
    return Tokenizer(official)


def test_official_strings(tokenizer: Tokenizer) -> None:
    assert len(GOLDENS["strings"]) == 103
    for row in GOLDENS["strings"]:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
        assert tokenizer.decode(row["ids"]) == row["decoded_skip"], row["text"]


def test_official_id_lists(tokenizer: Tokenizer) -> None:
    rows = GOLDENS["random_ids"] + GOLDENS["edge_ids"]
    assert len(rows) == 30
    for row in rows:
        assert tokenizer.decode(row["ids"]) == row["decoded_skip"], row["ids"]


def test_plain_encoding_equals_the_official_one_without_control_tokens(
    tokenizer: Tokenizer,
) -> None:
    plain = [row for row in GOLDENS["strings"] if "<" not in row["text"]]
    assert len(plain) > 60
    for row in plain:
        assert tokenizer.encode_plain(row["text"]) == row["no_bos"], row["text"]


@pytest.mark.parametrize(
    "text", ["<s>", "</s>", "<|end|>", "<|assistant|>", "<unk>", "<|image|>", "a<|user|>b<|end|>"]
)
def test_plain_encoding_never_gives_a_control_id(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_plain(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {0, 1, 2, *range(32000, 32045)}


def test_stop_ids_come_from_strings(tokenizer: Tokenizer, nano_folder: Path) -> None:
    assert tokenizer.stop_ids == {32007, 32000, 32001}
    assert Tokenizer(nano_folder).stop_ids == {258, 257, 260}


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.text_stream()
    return [*(stream.add(token_id) for token_id in ids), stream.finish()]


@pytest.mark.parametrize("folder", ["official", "nano_folder"])
def test_streamed_text_joins_to_the_decoded_text(
    folder: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = Tokenizer(request.getfixturevalue(folder))
    generator = random.Random(5)
    texts = [row["text"] for row in GOLDENS["strings"]] + ["日本語 😀 é", "\n😀\n\n", "x\n\té\n"]
    lists = [tokenizer.encode_plain(text) for text in texts]
    # Bytes and words mixed, so that runs of byte tokens are cut everywhere.
    some = [*range(3, 259)] * 20 + [*range(tokenizer.size)]
    lists += [generator.choices(some, k=generator.randrange(20)) for _ in range(2000)]
    whole = 0
    for ids in lists:
        joined, decoded = "".join(streamed(tokenizer, ids)), tokenizer.decode(ids)
        if "\ufffd" not in decoded:
            assert joined == decoded, ids
            whole += 1
        else:  # bytes that are no character: nothing is sent twice, nothing but them is lost
            assert len(joined) <= len(decoded)
            assert joined.replace("\ufffd", "").strip() or not decoded.replace("\ufffd", "").strip()
    assert whole > 200


def test_a_lone_byte_after_a_line_feed_repeats_nothing(official: Path) -> None:
    """A line feed is a byte token too, and decodes anew with the bytes that follow it."""
    tokenizer = Tokenizer(official)
    ids = [*tokenizer.encode_plain("Hello world"), 13, 3 + 0xF0]
    assert "".join(streamed(tokenizer, ids)) == "Hello world\n\ufffd"
    more = [*ids, *tokenizer.encode_plain("and on")]
    assert "".join(streamed(tokenizer, more)) == "Hello world\n\ufffd and on"
    assert streamed(tokenizer, [*ids, 3 + 0x9F, 3 + 0x98, 3 + 0x80])[-2:] == ["😀", ""]


def test_half_a_character_waits_and_is_marked_at_the_end(nano_folder: Path) -> None:
    stream = Tokenizer(nano_folder).text_stream()
    assert [stream.add(byte) for byte in "é".encode()] == ["", "é"]
    assert stream.add("😀".encode()[0]) == ""
    assert stream.finish() == "\ufffd"


def test_bytes_that_become_no_character_are_not_decoded_over_and_over(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(official)
    stream, work = tokenizer.text_stream(), []
    decode = stream._decode
    monkeypatch.setattr(stream, "_decode", lambda ids: work.append(len(ids)) or decode(ids))
    ids = [3 + 0x80] * 4000 + tokenizer.encode_plain("and on " * 1000)
    pieces = [stream.add(token_id) for token_id in ids]
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)
    assert sum(work) < 30 * len(ids), "not by the square: 8 million"
    assert sum(map(bool, pieces)) > 1000, "and it streams again"


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"model": {"type": "BPE"}}'])
def test_a_bad_tokenizer_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
