"""Reads a worker's flight recorder: which requests are with the app, and which of them the worker is running.

Invariant: whatever lies in the memory, half-written records among it, gives a record or none, never an error; and of a
request nothing is taken over but its method, its path without the query, its client and its id, each cut and printable.
What else came in the head, cookies and credentials, stays where it is.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from supervisor.kernel.board import (
    CLIENT,
    CLIENT_BYTES,
    HEAD,
    HEAD_BYTES,
    NAME,
    NAME_BYTES,
    SEAT,
    SEATS,
    SEATS_COUNT,
    THREADS,
    Board,
    Cell,
)
from supervisor.watch.stall import BEAT

MAX_PATH = 100  # characters
_LINE = re.compile(rb"[\r\n]*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([^\x00-\x20]+)")
_NAMES = (  # a field, and the name in its value
    (
        re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE),
        re.compile(rb"([A-Za-z0-9._:/+=@,~-]{1,128})"),
    ),
    (
        re.compile(rb"\r\ntraceparent:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE),
        re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"),
    ),
)
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_LOOKS = 3  # at memory that a living worker writes to, until two are equal


class Serving(Struct, frozen=True):
    """One request with the app. `age_s` is since it came; of the current one, which has no time on record, how long the
    loop has been busy with it, give or take half a heartbeat. `thread` is a `threading.get_ident`, 0 in the loop."""

    method: str
    path: str  # at most MAX_PATH characters, without the query
    client: str  # an address; empty for a Unix socket's
    age_s: float
    request_id: str = ""
    thread: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path}{f' from {self.client}' if self.client else ''}"


class Flight(Struct, frozen=True):
    """What a worker has in hand.

    `running` is what the event loop is running, as far as that can be known: a request whose app has not returned to
    the loop since it was called (`is_certain`), or, if there is no such request, the only one that waits and may have
    been resumed. `waiting` are the requests that wait or run in threads, the oldest first; `others` is how many more
    there are: not yet with the app, or too many for the recorder.
    """

    running: Serving | None = None
    is_certain: bool = False
    waiting: tuple[Serving, ...] = ()
    others: int = 0

    @property
    def requests(self) -> tuple[Serving, ...]:
        """All that are known, what is certainly running first."""
        if self.running is None or not self.is_certain:
            return self.waiting
        return self.running, *(each for each in self.waiting if each is not self.running)

    @property
    def suspects(self) -> tuple[Serving, ...]:
        """Those that may be why a worker has died: what was certainly running, or else all."""
        return (self.running,) if self.running is not None and self.is_certain else self.waiting

    @property
    def count(self) -> int:
        """All, known or not."""
        return len(self.requests) + self.others

    def __str__(self) -> str:
        """For a person, after "while"; empty when there is nothing in hand."""
        if not self.count:
            return ""
        if self.running is not None and (self.is_certain or self.count == 1):
            more = f", with {self.count - 1} more under way" if self.count > 1 else ""
            return f"serving {self.running} for {_age(self.running)}{more}"
        if not self.waiting:
            return f"{self.count} request{'s' * (self.count > 1)} had not reached the app"
        last = self.waiting[-1]
        if self.count == 1:
            return f"serving {last} for {_age(last)}"
        return f"{self.count} requests were under way, the last begun {last}, {_age(last)} before"

    def blamed_on(self, thread: int) -> Flight:
        """The same, knowing that it was in this thread that something happened."""
        found = self.in_thread(thread)
        return self if found is None else msgspec.structs.replace(self, running=found, is_certain=True)

    def in_thread(self, ident: int) -> Serving | None:
        """What this thread runs, one of a WSGI app's."""
        return next((each for each in self.waiting if each.thread == ident != 0), None)


def look(board: Board, number: int, now: float) -> Flight:
    """Read the row `number`, of a worker that may be writing to it; `now` is CLOCK_MONOTONIC."""
    memory = board.memory(number)
    for _ in range(_LOOKS):
        before, memory = memory, board.memory(number)
        if memory[THREADS:] == before[THREADS:]:
            break
    return read(memory, now)


def read(memory: bytes, now: float) -> Flight:
    """Read a whole row as `Board.memory` gives it."""
    cells = memoryview(memory[:THREADS]).cast("Q")
    seats = sorted(_seats(memory, now), key=lambda each: -each.age_s)
    client = memory[CLIENT : CLIENT + CLIENT_BYTES].partition(b"\0")[0]
    head = memory[HEAD : HEAD + HEAD_BYTES].partition(b"\0")[0]
    beat = cells[Cell.HEARTBEAT_NS]
    busy = max(0.0, now - beat / 1e9 - BEAT / 2) if beat else 0.0
    name = memory[NAME : NAME + NAME_BYTES].partition(b"\0")[0]
    current = serving(client, head, busy, name)
    in_loop = [each for each in seats if not each.thread]
    running = current if current is not None else in_loop[0] if len(in_loop) == 1 else None
    inflight = max(0, cells[Cell.STARTED] - cells[Cell.FINISHED] - cells[Cell.CUT])
    known = len(seats) + (current is not None)
    return Flight(running, current is not None, tuple(seats), max(0, inflight - known))


def serving(client: bytes, head: bytes, age: float, name: bytes = b"", thread: int = 0) -> Serving | None:
    """What one record says; None for what is no request. A `*` before the client: its peer may name requests."""
    line = _LINE.match(head)
    if line is None:
        return None
    may_name = client.startswith(b"*")
    return Serving(
        method=line[1].decode("ascii"),
        path=path_of(line[2].decode("latin-1")),
        client=_printable(client.removeprefix(b"*").decode("latin-1")),
        age_s=round(age, 3),
        request_id=_printable((name or (_named(head) if may_name else b"")).decode("latin-1")),
        thread=thread,
    )


def _named(head: bytes) -> bytes:
    """What the client calls its request, by a field that is there once: of two, one may be its own client's."""
    for field, name in _NAMES:
        values = field.findall(head)
        if len(values) == 1 and (match := name.fullmatch(values[0])):
            return bytes(match[1])
    return b""


def path_of(target: str) -> str:
    """The path of a request target (RFC 9112 section 3.2), without query, cut to `MAX_PATH` characters."""
    path = _printable(_ORIGIN.sub("", target, count=1).partition("?")[0] or "/")
    return path if len(path) <= MAX_PATH else path[: MAX_PATH - 1] + "…"


def _seats(memory: bytes, now: float) -> list[Serving]:
    threads = memoryview(memory[THREADS : THREADS + 8 * SEATS_COUNT]).cast("Q")
    found = []
    for seat, record in enumerate(SEAT.iter_unpack(memory[SEATS : SEATS + SEATS_COUNT * SEAT.size])):
        *texts, since = record
        name, client, head = (text.partition(b"\0")[0] for text in texts)
        one = serving(client, head, max(0.0, now - since), name, threads[seat]) if since > 0 else None
        if one is not None:
            found.append(one)
    return found


def _age(request: Serving) -> str:
    return f"{request.age_s:.1f} s" if request.age_s >= 0.1 else "less than 0.1 s"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
