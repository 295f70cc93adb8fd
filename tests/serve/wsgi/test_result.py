"""What a WSGI app answers with, piece by piece, in threads and inline."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from tests.serve.harness import at_rest, eventually, read_all, read_until, split_answers
from tests.serve.wsgi.serving import GET, Environ, answer, serve


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
        assert at_rest(lambda: made) < 12 << 20
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


def test_what_holds_no_bytes_does_not_cost_the_answer_its_head(threads: int) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        with contextlib.suppress(TypeError):
            write("text")
        write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        return []

    with serve(app, threads) as server:
        assert answer(server)[::2] == (200, b"HTTP/1.1 404 Not Found\r\n\r\n")


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
