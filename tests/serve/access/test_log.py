"""The access log: its lines, its batches, and what becomes of them when nobody reads."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zttp

from supervisor.config.settings import LogFormat
from supervisor.kernel.board import Cell, private_row
from supervisor.serve.access.line import Writer
from supervisor.serve.access.log import AccessLog
from supervisor.serve.access.trace import Trace
from supervisor.serve.http1.familiar import head_of
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, echo, eventually, http, wsgi_echo


class Exchange:
    """A finished exchange, as much of it as a log line takes."""

    status = 200
    sent = 5
    keep = True
    holds_body = False

    def __init__(self, raw: bytes, since: float) -> None:
        request = zttp.Connection(zttp.SERVER).receive_event(raw)
        assert isinstance(request, zttp.Request)
        self.head = head_of(raw, request, request.path, request.query, None)
        self.since = since
        self.trace = Trace(request, True, SimpleNamespace(draining=threading.Event(), named=lambda name: None))

    def answered(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Pid: 7\r\n"

    def start(self) -> None: ...

    def feed(self, data: bytes, done: bool) -> None: ...

    def writable(self) -> None: ...

    def half_closed(self) -> None: ...

    def lost(self) -> None: ...


WRITER = Writer("web:2", 3, os.getpid())
RAW = b'GET /a|b?c HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: "\xff\\\r\n\r\n'


def run(body: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
    async def main() -> Any:
        result = body(asyncio.get_running_loop())
        return await result if asyncio.iscoroutine(result) else result

    return asyncio.run(main())


def log(fd: int, loop: asyncio.AbstractEventLoop, form: LogFormat = "text") -> AccessLog:
    return AccessLog(fd, form, WRITER, loop=loop, row=private_row())


def open_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)


def test_the_text_is_apache_s_combined(tmp_path: Path) -> None:
    def body(loop: asyncio.AbstractEventLoop) -> None:
        access = log(open_file(tmp_path / "log"), loop)
        access.record(("1.2.3.4", 5), Exchange(RAW, time.monotonic() - 1.5))
        access.record(None, Exchange(b"GET / HTTP/1.0\r\n\r\n", time.monotonic()))
        access.close()

    run(body)
    one, two = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(
        r'1\.2\.3\.4 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\|b\?c HTTP/1\.1" 200 5 '
        r'"http://r/" "\\x22\\xff\\x5c"',
        one,
    )
    assert re.fullmatch(r'- - - \[[^]]+\] "GET / HTTP/1\.0" 200 5 "-" "-"', two)


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    def body(loop: asyncio.AbstractEventLoop) -> None:
        access = log(open_file(tmp_path / "log"), loop, "json")
        access.record(("1.2.3.4", 5), Exchange(RAW, time.monotonic() - 1.5))
        access.close()

    run(body)
    (line,) = (tmp_path / "log").read_text().splitlines()
    record = json.loads(line)
    assert record.pop("ts") > 0
    assert 1.5 <= record.pop("duration") < 2
    assert re.fullmatch("[0-9a-f]{32}", record.pop("request_id"))
    assert record == {
        "client": "1.2.3.4",
        "method": "GET",
        "path": "/a|b?c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "referer": "http://r/",
        "user_agent": '"ÿ\\',
        "worker": "web:2",
        "generation": 3,
    }


def test_lines_are_written_soon_and_together(tmp_path: Path) -> None:
    async def body(loop: asyncio.AbstractEventLoop) -> None:
        access = log(open_file(tmp_path / "log"), loop)
        for _ in range(10):
            access.record(None, Exchange(RAW, time.monotonic()))
        assert (tmp_path / "log").read_bytes() == b""
        deadline = time.monotonic() + 5
        while not (tmp_path / "log").read_bytes():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert (tmp_path / "log").read_bytes().count(b"\n") == 10
        access.close()

    run(lambda loop: body(loop))


def test_a_reopened_log_goes_on_in_the_new_file(tmp_path: Path) -> None:
    def body(loop: asyncio.AbstractEventLoop) -> None:
        access = log(open_file(tmp_path / "one"), loop)
        access.record(None, Exchange(RAW, time.monotonic()))
        access.reopen(open_file(tmp_path / "two"))
        access.record(None, Exchange(RAW, time.monotonic()))
        access.record(None, Exchange(RAW, time.monotonic()))
        access.close()

    run(body)
    assert len((tmp_path / "one").read_text().splitlines()) == 1
    assert len((tmp_path / "two").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_drops_and_counts_and_never_waits(kind: str) -> None:
    reader, writer = os.pipe() if kind == "pipe" else (part.detach() for part in socket.socketpair())
    row = private_row()
    count = 20_000
    got = bytearray()

    def body(loop: asyncio.AbstractEventLoop) -> None:
        access = AccessLog(writer, "text", WRITER, loop=loop, row=row)
        for _ in range(count):
            access.record(None, Exchange(b"GET / HTTP/1.0\r\n\r\n", time.monotonic()))
        access.flush()
        os.set_blocking(reader, False)
        for _ in range(3):  # a reader that comes back gets whole lines
            read_what_is_there(reader, got)
            access.flush()
        access.close()

    run(body)
    read_what_is_there(reader, got)
    os.close(reader)
    lines = bytes(got).splitlines(keepends=True)
    assert len(lines) + row[Cell.RECORDS_DROPPED] == count
    assert row[Cell.RECORDS_DROPPED] > 0
    assert all(re.fullmatch(rb'- - - \[[^]]+\] "GET / HTTP/1\.0" 200 5 "-" "-"\n', line) for line in lines)


def read_what_is_there(fd: int, got: bytearray) -> None:
    try:
        while piece := os.read(fd, 65536):
            got += piece
    except BlockingIOError:
        return


def test_the_flags_of_a_shared_pipe_stay_as_they_are() -> None:
    reader, writer = os.pipe()
    other = os.dup(writer)

    def body(loop: asyncio.AbstractEventLoop) -> None:
        log(writer, loop).close()

    run(body)
    assert not fcntl.fcntl(other, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(other)
    os.close(reader)


def test_a_reader_that_has_gone_costs_lines_only() -> None:
    reader, writer = os.pipe()
    row = private_row()

    def body(loop: asyncio.AbstractEventLoop) -> None:
        access = AccessLog(writer, "text", WRITER, loop=loop, row=row)
        os.close(reader)
        access.record(None, Exchange(RAW, time.monotonic()))
        access.flush()
        access.close()

    run(body)
    assert row[Cell.RECORDS_DROPPED] == 1


@pytest.mark.parametrize(("app", "interface"), [(echo, "asgi"), (wsgi_echo, "wsgi")])
def test_every_answer_has_its_line(tmp_path: Path, app: object, interface: Any) -> None:
    with Harness(app, interface, limits=Limits()) as server:

        def attach() -> None:
            server.service.access = log(open_file(tmp_path / "log"), server.loop)

        server.call(attach)
        server.ask(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\nGET /two HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: (tmp_path / "log").read_text().count("\n") == 2)
        assert [line.split()[6] for line in (tmp_path / "log").read_text().splitlines()] == ["/one", "/two"]
        access = server.service.access
        assert access is not None
        server.call(access.close)
        server.service.access = None


async def blocking(scope: Any, receive: Any, send: Any) -> None:
    time.sleep(0.1)  # noqa: ASYNC251 - the fault under test
    await echo(scope, receive, send)


def wsgi_blocking(environ: Any, start_response: Any) -> Any:
    time.sleep(0.1)
    return wsgi_echo(environ, start_response)


@pytest.mark.parametrize(("app", "interface", "threads"), [(blocking, "asgi", 4), (wsgi_blocking, "wsgi", 1)])
def test_a_duration_is_real_also_when_the_app_stops_the_loop(
    tmp_path: Path, app: object, interface: Any, threads: int
) -> None:
    with Harness(app, interface, threads=threads) as server:
        access = logged(server, tmp_path / "log", "json")
        server.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        before = time.time()
        server.call(access.close)
        server.service.access = None
    record = json.loads((tmp_path / "log").read_text())
    assert 0.1 <= record["duration"] < 5
    assert abs(record["ts"] - before) < 5


def logged(server: Harness, path: Path, template: str) -> AccessLog:
    """Give the service a log."""

    def attach() -> AccessLog:
        access = AccessLog(open_file(path), "text", WRITER, loop=server.loop, row=private_row(), template=template)
        server.service.access = access
        return access

    return server.call(attach)


def test_what_a_wsgi_app_puts_into_its_environ_can_be_logged(tmp_path: Path) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["REMOTE_USER"] = "ada\n"
        return wsgi_echo(environ, start_response)

    with Harness(app, "wsgi") as server:
        access = logged(server, tmp_path / "log", "%({remote_user}e)s %({wsgi.url_scheme}e)s %({PATH_INFO}e)s")
        server.ask(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        server.call(access.close)
        server.service.access = None
    assert (tmp_path / "log").read_text() == "ada\\x0a http /x\n"


async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-out", b"v")]})
    if scope["path"] == "/raise":
        raise ValueError("on purpose")
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    if scope["path"] == "/wait":
        await receive()
    raise ValueError("on purpose")


async def waits(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def wsgi_breaks_off(environ: Any, start_response: Any) -> Any:
    start_response("201 Created", [("X-Out", "v")])
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("on purpose")
    yield b"abc"
    raise ValueError("on purpose")


@pytest.mark.parametrize(
    ("app", "interface", "path", "line"),
    [
        (breaks_off, "asgi", b"/", "201|3|v"),
        (wsgi_breaks_off, "wsgi", b"/", "201|3|v"),
        (breaks_off, "asgi", b"/raise", "500|26|-"),
        (wsgi_breaks_off, "wsgi", b"/raise", "500|26|-"),
        (waits, "asgi", b"/", "499|0|-"),
    ],
)
@pytest.mark.usefixtures("capfd")
def test_a_request_without_a_whole_answer_has_its_line_too(
    tmp_path: Path, app: Any, interface: Any, path: bytes, line: str
) -> None:
    served = http(app) if interface == "asgi" else app
    with Harness(served, interface, limits=replace(Limits(), half_closed=0.1)) as server:
        access = logged(server, tmp_path / "log", "%(s)s|%(B)s|%({x-out}o)s")
        server.ask(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        eventually(lambda: server.service.inflight == 0)
        server.call(access.close)
        server.service.access = None
    assert (tmp_path / "log").read_text() == f"{line}\n"


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_request_whose_body_is_refused_has_its_line_too(tmp_path: Path, interface: Any) -> None:
    app: Any = http(waits) if interface == "asgi" else wsgi_echo
    with Harness(app, interface, limits=replace(Limits(), body_idle=0.2)) as server:
        access = logged(server, tmp_path / "log", "%(s)s|%(B)s|%({x-out}o)s")
        data = server.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na", end=False)
        eventually(lambda: server.service.inflight == 0)
        server.call(access.close)
        server.service.access = None
    body = data.partition(b"\r\n\r\n")[2]
    assert (tmp_path / "log").read_text() == f"408|{len(body)}|-\n"


def test_a_request_that_the_worker_gives_up_on_has_its_line_too(tmp_path: Path) -> None:
    with Harness(http(waits)) as server, server.connect() as sock:
        access = logged(server, tmp_path / "log", "%(s)s|%(B)s")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.service.inflight == 1)
        server.call(server.service.cut)
        server.call(access.close)
        server.service.access = None
    assert (tmp_path / "log").read_text() == "503|0\n"
