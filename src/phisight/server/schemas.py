"""The OpenAI chat API, as far as phisight answers it. Anything else is refused."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from phisight.answer import Answer, TokenLogprob
from phisight.errors import ImageError, OptionError, PromptError
from phisight.jsonfile import brief
from phisight.params import SamplingParams
from phisight.processing.chat import Message

MAX_IMAGES, MAX_SAMPLES = 40, 8
_DATA = re.compile(r"data:image/[\w.+-]+;base64", re.ASCII)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Part):
    type: Literal["text"]
    text: str


class ImageUrl(Part):
    url: str
    detail: Literal["auto"] = "auto"  # crops are set for all pictures, when the model is loaded


class ImagePart(Part):
    type: Literal["image_url"]
    image_url: ImageUrl

    def picture(self) -> bytes:
        """What the data URL holds. Raises ImageError for any other."""
        head, comma, data = self.image_url.url.partition(",")
        if not comma or _DATA.fullmatch(head) is None:
            raise ImageError(
                f"image_url {brief(head[:80])}: this server takes pictures as "
                "data:image/...;base64,... only, and opens no addresses"
            )
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise ImageError("image_url: the data after base64, is not base64") from None


class ChatMessage(Part):
    role: Literal["system", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class StreamOptions(Part):
    include_usage: bool = False


class ChatFields(Part):
    """What is not an option of SamplingParams."""

    model: str
    messages: list[ChatMessage]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    user: str | None = None  # accepted, and not used
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    max_completion_tokens: Any = None  # the newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: Any = None

    def options(self) -> dict[str, Any]:
        """SamplingParams by name, those that were given. Raises OptionError."""
        given = {name: getattr(self, name) for name in SAMPLING}
        if self.max_completion_tokens is not None:
            if given["max_tokens"] is not None:
                raise OptionError("max_tokens and max_completion_tokens are one: give one of them")
            given["max_tokens"] = self.max_completion_tokens
        if self.top_logprobs is not None and not self.logprobs:
            raise OptionError("top_logprobs needs logprobs=true")
        if self.logprobs and self.stream:
            raise OptionError("logprobs come with whole answers only: leave stream or logprobs out")
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        if self.stream_options is not None and not self.stream:
            raise OptionError("stream_options needs stream=true")
        return {name: value for name, value in given.items() if value is not None}

    def prompt(self) -> list[Message]:
        """Messages as phisight takes them. Raises PromptError and ImageError."""
        parts = [part for message in self.messages for part in message.content]
        images = sum(isinstance(part, ImagePart) for part in parts)
        if images > MAX_IMAGES:
            raise PromptError(f"{images} images: at most {MAX_IMAGES} in a request")
        return [{"role": m.role, "content": _plain(m.content)} for m in self.messages]


# Their limits and defaults are SamplingParams' own.
SAMPLING = tuple(f.name for f in dataclasses.fields(SamplingParams) if f.name != "logprobs")
_TYPES: dict[str, Any] = dict.fromkeys(SAMPLING, (Any, None))
_TYPES["logit_bias"] = (dict[int, Any] | None, None)  # JSON has only strings for keys
ChatRequest = create_model("ChatRequest", __base__=ChatFields, **_TYPES)


def _plain(content: str | list[TextPart | ImagePart]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image", "image": part.picture()}
        for part in content
    ]


def complaint(error: ValidationError) -> tuple[str, str]:
    """The first fault of a request body as one sentence, and the field it is in."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), ChatRequest.model_fields, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        return f"unknown field {brief(place)}{guess}", place
    return f"{place or 'body'}: {first['msg']}", place


def as_choice(index: int, answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": index, "message": message, "finish_reason": answer.finish_reason}
    if answer.logprobs is not None:
        choice["logprobs"] = {"content": [_likely(entry) for entry in answer.logprobs]}
    return choice


def _likely(entry: TokenLogprob) -> dict[str, Any]:
    likely = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.text.encode())}
    return {**likely, "top_logprobs": [_likely(other) for other in entry.top]}


def as_usage(answers: list[Answer]) -> dict[str, Any]:
    """The prompt counts once: samples share it."""
    prompt, cached = answers[0].usage.prompt_tokens, answers[0].usage.cached_tokens
    written = sum(answer.usage.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
