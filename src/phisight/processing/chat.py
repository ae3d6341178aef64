"""Messages to token ids through the checkpoint's own chat template.

Owns one promise: what a user writes is text. Before the template runs, every character that could
begin a control token is swapped for a private stand-in, and image slots are stand-ins too, so that
control tokens and slots in the rendered string can only have come from the template and from us.
Knows nothing of pixels or of the model.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phisight.errors import ConfigError, PromptError
from phisight.jsonfile import brief, read_json, read_text
from phisight.processing.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
Message = Mapping[str, Any]  # {"role": one of ROLES, "content": str or a list of parts}

_PRIVATE_USE = range(0xE000, 0xF900)  # code points that mean nothing to anyone else


class ChatTemplate:
    """The template of tokenizer_config.json or chat_template.jinja, run in Jinja's sandbox."""

    def __init__(self, folder: Path) -> None:
        source, self._tokens = _template_source(folder)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # also RecursionError and the like, from what the file holds
            raise ConfigError(f"{folder}: chat template: {type(error).__name__}") from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt of a conversation, open for the assistant's next turn."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._tokens
            )
        except jinja2.TemplateError as error:
            raise PromptError(f"the model's chat template refused the messages: {error}") from None
        except Exception as error:  # templates run arbitrary expressions; all they raise is theirs
            raise ConfigError(
                f"the model's chat template failed ({type(error).__name__})"
            ) from None


def encode_messages(
    messages: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer
) -> list[list[int]]:
    """Ids of the text before, between and after the image slots: n images give n + 1 lists.

    The joined ids equal those of the same conversation as a raw prompt, wherever its text holds no
    control token of its own. Raises PromptError for messages that do not fit the format.
    """
    turns = [(_role(message), list(_parts(message))) for message in messages]
    if not turns or turns[-1][0] != "user":
        raise PromptError("the last message must have role 'user': it is the one to be answered")
    everything = "".join(part for _, parts in turns for part in parts if part is not None)
    check_text(everything)
    slot, *stand_ins = _unused_characters(everything, 1 + len(tokenizer.control_first_chars))
    mask = dict(zip(sorted(tokenizer.control_first_chars), stand_ins, strict=True))
    hide, show = str.maketrans(mask), str.maketrans({v: k for k, v in mask.items()})
    rendered = template.render(
        [
            # The newline after an image tag is part of the format the model was trained on.
            {
                "role": role,
                "content": "".join(
                    slot + "\n" if part is None else part.translate(hide) for part in parts
                ),
            }
            for role, parts in turns
        ]
    )
    pieces = []
    for stretch in rendered.split(slot):
        ids = [tokenizer.bos_id]  # the reference begins every piece with <s>
        for item in tokenizer.split_control(stretch):
            ids += [item] if isinstance(item, int) else tokenizer.encode_plain(item.translate(show))
        pieces.append(ids)
    num_slots = sum(part is None for _, parts in turns for part in parts)
    if len(pieces) != num_slots + 1:
        raise ConfigError(f"the model's chat template lost or doubled one of {num_slots} images")
    return pieces


def check_text(text: str) -> None:
    """Raise PromptError for text that is no Unicode (a lone surrogate, from bad file names)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt holds U+{ord(text[error.start]):04X}, which is no character; remove it"
        ) from None


def message_images(messages: Sequence[Message]) -> Iterator[Any]:
    """The `image` of every image part in order; None for a part that names none."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, (list, tuple)) else ():
            if isinstance(part, Mapping) and part.get("type") == "image":
                yield part.get("image")


def _role(message: Message) -> str:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise PromptError(f"a message needs exactly 'role' and 'content': {brief(message)}")
    role = message["role"]
    if role not in ROLES:
        raise PromptError(f"role {brief(role)}: expected one of {', '.join(ROLES)}")
    return str(role)


def _parts(message: Message) -> Iterator[str | None]:
    """Text parts as strings, image parts as None."""
    content = message["content"]
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, (list, tuple)):
        raise PromptError(f"content must be a string or a list of parts: {brief(content)}")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and set(part) == {"type", "text"} and isinstance(part["text"], str):
            yield part["text"]
        elif kind == "image" and set(part) <= {"type", "image"}:
            yield None
        else:
            raise PromptError(
                f"part {brief(part)}: expected {{'type': 'text', 'text': ...}} or "
                "{'type': 'image', 'image': ...}"
            )


def _unused_characters(text: str, count: int) -> list[str]:
    used = set(text)
    free = list(itertools.islice((c for c in map(chr, _PRIVATE_USE) if c not in used), count))
    if len(free) < count:
        raise PromptError(
            f"the prompt uses more than {len(_PRIVATE_USE) - count} private characters"
        )
    return free


def _template_source(folder: Path) -> tuple[str, dict[str, str]]:
    """The template, and the special tokens that templates may name (bos_token, eos_token, ...)."""
    config = read_json(folder / "tokenizer_config.json")
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    contents = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in named.items()
    }
    tokens = {key: value for key, value in contents.items() if isinstance(value, str)}
    separate = folder / "chat_template.jinja"
    if separate.exists():
        return read_text(separate), tokens
    source = config.get("chat_template")
    if not isinstance(source, str):
        raise ConfigError(
            f"{folder}: tokenizer_config.json has no chat_template string, and there is no "
            "chat_template.jinja; add one of them"
        )
    return source, tokens


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
