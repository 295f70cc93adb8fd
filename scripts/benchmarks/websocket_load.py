"""A WebSocket client that asks for as much as it can get: each connection sends a small text message, and the next one
as soon as the same has come back. As wrk does for HTTP, it prints what it saw as one line of JSON, in microseconds.

Invariant: it does as little for a message as Python can. Frames are made beforehand, an echo is compared as bytes, and
one thread waits in one epoll, without an event loop. A server that is faster yet shows it per CPU second.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

MESSAGE = b"Hello, WebSocket"
MASK = b"\x37\xfa\x21\x3d"
QUESTION = bytes((0x81, 0x80 | len(MESSAGE))) + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(MESSAGE))
ECHO = bytes((0x81, len(MESSAGE))) + MESSAGE
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TIMEOUT_S = 10.0


def connected(port: int, path: str) -> socket.socket:
    """A socket after the handshake. Raises `OSError` when the server won't have one."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HANDSHAKE.format(path=path, port=port).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionError("closed within the handshake")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"no WebSocket: {answer[:40]!r}")
    return sock


def echoed(sockets: dict[int, socket.socket], seconds: float) -> tuple[list[float], float, int]:
    """Each message's time, how long all took, and how many answers were none. Raises `OSError` when nothing comes."""
    epoll = select.epoll(len(sockets))
    clock, poll = time.perf_counter, epoll.poll
    asked: dict[int, float] = {}
    took: list[float] = []
    wrong = 0
    begun = clock()
    for number, sock in sockets.items():
        epoll.register(number, select.EPOLLIN)
        asked[number] = clock()
        sock.send(QUESTION)
    ends = begun + seconds
    while (now := clock()) < ends:
        ready = poll(TIMEOUT_S)
        if not ready:
            raise TimeoutError(f"no answer within {TIMEOUT_S:.0f} s")
        for number, _ in ready:
            sock = sockets[number]
            if sock.recv(4096) == ECHO:
                now = clock()
                took.append(now - asked[number])
                asked[number] = now
                sock.send(QUESTION)
            else:
                wrong += 1
                epoll.unregister(number)
    return took, clock() - begun, wrong


def main(port: int, path: str, connections: int, seconds: float) -> None:
    opened = [connected(port, path) for _ in range(connections)]
    took, duration, wrong = echoed({sock.fileno(): sock for sock in opened}, seconds)
    took.sort()
    microseconds = {
        "p50_us": took[len(took) // 2],
        "p99_us": took[len(took) * 99 // 100],
        "max_us": took[-1],
        "duration_us": duration,
    }
    seen = {name: round(1e6 * value) for name, value in microseconds.items()}
    print(json.dumps(seen | {"requests": len(took), "read_errors": wrong, "timeouts": 0}))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    except (OSError, IndexError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
