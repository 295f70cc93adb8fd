"""Talking to a control socket byte by byte, as clients that a library would never let you be."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

from supervisor.control.client import ControlClient
from tests.control.stage import Stage


def dial(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end; a reset counts as an end."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    data = bytearray()
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, f"ended before {mark!r}: {bytes(data[-200:])!r}"
        data += piece
    return bytes(data)


def talk(path: str, request: bytes) -> bytes:
    """Send, possibly against a closed door, and read all there is to read."""
    with dial(path) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return read_all(sock)


def get(target: str, *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "host: .", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(target: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "host: .", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"])


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def assert_prompt(path: str) -> None:
    """The master still answers others, and quickly."""
    began = time.monotonic()
    assert ControlClient(path).version().version == "0.1.0"
    assert time.monotonic() - began < 2


@contextlib.contextmanager
def following(live: Stage, target: str = "/events?follow=1") -> Iterator[socket.socket]:
    with dial(live.path) as sock:
        sock.sendall(get(target))
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # and no byte more: the first events may come with it
            head += sock.recv(1)
            assert head
        assert b"chunked" in head.lower()
        eventually(lambda: live.scene.listeners)
        yield sock
