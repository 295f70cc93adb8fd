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
from typing import TYPE_CHECKING

from supervisor.config.settings import LogFormat
from supervisor.kernel.board import Cell, Row
from supervisor.serve.logline import Writer, compile_format

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

_DROPPED = int(Cell.RECORDS_DROPPED)
_INTERVAL = 0.05
_BATCH = 64 * 1024
_PENDING = 4 * _BATCH  # lines that may wait for a pipe to be read before new ones are dropped


class AccessLog:
    """Writes to `fd`, which it owns. `form` decides for the template `auto`: `text` is Apache's combined format."""

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
        template: str = "auto",
    ) -> None:
        self._loop = loop
        self._row = row
        if template == "auto":
            template = "json" if form == "json" else "combined"
        self._render = compile_format(template, Writer(f"{app}:{slot}", generation, os.getpid()))
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
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
        line = self._render(client, exchange, self._loop.time() - exchange.since)
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
