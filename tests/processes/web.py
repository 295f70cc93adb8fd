"""A client for tests: one request and its whole answer, over TCP (v4, v6) or a Unix socket, or a bare connection."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.processes.cluster import DEADLINE


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Visitor(http.client.HTTPConnection):
    """One connection to a cluster's address (`127.0.0.1:8000`, `[::1]:8000`, `unix:PATH`), kept alive."""

    def __init__(self, address: str, timeout: float = DEADLINE) -> None:
        super().__init__("visited", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        self.sock = dial(self._address, self.timeout or DEADLINE)

    def ask(
        self, path: str = "/", method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on this connection."""
        self.request(method, path, body=body, headers=dict(headers or {}))
        response = self.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())


def dial(address: str, timeout: float = DEADLINE) -> socket.socket:
    """A connected stream socket."""
    if address.startswith("unix:"):
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(timeout)
        found.connect(address.removeprefix("unix:"))
        return found
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def ask(address: str, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    visitor = Visitor(address)
    try:
        return visitor.ask(path, method, body, headers)
    finally:
        visitor.close()


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """What comes until `end` has been seen, or the other side's end of the stream."""
    found = b""
    while end not in found and (data := sock.recv(65536)):
        found += data
    return found


def read_rest(sock: socket.socket) -> bytes:
    """Everything until the other side's end of the stream."""
    return b"".join(iter(lambda: sock.recv(65536), b""))
