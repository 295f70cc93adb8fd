"""The access log: a line for each answer, written in batches that never wait.

Invariant: a log that nobody reads costs lines, counted on the board, and never time. At most 64 KiB of lines wait here;
a write is tried each 50 ms and whenever that much has come.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from supervisor.config.settings import LogFormat
from supervisor.kernel.board import Cell, Row
from supervisor.serve.head import fields

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

_DROPPED = int(Cell.RECORDS_DROPPED)
_INTERVAL = 0.05
_BATCH = 64 * 1024
_PENDING = 4 * _BATCH  # lines that may wait for a pipe to be read before new ones are dropped
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PLAIN = bytes(i for i in range(32, 127) if i not in b'"\\')


class Record(msgspec.Struct, frozen=True):
    """One line of the JSON access log. `duration` is seconds from head to answer, `bytes` counts the body."""

    ts: float
    client: str | None
    method: str
    path: str
    protocol: str
    status: int
    bytes: int
    duration: float
    referer: str | None
    user_agent: str | None
    worker: str
    generation: int


class AccessLog:
    """Writes to `fd`, which it owns. `text` is Apache's combined format and the duration in seconds at the end."""

    def __init__(
        self,
        fd: int,
        form: LogFormat,
        *,
        loop: asyncio.AbstractEventLoop,
        row: Row,
        app: str = "",
        slot: int = 0,
        generation: int = 0,
    ) -> None:
        self._loop = loop
        self._row = row
        self._json = form == "json"
        self._worker = f"{app}:{slot}"
        self._generation = generation
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._second = -1
        self._stamp = ""
        self._open(fd)

    def reopen(self, fd: int) -> None:
        """Write to `fd` from now on; what has been logged before goes to the old one."""
        self.flush()
        self._close()
        self._open(fd)

    def close(self) -> None:
        """Write what waits, as far as that is possible at once, and close."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._row[_DROPPED] += len(self._lines)
        self._lines.clear()
        self._close()

    def record(self, client: tuple[str, int] | None, exchange: Exchange) -> None:
        """Log one finished exchange."""
        if self._size >= _PENDING:
            self._row[_DROPPED] += 1
            return
        line = self._as_json(client, exchange) if self._json else self._as_text(client, exchange)
        self._lines.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._tick)
        if self._size >= _BATCH and self._size - len(line) < _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits, without waiting."""
        while self._lines:
            count, data = self._batch()
            try:
                written = self._write(data)
            except BlockingIOError:
                return
            except OSError:
                self._row[_DROPPED] += len(self._lines)
                self._lines.clear()
                self._size = 0
                return
            self._size -= written
            del self._lines[:count]
            if written < len(data):
                self._lines.insert(0, data[written:])
                return

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._lines:
            self._timer = self._loop.call_later(_INTERVAL, self._tick)

    def _batch(self) -> tuple[int, bytes]:
        """As many lines as go in one write; into a pipe no more than are written whole (pipe(7), PIPE_BUF), so that
        the lines of workers that share it never mix."""
        if not self._atomic:
            return len(self._lines), b"".join(self._lines)
        size = count = 0
        for line in self._lines:
            if count and size + len(line) > select.PIPE_BUF:
                break
            size += len(line)
            count += 1
        return count, b"".join(self._lines[:count])

    def _open(self, fd: int) -> None:
        """Never wait for `fd`, and leave its flags alone: they belong to the open file, which others share. A socket
        is asked not to wait at each write; a pipe or terminal is opened anew, to be non-blocking here only."""
        mode = os.fstat(fd).st_mode
        self._atomic = stat.S_ISFIFO(mode)
        self._socket = socket.socket(fileno=fd) if stat.S_ISSOCK(mode) else None
        if self._socket is None and not stat.S_ISREG(mode):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            os.close(fd)
            fd = own
        self._fd = fd

    def _write(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, data)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)

    def _as_text(self, client: tuple[str, int] | None, exchange: Exchange) -> bytes:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            at = time.localtime(now)
            self._stamp = time.strftime(f"%d/{_MONTHS[at.tm_mon - 1]}/%Y:%H:%M:%S %z", at)
        request = exchange.request
        headers = fields(request)
        seconds = self._loop.time() - exchange.since
        return (
            f'{client[0] if client else "-"} - - [{self._stamp}] "{exchange.method} {_quoted(request.target)} '
            f'HTTP/{request.http_version.decode()}" {exchange.status} {exchange.sent or "-"} '
            f'"{_quoted(headers.get(b"referer", b"-"))}" "{_quoted(headers.get(b"user-agent", b"-"))}" {seconds:.6f}\n'
        ).encode()

    def _as_json(self, client: tuple[str, int] | None, exchange: Exchange) -> bytes:
        request = exchange.request
        headers = fields(request)
        referer = headers.get(b"referer")
        agent = headers.get(b"user-agent")
        record = Record(
            ts=round(time.time(), 6),
            client=client[0] if client else None,
            method=exchange.method,
            path=request.target.decode("latin-1"),
            protocol="HTTP/" + request.http_version.decode(),
            status=exchange.status,
            bytes=exchange.sent,
            duration=round(self._loop.time() - exchange.since, 6),
            referer=None if referer is None else referer.decode("latin-1"),
            user_agent=None if agent is None else agent.decode("latin-1"),
            worker=self._worker,
            generation=self._generation,
        )
        return self._encode(record) + b"\n"


def _quoted(value: bytes) -> str:
    """What a client sent, made safe to stand between quotes: everything else than printable ASCII is escaped."""
    if not value.translate(None, _PLAIN):
        return value.decode("ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in value)
