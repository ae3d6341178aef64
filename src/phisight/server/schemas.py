"""The OpenAI chat API, as far as phisight answers it. Anything else is refused."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model

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

    plain = BaseModel.model_dump


class ImageUrl(Part):
    url: str
    detail: Literal["auto"] = "auto"  # crops are set for all pictures, when the model is loaded


class ImagePart(Part):
    type: Literal["image_url"]
    image_url: ImageUrl

    def plain(self) -> dict[str, Any]:
        """With what the data URL holds. Raises ImageError for any other."""
        head, comma, data = self.image_url.url.partition(",")
        if not comma or _DATA.fullmatch(head) is None:
            raise ImageError(
                f"image_url {brief(head[:80])}: this server takes pictures as "
                "data:image/...;base64,... only, and opens no addresses"
            )
        try:
            return {"type": "image", "image": base64.b64decode(data, validate=True)}
        except (binascii.Error, ValueError):
            raise ImageError("image_url: the data after base64, is not base64") from None


Parts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], FailFast()]


def _as_parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatMessage(Part):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Parts, BeforeValidator(_as_parts)]


class StreamOptions(Part):
    include_usage: bool = False


class ChatFields(Part):
    """What is not an option of SamplingParams."""

    model: str
    messages: Annotated[list[ChatMessage], FailFast()]
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

    def room(self, context: int, longest: int) -> int:
        """Of how many answers. Raises PromptError for what cannot fit, before it takes memory."""
        parts = [part for message in self.messages for part in message.content]
        images = sum(isinstance(part, ImagePart) for part in parts)
        if images > MAX_IMAGES:
            raise PromptError(f"{images} images: at most {MAX_IMAGES} in a request")
        length = sum(len(part.text) for part in parts if isinstance(part, TextPart))
        if length > context * longest:
            have = f"{length} characters, and the model's context is {context} tokens"
            raise PromptError(f"the messages have {have} of at most {longest}: send less text")
        return max(self.n, images)

    def prompt(self) -> list[Message]:
        """Messages as phisight takes them. Raises ImageError."""
        turns = [(message.role, message.content) for message in self.messages]
        return [{"role": role, "content": [part.plain() for part in own]} for role, own in turns]


# Their limits and defaults are SamplingParams' own.
SAMPLING = tuple(f.name for f in dataclasses.fields(SamplingParams) if f.name != "logprobs")
_TYPES: dict[str, Any] = dict.fromkeys(SAMPLING, (Any, None))
_TYPES["logit_bias"] = (dict[int, Any] | None, None)  # JSON has only strings for keys
ChatRequest = create_model("ChatRequest", __base__=ChatFields, **_TYPES)


def complaint(error: pydantic.ValidationError) -> tuple[str, str]:
    """The first fault of a request body as one sentence, and the field it is in."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"])  # a name may be the whole body
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1])[:40], ChatRequest.model_fields)
        guess = f"; did you mean {close[0]}?" if close else ""
        return f"unknown field {brief(place)}{guess}", place
    return f"{place or 'body'}: {first['msg'][:200]}", place


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
