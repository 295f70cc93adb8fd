"""Clients of a control socket that do their worst, in a process of their own.

    python -m tests.processes.hostile_clients PATH COUNT SECONDS SEED

Each of COUNT threads plays one of ROLES over and over; SEED says which bytes are garbage. What the master answers is of
no interest here, and neither is being thrown out: who is, comes back.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable

Role = Callable[[socket.socket, random.Random], None]

_FEW_S = 0.5  # how long one that waits or drips is at it before it comes back
TARGETS = tuple(b"GET /" + path for path in (b"status", b"metrics", b"events", b"rolls", b"crashes"))
_HEAD = b"%s HTTP/1.1\r\nhost: .\r\n"


def garbage(sock: socket.socket, chance: random.Random) -> None:
    sock.sendall(chance.randbytes(chance.randrange(1, 5000)))
    sock.recv(1000)


def drip(sock: socket.socket, chance: random.Random) -> None:
    for byte in _HEAD % b"GET /status" + b"x: " + bytes(40):
        sock.sendall(bytes([byte]))
        time.sleep(chance.random() * 0.02)


def deaf_follower(sock: socket.socket, chance: random.Random) -> None:
    sock.sendall(_HEAD % b"GET /events?follow=1&recent=1" + b"\r\n")
    time.sleep(_FEW_S)


def deaf_asker(sock: socket.socket, chance: random.Random) -> None:
    sock.settimeout(_FEW_S)
    while True:
        sock.sendall((_HEAD % b"GET /metrics" + b"\r\n") * 20)


def pipeliner(sock: socket.socket, chance: random.Random) -> None:
    """As many requests as fit into what is read at once; their answers are read."""
    request = chance.choice(TARGETS) + b" HTTP/1.1\r\nhost:\r\n\r\n"
    for _ in range(20):
        sock.sendall(request * 200)
        sock.recv(1 << 20)


def big_body(sock: socket.socket, chance: random.Random) -> None:
    item = chance.choice((b"[", b'{"a":', b'"\\u0041",', b"1,"))
    body = (b'{"apps":[' + item * 65536)[:65536]
    for _ in range(20):
        sock.sendall(_HEAD % b"POST /reload" + b"content-length: 65536\r\n\r\n" + body)
        sock.recv(4096)


def small_chunks(sock: socket.socket, chance: random.Random) -> None:
    sock.sendall(_HEAD % b"POST /start" + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(100):
        sock.sendall(b"1\r\nx\r\n" * 600)


def many_fields(sock: socket.socket, chance: random.Random) -> None:
    for _ in range(20):
        sock.sendall(_HEAD % b"GET /status" + b"a:\r\n" * 4000 + b"\r\n")
        sock.recv(65536)


def come_and_go(sock: socket.socket, chance: random.Random) -> None:
    if chance.random() < 0.5:
        sock.sendall(_HEAD % b"GET /status" + b"\r\n")


def greedy(sock: socket.socket, chance: random.Random) -> None:
    for _ in range(50):
        sock.sendall(_HEAD % chance.choice(TARGETS) + b"\r\n")
        sock.recv(1 << 20)


def silent(sock: socket.socket, chance: random.Random) -> None:
    time.sleep(_FEW_S)


ROLES: tuple[Role, ...] = (
    garbage,
    drip,
    deaf_follower,
    deaf_asker,
    pipeliner,
    big_body,
    small_chunks,
    many_fields,
    come_and_go,
    greedy,
    silent,
)


def play(role: Role, path: str, chance: random.Random, ends: float) -> None:
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2 * _FEW_S)
            sock.connect(path)
            role(sock, chance)


def main(path: str, count: int, seconds: float, seed: int) -> None:
    ends = time.monotonic() + seconds
    threads = [
        threading.Thread(target=play, args=(ROLES[number % len(ROLES)], path, random.Random(seed + number), ends))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
