"""What workers and spawners print: read from their pipes, cut into lines, handed on.

Invariant: no process can cost the master more than a bounded read for each wake-up and a bounded line of memory,
whatever it prints; and what it printed last is kept, so that a failure can be told in its own words.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator

from supervisor.kernel.reactor import Reactor
from supervisor.messages.state import Stream

MAX_LINE = 16 * 1024  # bytes
CUT = "…"  # ends a piece of a line that was too long, and begins the next piece
_READ = 64 * 1024  # bytes for each wake-up: as much as a pipe holds
_DRAIN_READS = 16  # more than a pipe holds: whoever prints on meanwhile waits for the next wake-up
_KEPT_LINES = 50
_KEPT_CHARACTERS = 1024  # of each kept line


class LineSplitter:
    """Bytes in any portions, lines out; pure. Lines end with LF or CRLF, bytes that aren't UTF-8 become U+FFFD.

    A line longer than `limit` bytes comes out in pieces, never cut inside a character, with `CUT` at every cut.
    """

    def __init__(self, limit: int = MAX_LINE, rest: bytes = b"", *, continues: bool = False) -> None:
        self._limit = limit
        self._rest = rest
        self._continues = continues

    @property
    def unfinished(self) -> tuple[bytes, bool]:
        """The beginning of a line whose end has not come yet, and whether it goes on a piece that came out already."""
        return self._rest, self._continues

    def feed(self, data: bytes) -> list[str]:
        """The lines, and pieces of a too long line, that `data` completes."""
        *complete, rest = (self._rest + data).split(b"\n")
        lines = [line for piece in complete for line in self._line(piece)]
        lines += self._cut(rest)
        return lines

    def end(self) -> list[str]:
        """The last line, when the output ended without a line end."""
        rest, self._rest = self._rest, b""
        return [self._marked(rest, is_cut=False)] if rest else []

    def _line(self, piece: bytes) -> Iterator[str]:
        yield from self._cut(piece)
        yield self._marked(self._rest.removesuffix(b"\r"), is_cut=False)

    def _cut(self, piece: bytes) -> Iterator[str]:
        """Pieces of a line that is already too long; what is left of it becomes the rest."""
        while len(piece) > self._limit:
            at = self._limit
            while at > self._limit - 3 and piece[at] & 0xC0 == 0x80:  # a continuation byte (RFC 3629, 3)
                at -= 1
            yield self._marked(piece[:at], is_cut=True)
            piece = piece[at:]
        self._rest = piece

    def _marked(self, piece: bytes, *, is_cut: bool) -> str:
        text = piece.decode("utf-8", "replace")
        before, self._continues = self._continues, is_cut
        return f"{CUT if before else ''}{text}{CUT if is_cut else ''}"


class OutputReader:
    """Reads one pipe on the reactor and calls `on_line` with each line, then `on_end` once, at the pipe's end.

    Takes over the read end of `stream`, and closes it at the end or with `close`.
    """

    def __init__(
        self,
        reactor: Reactor,
        stream: Stream,
        on_line: Callable[[str], None],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._fd = stream.fd
        self._on_line = on_line
        self._on_end = on_end
        self._splitter = LineSplitter(rest=stream.rest, continues=stream.continues)
        self._kept: deque[str] = deque(stream.kept, maxlen=_KEPT_LINES)
        if self.is_open:
            os.set_blocking(self._fd, False)
            reactor.add_reader(self._fd, self._on_readable)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return self._fd >= 0

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last 50 lines, oldest first, each shortened to 1,024 characters."""
        return tuple(self._kept)

    def state(self) -> Stream:
        """What a reader that goes on from here has to know."""
        rest, continues = self._splitter.unfinished
        return Stream(fd=self._fd, rest=rest, continues=continues, kept=self.last_lines)

    def drain(self) -> None:
        """Take what lies in the pipe now and stay open: a command that its writer left running may still print."""
        for _ in range(_DRAIN_READS):
            if not self.is_open or not (data := self._read()):
                return
            self._hand_on(self._splitter.feed(data))

    def close(self) -> None:
        """Take what lies in the pipe now and end: for when its writer is gone but somebody still holds the pipe."""
        self.drain()
        if self.is_open:
            self._end()

    def _on_readable(self) -> None:
        data = self._read()
        if data is None:
            return
        if data:
            self._hand_on(self._splitter.feed(data))
        else:
            self._end()

    def _read(self) -> bytes | None:
        """None when nothing waits, empty at the end."""
        try:
            return os.read(self._fd, _READ)
        except BlockingIOError:
            return None
        except OSError:  # a terminal whose other side is closed
            return b""

    def _end(self) -> None:
        self._reactor.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._hand_on(self._splitter.end())
        if self._on_end is not None:
            self._on_end()

    def _hand_on(self, lines: list[str]) -> None:
        for line in lines:
            self._kept.append(line[:_KEPT_CHARACTERS])
            self._on_line(line)
