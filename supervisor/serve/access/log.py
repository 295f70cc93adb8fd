"""The access log: a line for each answer, written in batches that never wait.

Invariant: a log that nobody reads costs lines, counted on the board, and never time. A write is tried each 50 ms and
whenever there are 128 lines more; of what it does not take, little more than 256 KiB is kept.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any, cast

from supervisor.config.settings import LogFormat
from supervisor.kernel.board import Cell, Row
from supervisor.serve.access.line import Client, Clock, Logged, Writer, compile_format
from supervisor.serve.access.outlet import Outlet

_DROPPED = int(Cell.RECORDS_DROPPED)
_INTERVAL = 0.05
_BATCH = 128  # lines that are written at the latest when there are so many
_WAITING = 256 * 1024  # bytes that may wait for a pipe to be read before new lines are dropped


class AccessLog:
    """Writes to `fd`, which it owns. `form` decides for the template `auto`: `text` is Apache's combined format."""

    def __init__(
        self,
        fd: int,
        form: LogFormat,
        writer: Writer,
        *,
        loop: asyncio.AbstractEventLoop,
        row: Row,
        template: str = "auto",
    ) -> None:
        self._loop = loop
        self._row = row
        if template == "auto":
            template = "json" if form == "json" else "combined"
        self._clock = Clock()
        self._render = compile_format(template, writer, self._clock)
        self._lines: list[str] = []  # of this batch
        self._waiting = b""  # earlier ones, which could not be written yet
        self._timer: asyncio.TimerHandle | None = None
        self._outlet = Outlet(fd)

    def reopen(self, fd: int) -> None:
        """Write to `fd` from now on; what has been logged before goes to the old one."""
        self.flush()
        self._outlet.close()
        self._outlet = Outlet(fd)

    def close(self) -> None:
        """Write what waits, as far as that is possible at once, and close."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._row[_DROPPED] += self._waiting.count(b"\n")
        self._waiting = b""
        self._outlet.close()

    def record_broken(self, client: Client, exchange: Logged, status: int, sent: int = 0) -> None:
        """Log one that has ended without a whole answer of its app; with `status` and `sent` bytes when none of it was
        written."""
        self.record(client, exchange if exchange.status else cast("Logged", _Unanswered(exchange, status, sent)))

    def record(self, client: Client, exchange: Logged) -> None:
        """Log one finished exchange."""
        lines = self._lines
        lines.append(self._render(client, exchange))
        if not 1 < len(lines) < _BATCH:
            self._batched(len(lines))

    def flush(self) -> None:
        """Write what waits, without waiting."""
        data = self._waiting
        if self._lines:
            if len(data) < _WAITING:
                data += "".join(self._lines).encode("utf-8", "replace")
            else:
                self._row[_DROPPED] += len(self._lines)
            self._lines.clear()
        done = 0
        try:
            while done < len(data):
                done += self._outlet.write(data[done : self._end(data, done)])
        except BlockingIOError:
            pass
        except OSError:
            self._row[_DROPPED] += data.count(b"\n", done)
            done = len(data)
        self._waiting = data[done:]

    def _batched(self, count: int) -> None:
        """A batch begins, or is large enough to be written."""
        if count >= _BATCH:
            self.flush()
            return
        self._clock.renew()
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if self._waiting:
            self._timer = self._loop.call_later(_INTERVAL, self._tick)

    def _end(self, data: bytes, start: int) -> int:
        """Up to where `data` goes in one write; into a pipe no more lines than are written whole (pipe(7), PIPE_BUF),
        so that those of workers who share it never mix."""
        if not self._outlet.is_pipe or len(data) - start <= select.PIPE_BUF:
            return len(data)
        return (data.rfind(b"\n", start, start + select.PIPE_BUF) + 1) or (data.find(b"\n", start) + 1)


class _Unanswered:
    """An exchange as the log has it, whose own `status` its app may still be about to set."""

    def __init__(self, exchange: Logged, status: int, sent: int) -> None:
        self._exchange = exchange
        self.status = status
        self.sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)
