"""The process that makes a `tests.processes.load.Load`, on plain sockets: faults are seen as the kernel tells them.

Invariant: a request is entered in the tally exactly once, when its answer is whole or its loss is known, and nothing
hides a fault: no library that retries, no pool that drops connections by itself.

Standard output carries one line for each command read from standard input: `started` at first, then a JSON report for
`snapshot`, `window` and `stop`; any other line is why the load itself could not go on. End of input ends the process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Literal

from tests.processes.load import LOSSES, LoadError, Loss, Plan, Report
from tests.processes.load_connection import PIECE_PAUSE_S, Answer, Connection, LostError

BODY_SIZES = (1, 200, 4096, 65536)  # of the POSTs, in turn
SLOW_EVERY = 8  # each so many POSTs are sent in two halves, so that uploads are always in progress
AFTER_LOSS_S = 0.01  # a client that lost a request waits this long, lest a dead server is counted a million times
LATENCY_STEP_S = 50e-6  # the resolution of the latencies
HEARTBEAT_S = 0.005
LOSSES_KEPT = 20

Turn = Literal["connects", "reconnects", "closed_idle", "closed_politely"]


class Tally:
    """Counts and times of one window. Times are `time.monotonic()`."""

    def __init__(self, began: float, last_answer: float) -> None:
        self._began = began
        self.last_answer = last_answer
        self.report = Report(lost_by=dict.fromkeys(LOSSES, 0))
        self._gap_began = last_answer
        self._latencies: Counter[int] = Counter()
        self.turns: Counter[Turn] = Counter()
        self._pids: Counter[str] = Counter()
        self._releases: Counter[str] = Counter()

    def answered(self, now: float, latency: float, headers: dict[str, str]) -> None:
        self._note_gap(now)
        self.last_answer = now
        self.report.requests += 1
        self.report.ok += 1
        self._latencies[int(latency / LATENCY_STEP_S)] += 1
        self.report.max_s = max(self.report.max_s, latency)
        for counts, name in ((self._pids, "x-pid"), (self._releases, "x-release")):
            if name in headers:
                counts[headers[name]] += 1

    def lost(self, kind: Loss, reused: bool, what: dict[str, object]) -> None:
        self.report.requests += 1
        self.report.lost += 1
        self.report.lost_by[kind] += 1
        self.report.lost_reused += reused
        if len(self.report.losses) < LOSSES_KEPT:
            self.report.losses.append(what)

    def close(self, now: float, start: float) -> Report:
        """The report as of now: a gap that is still open counts."""
        self._note_gap(now)
        report = self.report
        report.seconds = now - self._began
        report.requests_per_s = report.ok / report.seconds if report.seconds > 0 else 0.0
        report.longest_gap_at_s = self._gap_began - start
        report.connects, report.reconnects = self.turns["connects"], self.turns["reconnects"]
        report.closed_idle, report.closed_politely = self.turns["closed_idle"], self.turns["closed_politely"]
        report.p50_s, report.p99_s = self._percentile(0.50), self._percentile(0.99)
        report.pids, report.releases = dict(self._pids), dict(self._releases)
        return report

    def _note_gap(self, now: float) -> None:
        if now - self.last_answer > self.report.longest_gap_s:
            self.report.longest_gap_s = now - self.last_answer
            self._gap_began = self.last_answer

    def _percentile(self, share: float) -> float:
        """The latency that this share of the answers did not pass, by nearest rank, to one step's precision."""
        rank = share * self._latencies.total()
        steps = sorted(self._latencies)
        for step, so_far in zip(steps, itertools.accumulate(self._latencies[step] for step in steps), strict=True):
            if so_far >= rank:
                return (step + 1) * LATENCY_STEP_S
        return 0.0


@dataclass
class Requests:
    """The requests one client makes, one after the other: all different, so that a mixed-up answer is found out."""

    plan: Plan
    client: int
    says_close: bool
    made: int = 0
    posts: int = field(init=False)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.posts = self.client  # so that the clients do not send the same sizes in step
        self.chance = random.Random(self.client)

    def next(self) -> tuple[str, list[bytes], bytes | None]:
        """Method, the pieces to send, and the body that has to come back (None: any)."""
        self.made += 1
        token = b"%d-%d" % (self.client, self.made)
        ending = b"host: localhost\r\n" + (b"connection: close\r\n" if self.says_close else b"")
        path = self.plan.path.encode()
        if not self.plan.echo:
            return "GET", [b"GET %b HTTP/1.1\r\n%b\r\n" % (path, ending)], None
        if self.chance.random() >= self.plan.posts:
            return "GET", [b"GET %b?%b HTTP/1.1\r\n%b\r\n" % (path, token, ending)], token
        self.posts += 1
        size = BODY_SIZES[self.posts % len(BODY_SIZES)]
        body = (token * (size // len(token) + 1))[:size]
        head = b"POST %b HTTP/1.1\r\n%bcontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % (path, ending, size)
        if self.posts % SLOW_EVERY == 0:
            return "POST", [head + body[: size // 2], body[size // 2 :]], body
        return "POST", [head + body], body


class Books:
    """The tally of everything and that of the present window, and when the load began and ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start = time.monotonic()
        self._ended: float | None = None
        self._begun = 0
        self._all = Tally(self._start, self._start)
        self._window = Tally(self._start, self._start)

    def admits_another(self) -> bool:
        """True when one more request is to be made, which is then counted as begun."""
        if time.monotonic() - self._start >= self._plan.max_seconds or self._begun >= self._plan.max_requests:
            self.end()
        self._begun += self._ended is None
        return self._ended is None

    def end(self) -> None:
        """No new requests, and no gap is counted from here on; those under way are still entered."""
        self._ended = self._ended or time.monotonic()

    def now(self) -> float:
        return self._ended or time.monotonic()

    def tallies(self) -> tuple[Tally, Tally]:
        return self._all, self._window

    def so_far(self) -> Report:
        return self._all.close(self.now(), self._start)

    def next_window(self) -> Report:
        report = self._window.close(self.now(), self._start)
        self._window = Tally(self.now(), self._window.last_answer)
        return report

    def turn(self, turn: Turn) -> None:
        for tally in self.tallies():
            tally.turns[turn] += 1

    def answered(self, latency: float, headers: dict[str, str]) -> None:
        for tally in self.tallies():
            tally.answered(self.now(), latency, headers)

    def lost(self, kind: Loss, reused: bool, what: dict[str, object]) -> None:
        for tally in self.tallies():
            tally.lost(kind, reused, {"at_s": round(time.monotonic() - self._start, 3), "kind": kind} | what)

    def stalled(self, seconds: float) -> None:
        for tally in self.tallies():
            tally.report.client_stall_s = max(tally.report.client_stall_s, seconds)


class Client:
    """Makes one request after the other. A `fresh` one opens a connection for each, the others keep theirs."""

    def __init__(self, plan: Plan, number: int, fresh: bool, books: Books) -> None:
        self._plan = plan
        self._fresh = fresh
        self._rest_s = 0.0 if fresh or (number % 2 and not plan.all_rest) else plan.pause_s
        self._requests = Requests(plan, number, says_close=fresh and number % 2 == 0)
        self._books = books
        self._connection: Connection | None = None
        self._has_connected = False

    async def run(self) -> None:
        while self._books.admits_another():
            if self._connection is not None and self._connection.is_closed():
                self._books.turn("closed_idle")
                self._drop()
            reusable = await self._request()
            if self._fresh or not reusable:
                self._drop()
            if self._rest_s:
                await asyncio.sleep(self._requests.chance.uniform(0, 2 * self._rest_s))
        self._drop()

    async def _request(self) -> bool:
        """One request, entered in the books. Returns whether the connection can take another."""
        method, pieces, expected = self._requests.next()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                if self._connection is None:
                    self._connection = await Connection.open(self._plan.address)
                    self._books.turn("connects")
                    if self._has_connected and not self._fresh:
                        self._books.turn("reconnects")
                    self._has_connected = True
                answer = await self._connection.exchange(pieces)
            _check(answer, expected)
        except (LostError, TimeoutError) as error:
            self._lose("timeout" if isinstance(error, TimeoutError) else error.kind, method, str(error))
            await asyncio.sleep(AFTER_LOSS_S)
            return False
        own_pauses_s = PIECE_PAUSE_S * (len(pieces) - 1)
        self._books.answered(max(0.0, time.monotonic() - began - own_pauses_s), answer.headers)
        if not answer.reusable and not self._requests.says_close:
            self._books.turn("closed_politely")
        return answer.reusable

    def _lose(self, kind: Loss, method: str, detail: str) -> None:
        earlier = self._connection.answers if self._connection else 0
        unheard = self._connection is not None and not self._connection.heard
        self._books.lost(kind, earlier > 0 and unheard, {"method": method, "earlier": earlier, "detail": detail})

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _check(answer: Answer, expected: bytes | None) -> None:
    if answer.status >= 500:
        raise LostError("5xx", f"status {answer.status}: {answer.body[:80]!r}")
    if not 200 <= answer.status < 300:
        raise LostError("wrong", f"status {answer.status}: {answer.body[:80]!r}")
    if expected is not None and answer.body != expected:
        raise LostError("wrong", f"a body of {len(answer.body)} bytes, {answer.body[:40]!r}; not {expected[:40]!r}")


async def make_load(plan: Plan, books: Books) -> None:
    """All clients, until the books are closed. Raises `LoadError`, alone or in a group."""
    heartbeat = asyncio.create_task(_heartbeat(books))
    connections = max(1, plan.connections)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(connections):
                client = Client(plan, number, number < round(connections * plan.fresh), books)
                group.create_task(client.run())
    finally:
        heartbeat.cancel()
        books.end()


async def _heartbeat(books: Books) -> None:
    """Notes how long this very process was kept from running: what it can't be sure the server is to blame for."""
    while True:
        due = time.monotonic() + HEARTBEAT_S
        await asyncio.sleep(HEARTBEAT_S)
        books.stalled(time.monotonic() - due)


async def obey(plan: Plan) -> None:
    """Make the load, and answer the commands that come on standard input. Raises what `make_load` raises."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    books = Books(plan)
    load = asyncio.create_task(make_load(plan, books))
    print("started", flush=True)
    while command := (await commands.readline()).strip():
        if command == b"stop":
            books.end()
            await load
        if load.done():
            load.result()  # a fault of the load itself is the answer
        print(json.dumps(asdict(books.next_window() if command == b"window" else books.so_far())), flush=True)


def main() -> int:
    """The process: one argument, the plan as JSON."""
    try:
        asyncio.run(obey(Plan(**json.loads(sys.argv[1]))))
    except* LoadError as faults:
        fault: BaseException = faults
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        print(fault, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
