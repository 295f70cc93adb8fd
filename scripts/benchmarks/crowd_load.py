"""A crowd of clients who keep a server's connections open, and what becomes of everybody else's requests meanwhile.

An `idle` client has asked once and keeps its connection. A `slow` one drips a head that never ends, a byte at a time,
and comes back when it is turned away. The others are probes: at a steady pace, one after the other, each asks once on a
connection of its own and is timed from `connect` to the last byte of its answer.

Three lines of JSON are printed, times in microseconds: the probes alone, the crowd when it is there, the probes among
it. A line of input is waited for before the crowd comes, and again when it is there, so that others can look at the
server.

Invariant: one thread does it all and never waits for the crowd, so a probe's time is the server's, or this machine's.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from collections import deque
from typing import Literal

Kind = Literal["idle", "slow"]

REQUEST = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
ENDLESS = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-Drip: and so on\r\n" * 500
DRIP_EVERY_S = 1.0  # a byte of each slow client
TIMEOUT_S = 10.0


class Crowd:
    """So many clients of a kind. `returns` counts how often a slow one was turned away and came back."""

    def __init__(self, port: int, path: str, kind: Kind, size: int) -> None:
        self.kind = kind
        self.returns = 0
        self._port = port
        self._request = REQUEST.format(path=path, port=port).encode()
        self._idle: list[socket.socket] = []
        self._slow: deque[tuple[float, socket.socket, int]] = deque()  # when to drip next, on what, how many bytes came
        for number in range(size):
            if kind == "idle":
                self._idle.append(asked(self._connect(), self._request))
            else:
                self._drip_first(time.monotonic() + DRIP_EVERY_S * number / size)

    def drip(self) -> float:
        """Let those drip whose time has come; returns when the next one's comes."""
        while self._slow and self._slow[0][0] <= time.monotonic():
            due, sock, sent = self._slow.popleft()
            try:
                gone = sock.recv(4096) is not None
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            with contextlib.suppress(OSError):
                sock.send(ENDLESS[sent : sent + 1])
            if gone or sent + 1 >= len(ENDLESS):
                sock.close()
                self.returns += 1
                self._drip_first(due + DRIP_EVERY_S)
            else:
                self._slow.append((due + DRIP_EVERY_S, sock, sent + 1))
        return self._slow[0][0] if self._slow else float("inf")

    def still_open(self) -> int:
        """Connections of the crowd that the server has not closed."""
        selector = selectors.DefaultSelector()
        sockets = self._idle or [sock for _, sock, _ in self._slow]
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        return len(sockets) - len(selector.select(0))

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)

    def _drip_first(self, due: float) -> None:
        sock = self._connect()
        sock.setblocking(False)
        self._slow.append((due, sock, 0))


def asked(sock: socket.socket, request: bytes) -> socket.socket:
    """The connection after one request. Raises `OSError` when it was not answered with 200."""
    sock.sendall(request)
    head, mark, body = b"", b"", b""
    while not mark:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("closed instead of an answer")
        head, mark, body = (head + body + piece).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"not answered with 200: {head[:40]!r}")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("closed within an answer")
        body += piece
    return sock


def probe(port: int, path: str, seconds: float, rate: float, crowd: Crowd | None) -> dict[str, int]:
    """Ask `rate` times a second; a probe that comes late because the one before took long is asked at once."""
    request = REQUEST.format(path=path, port=port).encode()
    took: list[float] = []
    errors = 0
    due = time.monotonic()
    ends = due + seconds
    while due < ends:
        while (now := time.monotonic()) < due:
            wake = min(due, crowd.drip()) if crowd else due
            time.sleep(max(0.0, wake - now))
        begun = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
                asked(sock, request)
            took.append(time.perf_counter() - begun)
        except OSError:
            errors += 1
        due += 1 / rate
    took.sort()
    if not took:
        raise ConnectionError("no probe was answered")
    seen = {"p50_us": took[len(took) // 2], "p99_us": took[len(took) * 99 // 100], "max_us": took[-1]}
    return {name: round(1e6 * value) for name, value in seen.items()} | {"probes": len(took), "errors": errors}


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def main(port: int, path: str, kind: Kind, size: int, seconds: float, rate: float) -> None:
    probe(port, path, 1.0, rate, None)
    tell(alone=probe(port, path, seconds, rate, None))
    sys.stdin.readline()
    crowd = Crowd(port, path, kind, size)
    tell(open=crowd.still_open())
    sys.stdin.readline()
    tell(among=probe(port, path, seconds, rate, crowd), open=crowd.still_open(), returns=crowd.returns)


if __name__ == "__main__":
    try:
        _, port, path, kind, size, seconds, rate = sys.argv
        main(int(port), path, "slow" if kind == "slow" else "idle", int(size), float(seconds), float(rate))
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
