"""PEP 3333 over real connections, in threads and inline."""

from __future__ import annotations

import array
import contextlib
import contextvars
import errno
import io
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any
from wsgiref.validate import validator

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, eventually, read_all, read_until, split_answers, wsgi_echo
from tests.serve.stepped import Wired

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]


@pytest.fixture(params=[4, 1], ids=["threads", "inline"])
def threads(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def serve(app: Any, threads: int, **more: Any) -> Harness:
    return Harness(app, "wsgi", threads=threads, **more)


def answer(server: Harness, raw: bytes = GET) -> tuple[int, dict[str, str], bytes]:
    (found,) = split_answers(server.ask(raw))
    return found


def test_the_environ_says_what_pep_3333_wants(threads: int) -> None:
    seen: list[Environ] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    with serve(app, threads) as server, server.connect() as sock:
        client = sock.getsockname()
        sock.sendall(
            b"POST /caf%C3%A9/b?q=%20 HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 2\r\n"
            b"X-Twice: 1\r\nX-Twice: 2\r\nCookie: a=1\r\nCookie: b=2\r\nX_Twice: evil\r\nProxy: evil\r\n\r\nhi"
        )
        read_until(sock, b"hi")
        address = server.address
    environ = seen[0]
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/café/b".encode().decode("latin-1"),
        "QUERY_STRING": "q=%20",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "2",
        "SERVER_NAME": address[0],
        "SERVER_PORT": str(address[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "HTTP_HOST": "x",
        "HTTP_X_TWICE": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": threads > 1,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert "HTTP_PROXY" not in environ
    assert "" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


def test_one_worker_is_not_multiprocess() -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(environ["wsgi.multiprocess"]).encode()]

    with serve(app, 1, workers=1) as server:
        assert answer(server)[2] == b"False"


@pytest.mark.filterwarnings("default")
def test_wsgiref_s_validator_finds_nothing(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(100)
        environ["wsgi.errors"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"got ", body])

    with serve(validator(app), threads) as server:
        assert answer(server)[2] == b"got "
        assert answer(server, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")[2] == b"got abc"
        assert server.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"\r\n\r\n")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("root", [None, "/api"])
def test_the_asterisk_is_no_path_and_passes_the_validator(
    threads: int, root: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        names = ("SCRIPT_NAME", "PATH_INFO", "RAW_URI", "REQUEST_URI")
        return iter([" ".join(repr(environ[name]) for name in names).encode()])

    with serve(validator(app), threads, root_path=root) as server:
        body = answer(server, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")[2]
    assert body.decode() == f"{root or ''!r} '' '*' '*'"
    assert capfd.readouterr().err == ""


class Result:
    """An iterable that notes its close()."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = iter(chunks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        self.closed += 1


def chunks_then(error: Exception | None) -> Iterator[bytes]:
    yield b"one"
    yield b""
    if error is not None:
        raise error
    yield b"two"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_an_iterable_is_chunked_and_closed(threads: int, method: bytes) -> None:
    result = Result(chunks_then(None))

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return result

    with serve(app, threads) as server:
        data = server.ask(GET.replace(b"GET", method))
        if method == b"GET":
            assert split_answers(data)[0][2] == b"onetwo"
        else:
            assert data.endswith(b"\r\n\r\n")
        eventually(lambda: result.closed == 1)


def test_an_iterable_with_a_length_is_one_answer(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        return Result([b"one", b"two"])

    with serve(app, threads) as server:
        status, headers, body = answer(server)
        assert (status, headers["content-length"], body) == (200, "6", b"onetwo")
        assert [body for _, _, body in split_answers(server.ask(GET * 5))] == [b"onetwo"] * 5


@pytest.mark.parametrize("where", ["app", "first", "middle", "close"])
def test_close_is_called_whatever_happens(threads: int, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(Result):
        def close(self) -> None:
            super().close()
            if where == "close":
                raise ValueError("on purpose")

    def first() -> Iterator[bytes]:
        yield from map(int.to_bytes, [])
        raise ValueError("on purpose")

    result = Failing(
        first() if where == "first" else chunks_then(ValueError("on purpose") if where == "middle" else None)
    )

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if where == "app":
            raise ValueError("on purpose")
        start_response("200 OK", [])
        return result

    with serve(app, threads) as server:
        data = server.ask(GET, end=where != "middle")
        if where == "middle":
            assert data.endswith(b"one\r\n")
            eventually(lambda: server.cell(Cell.CUT) == 1)
        else:
            assert split_answers(data)[0][0] == (200 if where == "close" else 500)
        eventually(lambda: result.closed == (where != "app"))
        eventually(lambda: server.service.inflight == 0)
    error = capfd.readouterr().err
    assert error.count("Traceback (most recent call last)") == error.count("ValueError: on purpose\n") == 1
    assert error.startswith("holdfast: GET /: ")


def test_write_sends_before_the_result(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"one")
        write(b"two")
        return [b"three"]

    with serve(app, threads) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 3))] == [b"onetwothree"] * 3


def test_exc_info_replaces_a_head_that_is_not_sent_and_raises_after(
    threads: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/late":
            write(b"x")
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("503 Busy", [("X-Why", "error")], sys.exc_info())
        return [b"sorry"]

    with serve(app, threads) as server:
        status, headers, body = answer(server)
        assert (status, headers["x-why"], body) == (503, "error", b"sorry")
        assert server.ask(GET.replace(b"/ ", b"/late "), end=False).endswith(b"1\r\nx\r\n")
    assert capfd.readouterr().err.count("ValueError: on purpose\n") == 1


def test_exc_info_may_be_given_by_its_name(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [], exc_info=None)
        try:
            raise ValueError("on purpose")
        except ValueError:
            start_response("503 Busy", [], exc_info=sys.exc_info())
        return [b"sorry"]

    with serve(app, threads) as server:
        assert answer(server)[0] == 503


@pytest.mark.parametrize("kind", ["never", "twice", "status", "header", "text", "none"])
def test_an_app_that_breaks_the_rules_makes_a_500(threads: int, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    def app(environ: Environ, start_response: Any) -> Any:
        if kind == "never":
            return [b"x"]
        start_response("OK" if kind == "status" else "200 OK", [("X", "a\nb")] if kind == "header" else [])
        if kind == "twice":
            start_response("200 OK", [])
        return {"text": ["text"], "none": None}.get(kind, [b""])

    with serve(app, threads) as server:
        assert answer(server)[0] == 500
    assert capfd.readouterr().err.startswith("holdfast: GET /: ")


@pytest.mark.parametrize("declared", ["3", "5"])
def test_a_length_that_is_not_held_closes_and_logs_one_line(
    threads: int, declared: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", declared)])
        return iter([b"ab", b"cd"])

    with serve(app, threads) as server:
        data = server.ask(GET, end=False)
        assert len(data.partition(b"\r\n\r\n")[2]) < int(declared)
        eventually(lambda: server.cell(Cell.CUT) == 1)
    assert len(capfd.readouterr().err.splitlines()) == 1


def body_app(environ: Environ, start_response: Any) -> list[bytes]:
    """Answers with length and sum of the body, read in lines and pieces, and with the length it was told."""
    stream = environ["wsgi.input"]
    size = total = 0
    first = stream.readline(10)
    for piece in [first, *iter(lambda: stream.read(10_000), b"")]:
        size += len(piece)
        total += sum(piece)
    assert stream.read() == b""
    start_response("200 OK", [])
    return [f"{size} {total} {environ.get('CONTENT_LENGTH')} {type(stream).__name__}".encode()]


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 300_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_of_all_sizes_come_through(threads: int, size: int, chunked: bool) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    if chunked:
        framed = b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 5000]), body[i : i + 5000]) for i in range(0, size, 5000))
        raw = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    else:
        raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + body
    with serve(body_app, threads) as server:
        for status, _, text in split_answers(server.ask(raw + raw)):
            assert status == 200
            got, total, told, kind = text.decode().split()
            assert (int(got), int(total)) == (size, sum(body))
            assert told == str(size)
            if size > 256 * 1024 and (chunked or threads == 1):
                assert kind == "BufferedRandom"  # a temporary file, not memory
            elif size > 512 * 1024:
                assert kind == "BufferedReader"


def test_a_large_upload_is_left_to_the_client_while_the_app_does_not_read() -> None:
    release = threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        release.wait(10)
        return body_app(environ, start_response)

    with serve(app, 4) as server, server.connect(timeout=0.5) as sock:
        total = 64 << 20
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % total)
        sent = 0
        block = bytes(1 << 20)
        try:
            while sent < total:
                sent += sock.send(block[: total - sent])
        except TimeoutError:
            pass
        assert sent < total
        release.set()
        sock.settimeout(10)
        while sent < total:
            sent += sock.send(block[: total - sent])
        assert read_until(sock, b"BufferedReader").partition(b"\r\n\r\n")[2].startswith(b"%d 0" % total)


def test_a_thread_that_waits_for_a_body_is_told_when_the_client_goes() -> None:
    told: list[BaseException] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            told.append(error)
            raise
        return []

    with serve(app, 2) as server:
        with server.connect() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
            eventually(lambda: server.service.bridge.is_running())
        eventually(lambda: told)
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 1


def test_a_slow_small_upload_holds_no_thread(threads: int) -> None:
    with serve(body_app, threads) as server, server.connect() as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
        eventually(lambda: server.service.inflight == 1)
        assert not server.service.bridge.is_running()
        assert answer(server)[0] == 200
        slow.sendall(b"bc")
        assert b"200 OK" in read_until(slow, b"BytesIO")


def test_100_continue_is_sent_when_a_threaded_app_reads() -> None:
    release = threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        release.wait(10)
        if environ["PATH_INFO"] == "/no":
            start_response("413 Too Large", [])
            return [b"no"]
        return body_app(environ, start_response)

    with serve(app, 2) as server:
        with server.connect() as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            eventually(lambda: server.service.bridge.is_running())
            release.set()
            assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"abc")
            assert b"200 OK" in read_until(sock, b"BufferedReader")
        with server.connect() as sock:
            sock.sendall(b"POST /no HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            data = read_all(sock)
            assert data.startswith(b"HTTP/1.1 413")
            assert b"connection: close" in data


def test_a_large_result_waits_for_a_slow_client(threads: int) -> None:
    made = 0

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        nonlocal made
        start_response("200 OK", [])
        for _ in range(96):
            made += 1 << 18
            yield bytes(1 << 18)

    with serve(app, threads) as server, server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(GET)
        eventually(lambda: made)
        last = -1
        while last != made:  # until it has come to rest
            last = made
            threading.Event().wait(0.1)
        assert made < 12 << 20
        sock.shutdown(socket.SHUT_WR)
        assert len(split_answers(read_all(sock))[0][2]) == 24 << 20


def test_a_client_that_goes_ends_the_result(threads: int) -> None:
    result = Result(bytes(1 << 18) for _ in range(10_000))

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return result

    with serve(app, threads) as server:
        with server.connect() as sock:
            sock.sendall(GET)
            sock.recv(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: result.closed == 1)
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.STARTED) == server.cell(Cell.FINISHED) == 1


def test_requests_run_at_once_in_as_many_threads_as_set() -> None:
    together = threading.Barrier(4)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        together.wait(5)
        start_response("200 OK", [])
        return [threading.current_thread().name.encode()]

    with serve(app, 4) as server:
        for _ in range(3):
            clients = [threading.Thread(target=answer, args=(server,)) for _ in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join(10)
        assert server.cell(Cell.ANSWERS_5XX) == 0
        assert server.cell(Cell.FINISHED) == 12


def test_one_blocked_thread_holds_up_nobody_else() -> None:
    release = threading.Event()

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/block":
            release.wait(10)
        start_response("200 OK", [])
        return [b"ok"]

    with serve(app, 2) as server, server.connect() as blocked:
        blocked.sendall(GET.replace(b"/ ", b"/block "))
        eventually(lambda: server.service.inflight == 1)
        for _ in range(50):
            assert answer(server)[0] == 200
        release.set()
        read_until(blocked, b"ok")


def test_context_variables_do_not_leak_between_requests(threads: int) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        before = variable.get()
        variable.set(before + 1)
        start_response("200 OK", [])
        return [b"%d" % before]

    with serve(app, threads) as server:
        assert [body for _, _, body in split_answers(server.ask(GET * 12))] == [b"0"] * 12


def test_an_exit_in_the_app_does_not_end_the_worker(threads: int, capfd: pytest.CaptureFixture[str]) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        raise SystemExit(3)

    with serve(app, threads) as server:
        assert [status for status, _, _ in split_answers(server.ask(GET * 2))] == [500, 500]
    assert "SystemExit: 3" in capfd.readouterr().err


def test_a_client_that_goes_while_its_request_waits_is_not_served() -> None:
    release = threading.Event()
    served: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        served.append(environ["PATH_INFO"])
        release.wait(10)
        start_response("200 OK", [])
        return [b"ok"]

    with serve(app, 2) as server, server.connect() as one, server.connect() as two:
        for sock in (one, two):
            sock.sendall(GET)
        eventually(lambda: len(served) == 2)
        with server.connect() as third:
            third.sendall(GET.replace(b"/ ", b"/third "))
            eventually(lambda: server.service.inflight == 3)
            third.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: server.service.connections == 2)
        release.set()
        eventually(lambda: server.service.inflight == 0)
        assert served == ["/", "/"]


def test_limits_of_memory_are_settings(tmp_path: Any) -> None:
    with serve(body_app, 1, limits=Limits(memory_body=10)) as server:
        raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + bytes(20)
        assert answer(server, raw)[2] == b"20 0 20 BufferedRandom"
    assert isinstance(io.BytesIO(), io.BufferedIOBase)


def test_what_goes_beyond_a_length_closes_though_the_client_has_all_of_it(
    threads: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        return iter([b"abcd", b"ef"])

    with serve(app, threads) as server:
        assert split_answers(server.ask(GET * 2, end=False))[0][2] == b"abcd"
        eventually(lambda: server.cell(Cell.CUT) == 1)
        assert server.cell(Cell.STARTED) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_what_holds_no_bytes_does_not_cost_the_answer_its_head(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        with contextlib.suppress(TypeError):
            write("text")
        write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        return []

    with serve(app, threads) as server:
        assert answer(server)[::2] == (200, b"HTTP/1.1 404 Not Found\r\n\r\n")


def test_the_length_of_a_buffer_is_that_of_its_bytes(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> list[Any]:
        start_response("200 OK", [("Content-Length", "4" if environ["PATH_INFO"] == "/right" else "1")])
        return [array.array("I", [65])]

    with serve(app, threads) as server:
        assert answer(server, GET.replace(b"/", b"/right", 1))[2] == b"A\0\0\0"
        assert answer(server)[0] == 500


@pytest.mark.parametrize("writes", [False, True])
def test_no_block_waits_for_the_next_one(threads: int, writes: bool) -> None:
    go_on = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])

        def blocks() -> Iterator[bytes]:
            yield b"first"
            assert go_on.wait(5)
            yield b"second"

        if not writes:
            return blocks()
        for block in blocks():
            write(block)
        return []

    with serve(app, threads) as server, server.connect(timeout=5) as sock:
        sock.sendall(GET)
        assert b"second" not in read_until(sock, b"first")
        go_on.set()
        read_until(sock, b"second")


def test_an_endless_answer_of_small_blocks_ends_with_its_client(threads: int) -> None:
    closed = threading.Event()

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                time.sleep(0.01)
                yield b"tick"
        finally:
            closed.set()

    with serve(app, threads) as server:
        with server.connect(timeout=5) as sock:
            sock.sendall(GET)
            read_until(sock, b"tick")
        assert closed.wait(5)
        eventually(lambda: server.service.inflight == 0)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_no_disk_takes_is_answered_and_told_in_one_line(
    threads: int, chunked: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> Any:
        return open("/dev/full", "wb")  # as the app's body it is closed

    if threads > 1 and not chunked:
        pytest.skip("it is streamed, and lies on no disk")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    body = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 9999999\r\n\r\n"
    with serve(wsgi_echo, threads) as server, server.connect(timeout=5) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
        with contextlib.suppress(ConnectionError):  # it is not read to its end
            for _ in range(32):
                sock.sendall(body)
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 500 ")
        eventually(lambda: server.service.inflight == 0)
        assert server.cell(Cell.FINISHED) == server.cell(Cell.ANSWERS_5XX) == 1
    assert capfd.readouterr().err.splitlines() == [
        f"holdfast: POST /: the request's body can't be kept in {tempfile.gettempdir()}: No space left on device"
    ]


def test_a_client_that_waits_to_be_asked_for_its_body_is_not_late(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        time.sleep(0.8)
        return wsgi_echo(environ, start_response)

    def asked(server: Harness, body: bytes) -> bytes:
        with server.connect(timeout=5) as sock:
            sock.sendall(EXPECT)
            assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(body)
            return read_until(sock, b"\r\n\r\n")

    with serve(app, threads, limits=replace(Limits(), body_idle=0.4)) as server:
        assert asked(server, b"abc").startswith(b"HTTP/1.1 200 ")
        assert asked(server, b"").startswith(b"HTTP/1.1 408 ")
        assert server.cell(Cell.BODY_TIMEOUT) == 1


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_client_that_takes_no_answer_gets_one_all_the_same_when_no_disk_takes_its_body(
    when: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> Any:
        if when == "opened":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open("/dev/full", "wb", buffering=0)  # as above

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with Wired(wsgi_echo, "wsgi", limits=replace(Limits(), memory_body=100)) as wired:
        wired.start()
        client = wired.connect(room=1)
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + bytes(200))
        for size in (200, 200, 400):
            wired.settle()
            client.send(bytes(size))
        wired.settle()
        client.take(1 << 20)
        wired.settle()
        assert [status for status, _, _ in split_answers(bytes(client.received))] == [500]
        client.end()
        wired.settle()
        wired.assert_idle()
    assert len(capfd.readouterr().err.splitlines()) == 1
