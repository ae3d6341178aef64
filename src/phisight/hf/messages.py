"""Messages with image parts to messages of strings with tags, which the models' templates take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phisight.errors import PromptError
from phisight.jsonfile import brief
from phisight.processing.image import ImageSource

# Where an image part may name its picture; the first that is there.
_PICTURE_KEYS = ("image", "url", "path", "image_url")


def plain_messages(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[ImageSource | None]]:
    """The messages with strings as contents, and the pictures of their image parts in order.

    Image parts become tags, numbered through the conversation; None stands for the picture of a
    part that names none. Raises PromptError for parts that are neither text nor a picture.
    """
    pictures: list[ImageSource | None] = []
    plain = [{**message, "content": _content(message, pictures)} for message in messages]
    return plain, pictures


def _content(message: Mapping[str, Any], pictures: list[ImageSource | None]) -> str:
    """A message's content as one string; the pictures of its parts are added to `pictures`."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    text = ""
    for part in content if isinstance(content, (list, tuple)) else [content]:
        named: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
        kind = named.get("type")
        if kind == "text" and isinstance(named.get("text"), str):
            text += named["text"]
        elif kind in ("image", "image_url"):
            pictures.append(_picture(named))
            text += f"<|image_{len(pictures)}|>\n"
        else:
            raise PromptError(
                f"part {brief(part)}: expected {{'type': 'text', 'text': ...}} or "
                "{'type': 'image', 'image': ...}"
            )
    return text


def _picture(part: Mapping[str, Any]) -> ImageSource | None:
    """What an image part names, in transformers' or OpenAI's way; None if it leaves that open."""
    # None is no name: a table of parts has every key in every part.
    sources: list[ImageSource] = [part[key] for key in _PICTURE_KEYS if part.get(key) is not None]
    if not sources:
        return None
    source = sources[0]
    return source["url"] if isinstance(source, Mapping) and "url" in source else source
