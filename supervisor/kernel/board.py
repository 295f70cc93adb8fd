"""The board: a row of shared memory a worker, written by that worker alone, read by the master at any time.

Invariant: a row has one writer. The master needs no answer from a worker to know how it is, so a hung worker's row
and a dead worker's row read the same as a healthy one's. Counters only grow during a worker's life; the master folds
a dead worker's counters into the app's totals before it frees the row.

A row begins with cells, aligned 64-bit integers; a store of one is not torn on any platform Linux runs Python on in 64
bit. Behind them is the flight recorder, the requests that are with the app: `kernel.recorder` writes it,
`observe.flight` reads it. Of a row's pages only those exist that were written to, in most apps the first.

A master that was upgraded reads rows of workers that were not: cells are only added, and while `ROW_BYTES` is another
the upgrade is refused.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import mmap
import os
import struct
from collections.abc import Collection
from typing import TypeAlias

from supervisor.errors import SurroundingsError

ROWS = 4096  # sparse: a page exists only once its worker has touched it

# Where the flight recorder's parts begin, in bytes from the row's start.
THREADS = 1024  # of each seat, the identity (`threading.get_ident`) of the thread that it belongs to, or 0
CLIENT = THREADS + 64 * 8  # of the request that runs its first step now, ended by a NUL
CLIENT_BYTES = 64
HEAD = CLIENT + CLIENT_BYTES  # its head as it came, ended by a NUL; empty when there is no such request
HEAD_BYTES = 4096
NAME = HEAD + HEAD_BYTES  # its id, if its app has asked for one, ended by a NUL
NAME_BYTES = 64
SEATS = NAME + NAME_BYTES  # requests that wait, and those in threads
SEATS_COUNT = 64
SEAT = struct.Struct("@48s48s152sd")
"""Request id, client, head, and when the request came: seconds of CLOCK_MONOTONIC, which are written last, and 0 in a
seat that is free. What is longer is cut."""

ROW_BYTES = -(-(SEATS + SEATS_COUNT * SEAT.size) // mmap.PAGESIZE) * mmap.PAGESIZE


class Cell(enum.IntEnum):
    """Index of each 64-bit cell in a row. Times are CLOCK_MONOTONIC nanoseconds."""

    PID = 0
    STATE = 1  # a WorkerState
    HEARTBEAT_NS = 2
    LAG_NS = 3  # how late the last tick of the event loop came
    LAG_MAX_NS = 4  # the worst in the last minute
    CONNECTIONS = 5  # open now
    ACCEPTED = 6  # connections taken from the listening sockets
    STARTED = 7  # requests whose head was read
    FINISHED = 8  # requests whose answer was handed to the kernel whole, or whose client had gone
    CUT = 9  # requests given up on with the client still there (drain timeout, app died mid-answer)
    ANSWERS_4XX = 10
    ANSWERS_5XX = 11  # the app's, or given in its place because it failed; not those that `SHED` counts
    SHED = 12
    OUTPUT_DROPPED = 13  # bytes of the app's output that a full pipe had no room for
    BAD_REQUESTS = 14  # heads or bodies refused before any app code ran
    RECORDS_DROPPED = 15  # access log lines that a full pipe or disk had no room for
    HANDED_OVER = 16  # connections given to another worker, which goes on with them
    DRAINED = 17  # connections that a leaving worker saw to their proper end: announced, or the client's own
    CONNECTIONS_CUT = 18  # connections ended under their clients because `drain_timeout` was over
    STUCK_SINCE_NS = 19  # since when all WSGI threads are at the same requests; 0 when one is not
    # From here on: what has ended a request or a connection before its time, the HTTP that was broken or the setting.
    MALFORMED = 32
    NOT_IMPLEMENTED = 33
    HTTP_VERSION = 34
    TLS = 35  # handshakes that failed or came late
    PROXY_PROTOCOL = 36  # headers that were wrong or came late
    LIMIT_REQUEST_LINE = 37
    LIMIT_REQUEST_HEAD = 38
    LIMIT_REQUEST_FIELDS = 39
    MAX_BODY = 40
    FIRST_BYTE_TIMEOUT = 41
    HEAD_TIMEOUT = 42
    BODY_TIMEOUT = 43
    SEND_TIMEOUT = 44
    KEEPALIVE = 45
    KEEPALIVE_REQUESTS = 46
    MAX_CONNECTIONS = 47  # times that the listening sockets were left alone for it
    END = 48


ENDED_BY: dict[str, Cell] = {cell.name.lower(): cell for cell in Cell if Cell.MALFORMED <= cell < Cell.END}
"""What can end requests and connections, as people and metrics call it."""


class WorkerState(enum.IntEnum):
    """What a worker says of itself in `Cell.STATE`."""

    STARTING = 0
    READY = 1
    SATURATED = 2
    DRAINING = 3


Row: TypeAlias = "memoryview[int]"  # as text: memoryview can't be subscripted before Python 3.14
"""A worker's cells, indexed by `Cell`. Hot code keeps it in a local and writes `row[INDEX] = n`."""


class Board:
    """The master's view of all rows of one app; its `fd` goes to spawners, who open single rows with `open_row`."""

    def __init__(self, name: str) -> None:
        self.fd = -1
        fd = os.memfd_create(f"holdfast-board-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, ROWS * ROW_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # to read beyond its end would kill the master
        self._use(fd, ())

    def resume(self, fd: int, taken: Collection[int]) -> None:
        """Go on with another board, on which these rows are taken; none of ours may be. Raises `SurroundingsError`."""
        try:
            is_sealed = bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        except OSError:
            is_sealed = False
        if not is_sealed or os.fstat(fd).st_size < ROWS * ROW_BYTES:
            raise SurroundingsError("a board was expected, and is something else")
        self.close()
        self._use(fd, taken)

    def _use(self, fd: int, taken: Collection[int]) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, ROWS * ROW_BYTES)
        self._cells: memoryview[int] = memoryview(self._map).cast("Q")
        self._free = [number for number in range(ROWS - 1, -1, -1) if number not in taken]

    def take(self) -> int:
        """Reserve an empty row and return its number."""
        if not self._free:
            raise SurroundingsError(f"no free row left on the board: {ROWS} workers are alive at once")
        number = self._free.pop()
        start = number * ROW_BYTES
        try:
            self._map.madvise(mmap.MADV_REMOVE, start, ROW_BYTES)  # what its last worker has left, and the memory
        except OSError:
            self._map[start : start + ROW_BYTES] = bytes(ROW_BYTES)
        return number

    def release(self, number: int) -> None:
        """Give a row back once its worker is gone and its counters are folded."""
        self._free.append(number)

    def row(self, number: int) -> Row:
        """The live cells of one row; reading never blocks and never fails."""
        start = number * ROW_BYTES // 8
        return self._cells[start : start + Cell.END]

    def memory(self, number: int) -> bytes:
        """All of one row as it is now, for `observe.flight`. A worker may have been in the midst of writing to it."""
        start = number * ROW_BYTES
        return self._map[start : start + ROW_BYTES]

    def close(self) -> None:
        """Close; the memory goes with the last row that somebody still holds."""
        self._cells.release()
        with contextlib.suppress(BufferError):  # rows are held: dropping the last one unmaps
            self._map.close()
        os.close(self.fd)


def open_row(fd: int, number: int) -> Row:
    """Map one row, and nothing else, for its writer: a stray write can't reach another worker's row."""
    page = mmap.mmap(fd, ROW_BYTES, offset=number * ROW_BYTES)
    return memoryview(page).cast("Q")[: Cell.END]


def private_row() -> Row:
    """A row that nobody else sees, for code that serves without a master (tests, `holdfast check`)."""
    return memoryview(bytearray(ROW_BYTES)).cast("Q")[: Cell.END]
