"""WSGI in threads under more load than it can serve: nobody starves, quick or slow, whoever came first."""

from __future__ import annotations

import collections
import selectors
import socket
import statistics
import time
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster
from tests.processes.releases import NO_BYTECODE
from tests.processes.web import dial

pytestmark = pytest.mark.alone

APP = """
import time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/computes":
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
    elif environ["PATH_INFO"] == "/waits":
        time.sleep(0.005)
    elif environ["PATH_INFO"] == "/both":
        time.sleep(0.001)
        until = time.thread_time() + 0.0005
        while time.thread_time() < until:
            pass
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def answers_by_client(bind: str, path: str, clients: int, seconds: float) -> list[int]:
    """So many clients, each of whom asks again as soon as it is answered; how often each was."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    counts: collections.Counter[socket.socket] = collections.Counter()
    with selectors.DefaultSelector() as selector:
        socks = [dial(bind) for _ in range(clients)]
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ, sock)
            sock.sendall(request)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                sock = key.data
                data = sock.recv(4096)
                assert data.startswith(b"HTTP/1.1 200 OK\r\n")
                assert data.endswith(b"\r\n\r\nok")
                counts[sock] += 1
                sock.sendall(request)
        for sock in socks:
            sock.close()
    return [counts[sock] for sock in socks]


@pytest.mark.parametrize(("path", "clients"), [("/", 64), ("/computes", 64), ("/waits", 48), ("/both", 48)])
def test_each_of_many_clients_gets_its_share(tmp_path: Path, path: str, clients: int) -> None:
    (tmp_path / "app.py").write_text(APP)
    with Cluster(tmp_path, "app:app", "-w", "1", "--threads", "4", env=NO_BYTECODE) as cluster:
        counts = answers_by_client(cluster.bind, path, clients, 2.0)
    assert min(counts) > statistics.median(counts) / 3, sorted(counts)
