"""Text to token ids and back, over the `tokenizers` library.

Owns one distinction: `encode` reads control tokens in the text (the how-to's raw prompts),
`encode_plain` never does, whatever the text says. Knows nothing of images or chat formats.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from phisight.errors import ConfigError
from phisight.jsonfile import read_json

# Ends of a turn, by string: their ids differ between checkpoints (32007 here, 258 in `nano`).
STOP_TOKENS = ("<|end|>", "<|endoftext|>", "<|assistant|>")

_PARTIAL = "\ufffd"  # how bytes short of a character decode


class Tokenizer:
    """A checkpoint's tokenizer.json. Raises ConfigError if it cannot serve Phi-3-V prompts."""

    def __init__(self, folder: Path) -> None:
        data = read_json(folder / "tokenizer.json")
        added = data.get("added_tokens", [])
        try:
            self._full = tokenizers.Tokenizer.from_str(json.dumps(data))
            self._plain = tokenizers.Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))
            # The library's ids: those in the file may be others, which it never gives.
            names: list[str] = [token["content"] for token in added]
            ids = {name: self._full.token_to_id(name) for name in names}
            self._control = {name: number for name, number in ids.items() if number is not None}
            self._rstrip = {token["content"] for token in added if token.get("rstrip")}
            lstrip = [token["content"] for token in added if token.get("lstrip")]
        except Exception as error:  # the library raises bare Exception for a bad file
            raise ConfigError(
                f"{folder / 'tokenizer.json'}: not a tokenizer ({type(error).__name__})"
            ) from None
        if "<s>" not in self._control or "" in self._control or lstrip:
            raise ConfigError(
                f"{folder / 'tokenizer.json'}: needs a token <s>, no empty one, and none that "
                "strips to its left"
            )
        for tokenizer in (self._full, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        longest_first = sorted(self._control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    @property
    def bos_id(self) -> int:
        return self._control["<s>"]

    @property
    def size(self) -> int:
        """One more than the largest id, control tokens included."""
        return max(self._full.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def longest(self) -> int:
        """Most characters of a text that one id stands for."""
        return max(map(len, self._plain.get_vocab()))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids of STOP_TOKENS, looked up by string."""
        return frozenset(self._control[token] for token in STOP_TOKENS if token in self._control)

    @property
    def control_first_chars(self) -> frozenset[str]:
        """First characters of all control tokens: text without them cannot spell one."""
        return frozenset(token[0] for token in self._control)

    def encode(self, text: str) -> list[int]:
        """`<s>` and the ids of the text, control tokens read as such (the reference's way)."""
        ids: list[int] = self._full.encode(text).ids
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of a stretch of text between control tokens: all of it is ordinary text."""
        if not text:
            return []
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        forged = set(ids) & set(self._control.values())
        if forged:  # a tokenizer.json whose merges spell a control token
            raise ConfigError(
                f"tokenizer.json turns ordinary text into control ids {sorted(forged)}"
            )
        return ids

    def split_control(self, text: str) -> Iterable[str | int]:
        """Control tokens of a rendered template as ids, the stretches between them as text.

        A token that strips to its right (`<|assistant|>` does) swallows the white space there.
        """
        at = 0
        for match in self._pattern.finditer(text):
            yield text[at : match.start()]
            yield self._control[match.group()]
            at = match.end()
            if match.group() in self._rstrip:
                at += len(text[at:]) - len(text[at:].lstrip())
        yield text[at:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, control tokens left out; ids outside the vocabulary add nothing."""
        return str(self._full.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        """What one id adds to a text, its leading space included."""
        before = self._plain.encode("a", add_special_tokens=False).ids
        return self.decode([*before, token_id])[len(self.decode(before)) :]

    def text_stream(self) -> TextStream:
        return TextStream(self._full)


class TextStream:
    """Ids in one at a time, whole characters out.

    The library's own stream raises once a lone byte follows a line feed, which is a byte token in
    this vocabulary; so a window of ids is decoded anew at each step, from the piece before the last
    one sent (the first token of any decoding loses its leading space). Where the ids are valid
    UTF-8, the pieces join to the text of all ids.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # where decoding starts
        self._sent = 0  # ids whose text is out

    def add(self, token_id: int) -> str:
        """The text this id completes: empty while a character is still in parts."""
        self._ids.append(token_id)
        # No character has so many parts. A look decodes them all, and one at every id would take
        # time by the square: eight from each power of two to the next.
        if (held := len(self._ids) - self._sent) > 16 and held % 2 ** (held.bit_length() - 4):
            return ""
        text = self._unsent()
        if not text or text.endswith(_PARTIAL):
            return ""
        self._window, self._sent = self._sent, len(self._ids)
        return text

    def finish(self) -> str:
        """What is left at the end: a character that never got all its bytes, as U+FFFD."""
        text = self._unsent()
        self._window = self._sent = len(self._ids)
        return text

    def _unsent(self) -> str:
        before = self._decode(self._ids[self._window : self._sent])
        # By length: bytes that never became a character may change what stood before them.
        return self._decode(self._ids[self._window :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
