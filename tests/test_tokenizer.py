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


@pytest.mark.parametrize("folder", ["official", "nano_folder"])
def test_streamed_text_joins_to_the_decoded_text(
    folder: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = Tokenizer(request.getfixturevalue(folder))
    generator = random.Random(5)
    texts = ["日本語 😀 é", "a  b", " x", "", "naïve\n\ttabs"]
    lists = [tokenizer.encode_plain(text) for text in texts]
    lists += [
        generator.choices(range(tokenizer.size), k=generator.randrange(40)) for _ in range(500)
    ]
    for ids in lists:
        stream = tokenizer.text_stream()
        pieces = [stream.add(token_id) for token_id in ids]
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids), ids


def test_half_a_character_waits_and_is_marked_at_the_end(nano_folder: Path) -> None:
    stream = Tokenizer(nano_folder).text_stream()
    assert [stream.add(byte) for byte in "é".encode()] == ["", "é"]
    assert stream.add("😀".encode()[0]) == ""
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"model": {"type": "BPE"}}'])
def test_a_bad_tokenizer_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
