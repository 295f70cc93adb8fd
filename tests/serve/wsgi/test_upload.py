"""Bodies on their way to a WSGI app, in threads and inline."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits
from tests.serve.harness import Harness, eventually, fill, read_all, read_until, split_answers, wsgi_echo
from tests.serve.stepped import Wired
from tests.serve.wsgi.serving import Environ, answer, serve

EXPECT = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


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
        sent = fill(sock, total)
        assert sent < total
        release.set()
        sock.settimeout(10)
        assert fill(sock, total - sent) == total - sent
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


def test_limits_of_memory_are_settings(tmp_path: Any) -> None:
    with serve(body_app, 1, limits=Limits(memory_body=10)) as server:
        raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + bytes(20)
        assert answer(server, raw)[2] == b"20 0 20 BufferedRandom"
    assert isinstance(io.BytesIO(), io.BufferedIOBase)
