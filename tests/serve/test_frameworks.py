"""The frameworks people use, through the whole stack."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.serve.harness import Harness, eventually, read_until, split_answers

BODY = json.dumps({"name": "x" * 2000}).encode()
POST = b"POST /items?q=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    BODY
)
CHUNKED = (
    b"POST /items?q=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
)
GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"HEAD /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"


def check(app: object, interface: Any, threads: int = 4) -> None:
    """GET, POST, a chunked POST and a streamed answer, on one connection, pipelined."""
    with Harness(app, interface, threads=threads) as server:
        answers = split_answers(server.ask(GET + POST + BODY + CHUNKED + STREAM + GET))
        assert [status for status, _, _ in answers] == [200] * 5
        hello, item, chunked, stream, _ = (body for _, _, body in answers)
        assert hello == b"hello"
        assert json.loads(item) == json.loads(chunked) == {"q": "1", "length": 2000}
        assert stream == b"".join(b"line %d\n" % number for number in range(100))
        head = server.ask(HEAD)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")


def lines() -> Any:
    return (f"line {number}\n" for number in range(100))


def test_starlette() -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def items(request: Request) -> Response:
        item = await request.json()
        return JSONResponse({"q": request.query_params["q"], "length": len(item["name"])})

    async def stream(request: Request) -> Response:
        return StreamingResponse(lines())

    routes = [Route("/hello", hello), Route("/items", items, methods=["POST"]), Route("/stream", stream)]
    check(Starlette(routes=routes), "asgi")


def test_fastapi() -> None:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse, StreamingResponse

    app = FastAPI()

    def hello() -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def items(q: str, item: dict[str, str]) -> dict[str, Any]:
        return {"q": q, "length": len(item["name"])}

    async def stream() -> StreamingResponse:
        return StreamingResponse(lines())

    app.add_api_route("/hello", hello, methods=["GET", "HEAD"])
    app.add_api_route("/items", items, methods=["POST"], response_model=None)
    app.add_api_route("/stream", stream, response_model=None)
    check(app, "asgi")


SIZE = 8 << 20  # of large answers


def starlette_of_large_answers(path: Path) -> object:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def file(request: Request) -> Response:
        return FileResponse(path)

    async def stream(request: Request) -> Response:
        return StreamingResponse(bytes(65536) for _ in range(SIZE // 65536))

    return Starlette(routes=[Route("/file", file), Route("/stream", stream)])


def fastapi_of_large_answers(path: Path) -> object:
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, StreamingResponse

    async def file() -> FileResponse:
        return FileResponse(path)

    async def stream() -> StreamingResponse:
        return StreamingResponse(bytes(65536) for _ in range(SIZE // 65536))

    app = FastAPI()
    app.add_api_route("/file", file, methods=["GET", "HEAD"], response_model=None)
    app.add_api_route("/stream", stream, response_model=None)
    return app


@pytest.fixture(params=[starlette_of_large_answers, fastapi_of_large_answers])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """An app of a framework with large answers at `/file` and `/stream`."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return request.param(path)


def test_a_framework_s_files_go_by_sendfile(large: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    real = os.sendfile

    def sendfile(out: int, file: int, offset: int, count: int) -> int:
        sent.append(real(out, file, offset, count))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", sendfile)
    content = (tmp_path / "file").read_bytes()
    with Harness(large) as server:
        part = b"GET /file HTTP/1.1\r\nHost: x\r\nRange: bytes=5-9\r\n\r\n"
        answers = split_answers(server.ask(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n" + part))
        head = server.ask(b"HEAD /file HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [(status, body) for status, _, body in answers] == [(200, content), (206, content[5:10])]
    assert sum(sent) == SIZE
    assert head.endswith(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % SIZE in head


@pytest.mark.parametrize("path", [b"/file", b"/stream"])
def test_clients_that_go_under_a_framework_s_answer_make_no_noise(
    capfd: pytest.CaptureFixture[str], large: object, path: bytes
) -> None:
    with Harness(large) as server:
        with server.connect() as sock:
            sock.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            read_until(sock, b"\r\n\r\n")
        eventually(lambda: server.service.inflight == 0)
        eventually(lambda: not server.service.bridge.is_running())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("threads", [4, 1])
def test_flask(threads: int) -> None:
    from flask import Flask, Response, jsonify, request

    app = Flask("web")
    app.add_url_rule("/hello", "hello", lambda: "hello")
    app.add_url_rule("/stream", "stream", lambda: Response(lines()))

    def items() -> Response:
        item = request.get_json()
        return jsonify(q=request.args["q"], length=len(item["name"]))

    app.add_url_rule("/items", "items", items, methods=["POST"])
    check(app, "wsgi", threads)


@pytest.fixture(scope="module")
def django_urls() -> str:
    """A Django project in a module made up here; Django has its settings once in a process."""
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def hello(request: HttpRequest) -> HttpResponse:
        return HttpResponse("hello")

    def items(request: HttpRequest) -> HttpResponse:
        item = json.loads(request.body)
        return JsonResponse({"q": request.GET["q"], "length": len(item["name"])})

    def stream(request: HttpRequest) -> HttpResponse:
        return StreamingHttpResponse(lines())

    module = types.ModuleType("holdfast_test_urls")
    module.__dict__["urlpatterns"] = [path("hello", hello), path("items", items), path("stream", stream)]
    sys.modules[module.__name__] = module
    settings.configure(ROOT_URLCONF=module.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", MIDDLEWARE=[])
    django.setup()
    return module.__name__


@pytest.mark.parametrize("threads", [4, 1])
@pytest.mark.usefixtures("django_urls")
def test_django_as_wsgi(threads: int) -> None:
    from django.core.wsgi import get_wsgi_application

    check(get_wsgi_application(), "wsgi", threads)


@pytest.mark.usefixtures("django_urls")
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
def test_django_as_asgi() -> None:
    from django.core.asgi import get_asgi_application

    check(get_asgi_application(), "asgi")
