"""One HTTP/1.1 client connection on a plain socket, which tells every way in which the server can fail it apart.

Invariant: an exchange ends in one whole answer (RFC 9112) or in `LostError`, whose kind says what a user would see.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import dataclass

from tests.processes.load import LoadError, Loss

MAX_HEAD = 64 * 1024  # of an answer
MAX_BODY = 16 * 1024 * 1024  # of an answer
READ = 256 * 1024
PIECE_PAUSE_S = 0.02
OWN_FAULTS = {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class LostError(Exception):
    """A request got no whole and right answer."""

    def __init__(self, kind: Loss, detail: str) -> None:
        super().__init__(detail)
        self.kind: Loss = kind


@dataclass
class Answer:
    """One whole answer. `reusable` is false when the server said that the connection ends with it."""

    status: int
    headers: dict[str, str]
    body: bytes
    reusable: bool


class Connection:
    """One connection to the server. Its methods raise `LostError`, whichever way the other side failed."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._buffer = bytearray()
        self.answers = 0
        self.heard = False  # a byte of the answer to the request under way has come

    @classmethod
    async def open(cls, address: str) -> Connection:
        """Connect to `host:port`, `[v6]:port` or `unix:PATH`. A full accept queue is waited for, as by connect(2)."""
        target: str | tuple[str, int] = address.removeprefix("unix:")
        family = socket.AF_UNIX
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            target = (host.strip("[]"), int(port))
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise LoadError(f"no socket for the load: {error}") from error
        try:
            await _connect(sock, target)
        except BaseException:
            sock.close()
            raise
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    def close(self) -> None:
        self._sock.close()

    def is_closed(self) -> bool:
        """True when the server has ended this idle connection; then nothing has been lost."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def exchange(self, pieces: list[bytes]) -> Answer:
        """Send a request, pausing between its pieces, and read the whole answer."""
        self.heard = False
        if self._buffer:
            raise LostError("wrong", f"{len(self._buffer)} bytes nobody asked for")
        try:
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(PIECE_PAUSE_S)
                await self._loop.sock_sendall(self._sock, piece)
            answer = await self._answer()
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise LostError("reset", str(error)) from error
        self.answers += 1
        return answer

    async def _answer(self) -> Answer:
        while True:
            head = await self._until(b"\r\n\r\n", MAX_HEAD)
            status, headers, version = _parse_head(head)
            if status >= 200:  # below are interim answers, RFC 9110 section 15.2
                break
        reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if status in (204, 304):
            return Answer(status, headers, b"", reusable)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, await self._chunks(), reusable)
        if "content-length" in headers:
            return Answer(status, headers, await self._exactly(_size(headers["content-length"], 10)), reusable)
        return Answer(status, headers, await self._to_end(), False)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while size := _size((await self._until(b"\r\n", MAX_HEAD)).partition(b";")[0].decode("latin-1"), 16):
            body += await self._exactly(size)
            if await self._exactly(2) != b"\r\n":
                raise LostError("wrong", "a chunk that is longer than it says")
        while await self._until(b"\r\n", MAX_HEAD):
            pass  # trailers
        return bytes(body)

    async def _until(self, end: bytes, limit: int) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > limit:
                raise LostError("wrong", "a head without end")
            if not await self._fill():
                raise LostError("closed", f"end of stream after {len(self._buffer)} bytes of a head")
        return self._take(at, len(end))

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._fill():
                raise LostError("closed", f"end of stream after {len(self._buffer)} of {size} bytes of a body")
        return self._take(size, 0)

    async def _to_end(self) -> bytes:
        while await self._fill():
            if len(self._buffer) > MAX_BODY:
                raise LostError("wrong", "a body without end")
        return self._take(len(self._buffer), 0)

    async def _fill(self) -> bool:
        data = await self._loop.sock_recv(self._sock, READ)
        self._buffer += data
        self.heard = self.heard or bool(data)
        return bool(data)

    def _take(self, size: int, drop: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[: size + drop]
        return taken


async def _connect(sock: socket.socket, target: str | tuple[str, int]) -> None:
    try:
        if isinstance(target, tuple):
            await asyncio.get_running_loop().sock_connect(sock, target)
            return
        # A unix socket whose queue is full says EAGAIN, connect(2), and there is no event to wait for.
        while (code := sock.connect_ex(target)) == errno.EAGAIN:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if code:
            raise OSError(code, os.strerror(code))
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno in OWN_FAULTS:
            raise LoadError(f"the load can't connect: {error}") from error
        raise LostError("refused", str(error)) from error


def _parse_head(head: bytes) -> tuple[int, dict[str, str], str]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise LostError("wrong", f"no HTTP answer: {first[:80]!r}")
    fields = (line.partition(":") for line in lines)
    return int(rest[:3]), {name.lower(): value.strip() for name, _, value in fields}, version


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        size = -1
    if not 0 <= size <= MAX_BODY:
        raise LostError("wrong", f"a body of {text[:40]!r} bytes")
    return size
