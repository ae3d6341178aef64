"""The routes: chat completions, the list of models, health.

Every answer is read off its Stream by a thread of its own; closing the stream, from any thread,
ends the request in the engine. Nothing that was asked or answered is logged.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from phisight.answer import Answer, Stream
from phisight.api import Model
from phisight.errors import InputError, PhisightError
from phisight.jsonfile import brief
from phisight.server.schemas import ChatFields, ChatRequest, as_choice, as_usage, complaint

MAX_BODY, MAX_BODIES = 50 * 2**20, 400 * 2**20  # bytes of one, and of all that are coming in
MAX_ITEMS = 2**17  # commas in a body: each may begin a fault, of 1 KB and 6 us
BODY_SECONDS = 60.0
MAX_RUNNING = 64  # answers being written or waited for, each picture counted as one
MAX_OPENING = 4  # prompts being made: a picture takes up to 1.4 GB while it is opened
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_LOCAL = tuple(f"{name}:" for name in LOOPBACK)  # how the host and port of a local page begin


def make_app(model: Model, *, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """An app over one model. Requests must name one of `hosts` ("*": any), for a page elsewhere
    can point its own name to this machine."""
    app = FastAPI(title="phisight", openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    answers = Answers(model)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(*_fault(error))

    for kind in (Exception, ClientDisconnect, HTTPException, ValidationError, PhisightError):
        app.add_exception_handler(kind, refused)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": model.name}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": model.name, "object": "model", "created": 0, "owned_by": "phisight"}
        return {"object": "list", "data": [card]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        _check_origin(request)
        asked = ChatRequest.model_validate_json(await answers.body(request))
        if asked.model != model.name:
            raise HTTPException(404, f"{brief(asked.model)} is not served here; {model.name} is")
        return await answers.reply(request, asked)

    return app


class Answers:
    """The answers being written, at most MAX_RUNNING, and the threads that wait for them."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._running = self._coming = 0  # answers, bytes
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="phisight-answer")
        self._opening = ThreadPoolExecutor(MAX_OPENING, thread_name_prefix="phisight-opening")

    async def body(self, request: Request) -> bytearray:
        """All of a request's body, within a deadline and the limits above."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    self._coming += len(chunk)
                    if len(body) > MAX_BODY:
                        message = f"more than {MAX_BODY} bytes: send smaller pictures"
                        raise HTTPException(413, message)
                    if self._coming > MAX_BODIES:
                        raise HTTPException(429, f"{MAX_BODIES} bytes are coming in: try later")
        except TimeoutError:
            raise HTTPException(408, f"the body took over {BODY_SECONDS:g} s") from None
        finally:
            self._coming -= len(body)
        if body.count(b",") > MAX_ITEMS:
            raise HTTPException(413, f"more than {MAX_ITEMS} commas: send shorter lists and text")
        return body

    async def reply(self, request: Request, asked: ChatFields) -> Response:
        room = asked.room(self._model.config.max_positions, self._model.processor.tokenizer.longest)
        if self._running + room > MAX_RUNNING:
            message = f"{self._running} answers are under way, at most {MAX_RUNNING}"
            raise HTTPException(429, f"{message}; each picture counts as one")
        self._running += room
        streams: list[Stream] = []

        def end() -> None:
            self._running -= room
            for stream in streams:
                stream.close()

        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        head["model"] = self._model.name
        try:
            started = self._opening.submit(_start, self._model, asked)
            streams += await self._in_thread(started.result)
            if asked.stream:
                return EventStream(self._events(streams, asked, head), end)
            finishing = asyncio.gather(*(self._in_thread(stream.finish) for stream in streams))
            answers = await _unless_gone(request, finishing)
        except BaseException:
            end()
            raise
        end()
        choices = [as_choice(index, answer) for index, answer in enumerate(answers)]
        whole = {**head, "object": "chat.completion", "choices": choices}
        return JSONResponse({**whole, "usage": as_usage(answers)})

    async def _events(
        self, streams: list[Stream], asked: ChatFields, head: dict[str, Any]
    ) -> AsyncIterator[str]:
        """Server-sent events: the samples one after the other, though all are being written."""

        def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
            body = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps(body)}\n\n"

        def delta(index: int, content: dict[str, str], reason: str | None = None) -> str:
            return chunk([{"index": index, "delta": content, "finish_reason": reason}])

        try:
            for index, stream in enumerate(streams):
                yield delta(index, {"role": "assistant", "content": ""})
                while (piece := await self._in_thread(next, stream, None)) is not None:
                    yield delta(index, {"content": piece})
                yield delta(index, {}, stream.finish().finish_reason)
            if asked.stream_options is not None and asked.stream_options.include_usage:
                yield chunk([], usage=as_usage([stream.finish() for stream in streams]))
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status has been sent: said in the stream
            yield f"data: {json.dumps(_fault(error)[0])}\n\n"

    def _in_thread(self, work: Callable[..., Any], *given: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *given)


class EventStream(StreamingResponse):
    """Ends the request once sent, also where the client left before the first event."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


def _check_origin(request: Request) -> None:
    """A page elsewhere cannot read an answer, but its browser lets it ask, and names it."""
    origin, host = request.headers.get("origin", ""), request.headers.get("host")
    page = origin.partition("://")[2]
    if origin and page != host and not f"{page}:".startswith(_LOCAL):
        raise HTTPException(403, f"origin {brief(origin)}: only pages of this host may ask")


def _start(model: Model, asked: ChatFields) -> list[Stream]:
    """A stream for each of n samples, over one prompt."""
    options = asked.options()
    prompt = model.processor.prompt(asked.prompt())
    asked.messages.clear()  # pictures as text are not kept for as long as the answer takes
    first = options.pop("seed", None)
    seeds = [None if first is None else first + number for number in range(asked.n)]
    return [model.stream(prompt, **options, seed=seed) for seed in seeds]


async def _unless_gone(request: Request, work: asyncio.Future[list[Answer]]) -> list[Answer]:
    """The work's result; given up once the client has left."""
    work.add_done_callback(lambda work: work.exception())  # seen, or asyncio prints it
    while not (await asyncio.wait([work], timeout=0.1))[0]:
        if await request.is_disconnected():
            raise HTTPException(499, "the client left")
    return work.result()


def _fault(error: Exception) -> tuple[dict[str, Any], int]:
    """What went wrong, in OpenAI's form, and a status."""
    status, message, param = 500, f"the answer failed ({type(error).__name__})", None
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif isinstance(error, ValidationError):
        status, (message, param) = 400, complaint(error)
    elif isinstance(error, InputError):
        status, message = 400, str(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}, status
