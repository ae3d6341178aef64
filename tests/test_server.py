"""The OpenAI chat API, asked by the official client over the loopback."""

import asyncio
import base64
import gc
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from waiting import until

import phisight
from phisight import errors
from phisight.api import Model
from phisight.server import app as app_module
from phisight.server.app import make_app
from phisight.server.schemas import ChatRequest

EXAMPLES = Path(__file__).parents[1] / "examples"
QUESTION = "Help me get the title and author information of this book?"
EXPECTED = 'The title of the book is "ALONE" and the author is Morgan Maxwell.'


@contextmanager
def served(model: Model) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(model), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield port
    server.should_exit = True
    thread.join(20)


@contextmanager
def asking(port: int) -> Iterator[openai.OpenAI]:
    base = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def port(nano: Model) -> Iterator[int]:
    with served(nano) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[openai.OpenAI]:
    with asking(port) as client:
        yield client


@pytest.fixture
def wide() -> Model:
    """In float32 a drawn token is the same in any batch; in bfloat16 the batch's size rounds it."""
    return phisight.load("nano", dtype="float32")


@pytest.fixture
def wide_client(wide: Model) -> Iterator[openai.OpenAI]:
    with served(wide) as port, asking(port) as client:
        yield client


def data_url(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode((EXAMPLES / name).read_bytes()).decode()


def about(name: str, text: str = QUESTION) -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(name)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_picture_is_answered_whole_and_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="nano", messages=about("book.png"))
    (choice,) = whole.choices
    assert (choice.message.content, choice.finish_reason) == (EXPECTED, "stop")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 757
    pieces, usage, reason = [], None, None
    stream = client.chat.completions.create(
        model="nano",
        messages=about("book.png"),
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for part in chunk.choices:
            pieces.append(part.delta.content or "")
            reason = part.finish_reason or reason
    assert ("".join(pieces), reason) == (EXPECTED, "stop")
    assert len(pieces) > 20
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    assert usage.prompt_tokens_details.cached_tokens > 757 - 32, "asked before"


def test_turns_and_options_are_those_of_the_python_door(client: openai.OpenAI, nano: Model) -> None:
    messages = [*say("Hi"), {"role": "assistant", "content": "Hello."}, *say("What?")]
    options: dict[str, Any] = {"max_tokens": 9, "temperature": 1.5, "seed": 3, "top_p": 0.9}
    extra = {"top_k": 40, "repetition_penalty": 1.1, "ignore_eos": True}
    got = client.chat.completions.create(
        model="nano", messages=messages, **options, extra_body=extra
    )
    expected = nano.ask(messages, **options, **extra)
    assert got.choices[0].message.content == expected.text
    assert got.choices[0].finish_reason == "length"


def test_samples_share_a_prompt_and_count_their_seeds(
    wide_client: openai.OpenAI, wide: Model
) -> None:
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 2.0}
    whole = wide_client.chat.completions.create(
        model="nano", messages=say("Hi"), n=3, seed=5, logprobs=True, top_logprobs=2, **options
    )
    for index, choice in enumerate(whole.choices):
        alone = wide.ask(say("Hi"), seed=5 + index, **options)
        assert (choice.index, choice.message.content) == (index, alone.text)
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content) == alone.usage.completion_tokens
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 9
    parts: dict[int, str] = {}
    for chunk in wide_client.chat.completions.create(
        model="nano", messages=say("Hi"), n=3, seed=5, stream=True, **options
    ):
        for part in chunk.choices:
            parts[part.index] = parts.get(part.index, "") + (part.delta.content or "")
    assert [parts[index] for index in range(3)] == [c.message.content for c in whole.choices]


def test_the_documents_example(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    (code,) = re.findall(r"```python\n(.*?)```", Path("docs/server.md").read_text(), re.DOTALL)
    exec(code.replace(":8000/", f":{port}/"), names := {})
    names["client"].close()
    assert "Morgan Maxwell" in capsys.readouterr().out


def test_many_at_once(client: openai.OpenAI, nano: Model) -> None:
    def ask(number: int) -> str | None:
        messages = say(f"Question {number}?")
        done = client.chat.completions.create(model="nano", messages=messages, max_tokens=8)
        return done.choices[0].message.content

    with ThreadPoolExecutor(16) as threads:
        got = list(threads.map(ask, range(32)))
    assert got[7] == nano.ask(say("Question 7?"), max_tokens=8).text
    assert len(got) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temprature": 1}, "unknown field 'temprature'; did you mean temperature?"),
        ({"tools": []}, "unknown field 'tools'"),
        ({"temperature": 101}, "temperature=101: must be between 0.0 and 100.0"),
        ({"max_tokens": 0}, "max_tokens=0: must be at least 1"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "are one: give one of them"),
        ({"n": 9}, "n: Input should be less than or equal to 8"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs=true"),
        ({"response_format": {"type": "json_object"}}, "response_format.type: Input should be"),
        ({"logit_bias": {"999": 1}}, "logit_bias: only ids below 264"),
        ({"messages": []}, "the last message must have role 'user'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "the model's context is 4096"),
        (
            {"messages": [{"role": "user", "content": "x" * 30000}]},
            "have 30000 characters, and the",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream=true"),
    ],
)
def test_a_mistake_is_a_400_that_says_so(
    client: openai.OpenAI, change: dict[str, Any], message: str
) -> None:
    body = {"messages": say("Hi"), **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="nano", messages=body.pop("messages"), extra_body=body)
    error = json.loads(caught.value.response.text)["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1/x.png", "opens no addresses"),
        ("file:///etc/passwd", "opens no addresses"),
        ("data:text/html;base64,QQ==", "opens no addresses"),
        ("data:image/png;base64,@@", "is not base64"),
        ("data:image/png;base64,QUJD", "3 bytes of data: not a picture phisight reads"),
        ("data:image/png;base64,", "0 bytes of data"),
    ],
)
def test_a_picture_that_cannot_be_had_is_a_400(
    client: openai.OpenAI, url: str, message: str
) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=message):
            client.chat.completions.create(
                model="nano",
                messages=[{"role": "user", "content": [image]}],  # type: ignore[misc,list-item]
                stream=stream,
            )


def test_another_model_is_not_here(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served here; nano is"):
        client.chat.completions.create(model="gpt-4o", messages=say("Hi"))
    assert [model.id for model in client.models.list()] == ["nano"]


def call(port: int, method: str, path: str, body: bytes = b"", host: str = "localhost") -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, body or None, {"Host": host})
        with connection.getresponse() as response:
            answer = response.read().decode()
            is_json = response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(answer) if is_json else answer


def post(port: int, body: bytes, **headers: str) -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/chat/completions", body, headers)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


BRIEF = b'{"model": "nano", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def test_a_page_elsewhere_cannot_ask(port: int) -> None:
    """A browser sends a simple request to any address without asking, and names the page."""
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "http://["):
        status, body = post(port, BRIEF + b"}", Origin=origin)
        assert status == 403
        assert f"origin {origin!r}" in body["error"]["message"]
    for origin in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:80"):
        assert post(port, BRIEF + b"}", Origin=origin)[0] == 200


@pytest.mark.parametrize(
    "more",
    [
        b', "%s": 1' % (b"a" * 10**6),
        b', "messages": [{"role": "user", "content": [{"type": "%s"}]}]' % (b"a" * 10**6),
        b', "logit_bias": {"%s": 1}' % (b"a" * 10**6),
        b', "max_tokens": "%s"' % (b"a" * 10**6),
    ],
)
def test_a_refusal_does_not_repeat_what_was_sent(port: int, more: bytes) -> None:
    status, body = post(port, BRIEF + more + b"}")
    assert status == 400
    assert len(json.dumps(body)) < 500


def test_a_list_of_faults_ends_with_its_first(port: int) -> None:
    for wrong in (b"1, 1, 1", b'{"role": "user", "content": [1, 1, 1]}'):
        with pytest.raises(ValidationError) as caught:
            ChatRequest.model_validate_json(BRIEF + b', "messages": [' + wrong + b"]}")
        assert caught.value.error_count() == 1
    many = b"[" + b"1," * app_module.MAX_ITEMS + b"1]"
    status, body = post(port, BRIEF + b', "stop": ' + many + b"}")
    assert (status, body["error"]["message"]) == (
        413,
        "more than 131072 commas: send shorter lists and text",
    )


def test_other_hosts_and_routes_are_refused(port: int) -> None:
    assert call(port, "GET", "/health") == (200, {"status": "ok", "model": "nano"})
    assert call(port, "GET", "/health", host=f"[::1]:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "", "localhost.evil.example"):
        assert call(port, "GET", "/health", host=host) == (400, "Invalid host header")
    assert call(port, "GET", "/docs")[0] == call(port, "GET", "/openapi")[0] == 404
    status, body = call(port, "POST", "/v1/chat/completions", b"{")
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


def test_a_body_has_a_limit(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_BODY", 1000)
    status, body = call(port, "POST", "/v1/chat/completions", b"[" + b" " * 2000 + b"]")
    assert (status, body["error"]["message"]) == (
        413,
        "more than 1000 bytes: send smaller pictures",
    )


def test_bodies_under_way_have_a_limit_together(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_BODIES", 200)
    with socket.create_connection(("127.0.0.1", port), 20) as slow:
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        )
        slow.sendall(head % 180 + b" " * 150)
        until(lambda: post(port, BRIEF + b"}")[0] == 429)
    until(lambda: post(port, BRIEF + b"}")[0] == 200)


def test_a_body_that_does_not_come_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", port), 20) as slow:
        slow.sendall(HEAD % 9 + b"{")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_picture_takes_the_room_of_an_answer(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_RUNNING", 2)
    image = about("sign.png")[0]["content"][0]

    def ask(count: int) -> None:
        messages: list[Any] = [{"role": "user", "content": [image] * count}]
        client.chat.completions.create(model="nano", messages=messages, max_tokens=1)

    ask(2)
    with pytest.raises(openai.RateLimitError, match="at most 2; each picture counts as one"):
        ask(3)
    with pytest.raises(openai.BadRequestError, match="41 images: at most 40 in a request"):
        ask(41)


def test_few_requests_open_their_pictures_at_once(
    client: openai.OpenAI, nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 89 megapixels takes 0.7 GB while it is opened, and 10 KB to send."""
    openers: set[str] = set()

    def named(*given: Any) -> Any:
        openers.add(threading.current_thread().name)
        return prompt(*given)

    def ask(number: int) -> None:
        client.chat.completions.create(model="nano", messages=say(f"{number}?"), max_tokens=1)

    prompt = nano.processor.prompt
    monkeypatch.setattr(nano.processor, "prompt", named)
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(ask, range(12)))
    assert openers <= {f"phisight-opening_{n}" for n in range(app_module.MAX_OPENING)}


def test_more_than_it_can_run_is_refused(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_RUNNING", 2)
    with pytest.raises(openai.RateLimitError, match="0 answers are under way, at most 2"):
        client.chat.completions.create(model="nano", messages=say("Hi"), n=3)


def test_a_crowd_cannot_pass_the_limit_together(
    client: openai.OpenAI, nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "MAX_RUNNING", 3)
    began: list[int] = []

    def start(*given: Any, **options: Any) -> Any:
        began.append(1)
        assert release.wait(20)
        return stream(*given, **options)

    def ask(number: int) -> str:
        try:
            client.chat.completions.create(model="nano", messages=say("Hi"), max_tokens=2)
        except openai.RateLimitError:
            release.set()
            return "refused"
        return "answered"

    release, stream = threading.Event(), nano.stream
    monkeypatch.setattr(nano, "stream", start)
    with ThreadPoolExecutor(12) as threads:
        got = list(threads.map(ask, range(12)))
    assert got.count("answered") == len(began)
    assert "refused" in got
    assert ask(0) == "answered", "all room was given back"


def test_a_stream_nobody_waits_for_gives_its_room_back() -> None:
    ended = []

    async def events() -> AsyncIterator[str]:
        raise AssertionError("begun")
        yield ""

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def refuse(message: object) -> None:
        raise OSError("the client left")

    reply = app_module.EventStream(events(), lambda: ended.append(1))
    with pytest.raises(ClientDisconnect):
        asyncio.run(reply({"type": "http", "asgi": {"spec_version": "2.4"}}, gone, refuse))
    assert ended == [1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_who_leaves_ends_the_request(port: int, nano: Model, stream: bool) -> None:
    engine = nano._loop._engine
    until(lambda: engine.is_idle)
    body = {"model": "nano", "messages": say("Hi"), "max_tokens": 3000, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    payload = json.dumps({**body, "stream": stream})
    connection.request("POST", "/v1/chat/completions", payload)
    if stream:
        assert connection.getresponse().read(10) == b'data: {"id'
    until(lambda: not engine.is_idle)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    until(lambda: engine.is_idle, seconds=5.0)  # all 3,000 would take 30 s
    assert call(port, "GET", "/health")[0] == 200


def test_a_failure_in_midstream_is_said_in_the_stream(
    client: openai.OpenAI, nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(100))

    def failing(*given: object) -> object:
        if next(count) == 3:
            raise errors.BudgetError("no memory on cpu for 12 tokens")
        return next_token(*given)

    next_token = nano._loop.next_token
    monkeypatch.setattr(nano._loop, "next_token", failing)
    stream = client.chat.completions.create(
        model="nano", messages=say("Hi"), stream=True, max_tokens=9, extra_body={"ignore_eos": True}
    )
    with pytest.raises(openai.APIError, match="no memory on cpu for 12 tokens"):
        list(stream)
    count = iter([3])
    with pytest.raises(openai.BadRequestError, match="no memory on cpu"):
        client.chat.completions.create(model="nano", messages=say("Hi"))


def test_a_fault_of_our_own_is_said_in_the_same_form(
    port: int, nano: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nano._loop, "next_token", lambda ticket: [][ticket])
    status, body = post(port, BRIEF + b"}")
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert body["error"]["message"] == "the answer failed (IndexError)"
    until(lambda: len(caplog.records) > 0)  # and where, on stderr


def test_a_client_who_leaves_is_no_news(
    port: int, nano: Model, caplog: pytest.LogCaptureFixture
) -> None:
    engine = nano._loop._engine
    until(lambda: engine.is_idle)
    long = BRIEF.replace(b"2", b"3000") + b', "ignore_eos": true}'
    for sent in (long, long[:20]):
        with socket.create_connection(("127.0.0.1", port), 20) as leaving:
            leaving.sendall(HEAD % len(long) + sent)
            if sent == long:
                until(lambda: not engine.is_idle)
    until(lambda: engine.is_idle)
    assert call(port, "GET", "/health")[0] == 200
    gc.collect()
    assert not caplog.records


def test_serve_without_its_extra_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['phisight', 'serve']\n"
        "from phisight.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "uvicorn is missing: pip install 'phisight[serve]'" in done.stderr


def test_serve_answers_until_it_is_stopped() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "phisight", "serve", "--port", str(port), "--max-batch", "4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(f"nano at http://127.0.0.1:{port}/v1" in line for line in lines)
        until(lambda: _listens(port))
        assert call(port, "GET", "/health")[0] == 200
        process.terminate()
        assert "Traceback" not in process.stderr.read()
        assert process.wait(20) in (0, -15)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
