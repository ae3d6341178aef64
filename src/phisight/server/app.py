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
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from phisight.answer import Answer, Stream, TokenLogprob
from phisight.api import Model
from phisight.errors import InputError
from phisight.jsonfile import brief
from phisight.server.schemas import ChatFields, ChatRequest, complaint

MAX_BODY = 50 * 2**20  # bytes
MAX_RUNNING = 64  # answers being written or waited for
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class RefusedError(Exception):
    """An HTTP status and what went wrong, in OpenAI's form."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def make_app(model: Model, *, hosts: tuple[str, ...] | None = LOOPBACK) -> FastAPI:
    """An app over one model; requests must name one of `hosts` (None: any)."""
    running: set[Stream] = set()
    readers = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="phisight-answer")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for stream in tuple(running):
            stream.close()
        readers.shutdown()

    app = FastAPI(title="phisight", lifespan=lifespan, docs_url=None, redoc_url=None)
    if hosts is not None:
        app.add_middleware(HostCheck, hosts=hosts)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        return await refused(request, RefusedError(error.status_code, str(error.detail)))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": model.name}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": model.name, "object": "model", "created": 0, "owned_by": "phisight"}
        return {"object": "list", "data": [card]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await _read(request)
        if asked.model != model.name:
            raise RefusedError(
                404,
                f"model {brief(asked.model)} is not served here; {model.name} is",
                param="model",
                code="model_not_found",
            )
        if len(running) + asked.n > MAX_RUNNING:
            raise RefusedError(429, f"{len(running)} answers are under way, at most {MAX_RUNNING}")
        work = asyncio.get_running_loop().run_in_executor
        streams = await work(readers, _start, model, asked)
        running.update(streams)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        head["model"] = model.name

        def done() -> None:
            for stream in streams:
                stream.close()
            running.difference_update(streams)

        if asked.stream:
            sent = _sent(streams, readers, asked, head, done)
            return StreamingResponse(sent, media_type="text/event-stream")
        try:
            finishing = asyncio.gather(*(work(readers, stream.finish) for stream in streams))
            answers = await _unless_gone(request, finishing)
        except Exception as error:
            raise _refused(error) from None
        finally:
            done()
        choices = [_choice(index, answer) for index, answer in enumerate(answers)]
        body = {**head, "object": "chat.completion", "choices": choices, "usage": _usage(answers)}
        return JSONResponse(body)

    return app


async def _read(request: Request) -> ChatFields:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RefusedError(
                413, f"the body has more than {MAX_BODY} bytes: send smaller pictures"
            )
    try:
        return ChatRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        message, param = complaint(error)
        raise RefusedError(400, message, param=param) from None


def _start(model: Model, asked: ChatFields) -> list[Stream]:
    """A stream for each of n samples, over one prompt."""
    try:
        options = asked.options()
        prompt = model.processor.prompt(asked.prompt())
        seed = options.pop("seed", None)
        return [
            model.stream(prompt, **options, seed=None if seed is None else seed + number)
            for number in range(asked.n)
        ]
    except InputError as error:
        raise RefusedError(400, str(error)) from None


async def _unless_gone(request: Request, work: asyncio.Future[list[Answer]]) -> list[Answer]:
    """The work's result; given up once the client has left."""
    while not (await asyncio.wait([work], timeout=0.1))[0]:
        if await request.is_disconnected():
            raise RefusedError(499, "the client left")
    return work.result()


async def _sent(
    streams: list[Stream],
    readers: ThreadPoolExecutor,
    asked: ChatFields,
    head: dict[str, Any],
    done: Callable[[], None],
) -> AsyncIterator[str]:
    """Server-sent events: the samples one after the other, though all are being written."""
    work = asyncio.get_running_loop().run_in_executor

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        body = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(body)}\n\n"

    def delta(index: int, content: dict[str, str], reason: str | None = None) -> str:
        return chunk([{"index": index, "delta": content, "finish_reason": reason}])

    answers = []
    try:
        for index, stream in enumerate(streams):
            yield delta(index, {"role": "assistant", "content": ""})
            while (piece := await work(readers, next, stream, None)) is not None:
                yield delta(index, {"content": piece})
            answers.append(stream.finish())
            yield delta(index, {}, answers[-1].finish_reason)
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield chunk([], usage=_usage(answers))
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent: said in the stream
        yield f"data: {json.dumps(_refused(error).body)}\n\n"
    finally:
        done()


def _refused(error: Exception) -> RefusedError:
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, InputError):
        return RefusedError(400, str(error))
    return RefusedError(500, f"the answer failed ({type(error).__name__})")


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": index, "message": message, "finish_reason": answer.finish_reason}
    if answer.logprobs is not None:
        choice["logprobs"] = {"content": [_likely(entry) for entry in answer.logprobs]}
    return choice


def _likely(entry: TokenLogprob) -> dict[str, Any]:
    likely = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.text.encode())}
    return {**likely, "top_logprobs": [_likely(other) for other in entry.top]}


def _usage(answers: list[Answer]) -> dict[str, Any]:
    """The prompt counts once: samples share it."""
    prompt, cached = answers[0].usage.prompt_tokens, answers[0].usage.cached_tokens
    written = sum(answer.usage.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class HostCheck:
    """Refuses requests for other hosts: a page elsewhere can point its own name to this machine."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = given if given.endswith("]") else given.rsplit(":", 1)[0]
            if name not in self._hosts:
                refusal = RefusedError(
                    403, f"host {brief(given)}: this server answers to localhost only"
                )
                await JSONResponse(refusal.body, refusal.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)
