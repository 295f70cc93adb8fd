"""Clusters of `deeds_app`, and how a test asks them for deeds and reads what came of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster, until

HERE = Path(__file__).parent


def deeds(folder: Path, *arguments: str, bind: str | None = None, env: Mapping[str, str] | None = None) -> Cluster:
    """A cluster of `deeds_app` in `folder`, not started."""
    for name in ("deeds_app.py", "echo_app.py"):
        shutil.copy(HERE / name, folder)
    return Cluster(folder, "deeds_app:app", *arguments, bind=bind, env=env)


def ask(cluster: Cluster, path: str, timeout: float = 10.0) -> str:
    """The body of the answer to GET `path`. Raises OSError or HTTPException when there is none."""
    host, _, port = cluster.bind.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, (answer.status, body)
        return body


def order(cluster: Cluster, path: str) -> None:
    """GET `path`, whatever becomes of it: for deeds that nobody survives to answer for."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(cluster, path)


class Talk:
    """One connection, spoken on by hand."""

    def __init__(self, cluster: Cluster, timeout: float = 10.0) -> None:
        host, _, port = cluster.bind.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout)

    def send(self, path: str) -> Talk:
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        return self

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer. Raises OSError or HTTPException when it does not come whole."""
        answer = http.client.HTTPResponse(self.sock)
        answer.begin()
        body = answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def is_closed(self) -> bool:
        """The server has ended this connection, and there is nothing left to read."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def in_flight(cluster: Cluster, seconds: float) -> Talk:
    """A connection on which a request is under way that takes so long."""
    talk = Talk(cluster).send(f"/sleep?{seconds}")
    until("the request under way", lambda: any(worker["inflight"] for worker in cluster.workers()))
    return talk


def told(cluster: Cluster, name: str | None = None) -> list[dict[str, Any]]:
    """The events the master remembers, oldest first; only those called `name`. None once it is gone."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(cluster.control)
            client.sendall(b"GET /events HTTP/1.1\r\nHost: .\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        except OSError:
            return []
    events = [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]
    return [event for event in events if name in (None, event["event"])]


def ready(cluster: Cluster, count: int) -> bool:
    """Exactly so many workers serve, and no other is on its way in."""
    return [worker["state"] for worker in cluster.workers()] == ["ready"] * count


def spawners(cluster: Cluster) -> list[int]:
    """The pids of all its spawners."""
    return [pid for pid, title in cluster.processes().items() if title.endswith("spawner")]


def kill_spawner(cluster: Cluster, number: int = signal.SIGKILL) -> int:
    """Signal the only spawner; its pid."""
    (pid,) = until("a spawner", lambda: spawners(cluster))
    os.kill(pid, number)
    return pid


def files(folder: Path) -> Iterator[str]:
    """What lies in the folder besides the test's own."""
    own = {"stdout", "stderr", "__pycache__", "deeds_app.py", "echo_app.py", "control.crashes"}
    return (entry.name for entry in sorted(folder.iterdir()) if entry.name not in own)
