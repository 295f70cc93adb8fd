"""PEP 3333 over real connections, in threads and inline."""

from __future__ import annotations

import array
import contextvars
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.validate import validator

import pytest

from supervisor.kernel.board import Cell
from tests.serve.harness import eventually, read_until, split_answers
from tests.serve.wsgi.serving import GET, Environ, answer, serve


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


def test_the_length_of_a_buffer_is_that_of_its_bytes(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> list[Any]:
        start_response("200 OK", [("Content-Length", "4" if environ["PATH_INFO"] == "/right" else "1")])
        return [array.array("I", [65])]

    with serve(app, threads) as server:
        assert answer(server, GET.replace(b"/", b"/right", 1))[2] == b"A\0\0\0"
        assert answer(server)[0] == 500
