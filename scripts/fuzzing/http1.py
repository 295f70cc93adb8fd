"""Any bytes to a connection: what its app is asked and what its client is told must be what a second reading says.

Invariant of a run: no exception leaves a callback; the app sees exactly the requests of `tests.serve.reading`, whatever
the cuts; what is written is answers, one for each at most; nothing follows a refusal; and when the client has gone,
nothing is left of it.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import NamedTuple

from fuzzing.apps import Apps, Asking
from fuzzing.plan import Plan, split, written
from supervisor.serve import gathering
from supervisor.serve.http1 import connection as reader
from supervisor.serve.http1.connection import Connection
from supervisor.serve.limits import Limits
from supervisor.serve.newcomers import SOON
from tests.serve.answers import Answered, read_answers
from tests.serve.cases import load
from tests.serve.reading import Asked, End, Reading, read
from tests.serve.stepped import Client, Wired

TIGHT = Limits(
    request_line=64,
    head=256,
    fields=6,
    body=100,
    keepalive_requests=5,
    read_ahead=128,
    discard=16,
    chunk_overhead=64,
    memory_body=64,
    first_byte=1,
    head_timeout=1,
    body_idle=1,
    write_idle=1,
    half_closed=1,
    closing=1,
    keepalive=1,
)
vars(reader)["SELDOM"] = 0  # every head that may be kept is noted
gathering.CLOSE = math.inf  # every second answer waits for the end of its turn

PATIENCE = 8  # seconds after which every deadline of TIGHT has passed, one after another

ENDS, WSGI, PLANNED, STEPPED, TIGHTLY, WAITS, SLOW, EARLY = range(8)  # bits of a plan's flags
REFUSALS = frozenset((400, 408, 413, 414, 431, 501, 505))

GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
MAX_SEED = 1000

TOKENS = (
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS * ", b"CONNECT a:80 ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"HTTP/1.2",
    b"Host: a\r\n", b"Host: ", b"Content-Length: ", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: ", b"chunked", b"gzip, ", b"identity", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Expect: 100-continue\r\n", b"TE: trailers\r\n", b"X: ",
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\n\n", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b" ", b"\t",
    b" :", b": ", b"0\r\n\r\n", b"3\r\nabc\r\n", b"3;a=b\r\nabc\r\n", b';a="b\\"c"', b"http://a/", b"https://",
    b"[::1]", b":80", b"%41", b"#", b"?", b"0x", b"+", b"-1", b"ffffffffffffffff", b"18446744073709551615", b"00", b",",
)  # fmt: skip
_PLANS = (
    written(),
    written(STEPPED, ENDS, cuts=b"\xff"),
    written(STEPPED, WSGI, cuts=b"\xff"),
    written(PLANNED, STEPPED, TIGHTLY, WAITS, cuts=b"\x4c", acts=bytes((8, 2, 130, 3))),
    written(EARLY),
    written(EARLY, STEPPED, ENDS, cuts=b"\x4c"),
    written(EARLY, PLANNED, STEPPED, SLOW, setting=1, cuts=b"\xc0", acts=b"\x02", room=3),
    written(PLANNED, STEPPED, SLOW, setting=1, cuts=b"\xc0", acts=b"\x02", room=3),
    written(PLANNED, SLOW, ENDS, setting=1, cuts=b"\x4c", acts=bytes((9, 1, 2, 3, 4, 5)), room=9, pace=9),
)

apps = Apps()
_services: dict[tuple[bool, bool], Wired] = {}


class Outcome(NamedTuple):
    """What a run came to; `asked` are the requests that the app saw to their end. Why the server refuses something it
    may find out sooner or later: only the status of a refusal must not depend on the cuts."""

    asked: list[Asked]
    answers: list[tuple[int, bytes]]
    is_over: bool


def service(*, wsgi: bool, tight: bool) -> Wired:
    """One for each kind, made when first needed."""
    wired = _services.get((wsgi, tight))
    if wired is None:
        limits = TIGHT if tight else None
        wired = Wired(apps.wsgi, "wsgi", limits=limits) if wsgi else Wired(apps.asgi, limits=limits)
        wired.start()
        _services[wsgi, tight] = wired
    return wired


def check(data: bytes) -> None:
    """Raises AssertionError, or whatever the server lets through."""
    plan, wire = split(data)
    reading = read(wire, switches=not plan.has(WSGI))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        if plan.has(PLANNED):
            _check_planned(plan, wire, reading)
        else:
            _check_echo(plan, wire, reading)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("holdfast:")]
    assert len(lines) <= 3 * (len(reading.asked) + 1), lines  # it was tried three times at most


def _check_echo(plan: Plan, wire: bytes, reading: Reading) -> None:
    """An app that reads all and then answers: the outcome is known."""
    wired = service(wsgi=plan.has(WSGI), tight=plan.has(TIGHTLY))
    whole = _outcome(wired, plan._replace(flags=plan.flags & ~(1 << EARLY)), [wire], reading)
    pieces = plan.pieces(wire)
    if len(pieces) > 1 or plan.has(EARLY):
        cut = _outcome(wired, plan, pieces, reading)
        assert cut == whole, f"cut {cut} != whole {whole}"
    else:
        for _ in range(2):  # noted the first time, kept the second, found the third
            again = _outcome(wired, plan, [wire], reading)
            assert again == whole, f"again {again} != first {whole}"
    if not plan.has(TIGHTLY):
        _hold_against(reading, whole, wsgi=plan.has(WSGI))


def _outcome(wired: Wired, plan: Plan, pieces: list[bytes], reading: Reading) -> Outcome:
    apps.begin(None)
    client = wired.connect(first=pieces.pop(0) if plan.has(EARLY) and pieces else b"")
    for piece in pieces:
        client.send(piece)
        if plan.has(STEPPED):
            wired.settle()
    wired.settle()
    if plan.has(ENDS):
        client.end()
        wired.settle()
    is_over = client.ended or client.closed
    answers = _answers(client, reading)
    _leave(wired, client)
    return Outcome(
        [asking.asked for asking in apps.seen if asking.whole],
        [(each.status, b"" if each.status in REFUSALS else each.body) for each in answers],
        is_over,
    )


def _answers(client: Client, reading: Reading) -> list[Answered]:
    answers, rest = read_answers(bytes(client.received), reading.methods, ended=client.ended or client.closed)
    assert not rest
    if answers and answers[-1].status == 0 and answers[-1].interim == (100,):
        answers.pop()  # told to go on, and went
    assert all(each.whole for each in answers), f"half an answer: {answers}"
    refused = [number for number, each in enumerate(answers) if each.status in REFUSALS]
    assert refused in ([], [len(answers) - 1]), f"something follows a refusal: {answers}"
    if refused:
        assert (b"connection", b"close") in answers[-1].headers
        assert client.ended or client.closed, "a refusal, and the connection lives on"
    assert len(answers) <= len(reading.asked) + 1, "more answers than requests"
    return answers


def _hold_against(reading: Reading, outcome: Outcome, *, wsgi: bool) -> None:
    wanted = reading.asked[:-1] if reading.end is End.SWITCHES else reading.asked
    seen = outcome.asked[: len(wanted)]
    if wsgi:
        assert [(a.method, a.body) for a in seen] == [(a.method, a.body) for a in wanted], f"{seen} != {wanted}"
    else:
        assert seen == wanted, f"seen {seen} != asked {wanted}"
    statuses = [status for status, _ in outcome.answers]
    assert statuses[: len(wanted)] == [200] * len(wanted), statuses
    last = statuses[len(wanted) :]
    if reading.end in (End.CLEAN, End.CLOSED):
        assert last == [], last
        assert outcome.is_over or reading.end is End.CLEAN
    elif reading.end is End.SWITCHES:
        assert last in ([403], [400], [426]), last
    elif last:
        assert last[0] in REFUSALS, last
    assert len(outcome.asked) <= len(reading.asked), "a request that nobody asked"


def _check_planned(plan: Plan, wire: bytes, reading: Reading) -> None:
    """An app that does anything, a client that is slow or goes: only the order of things is known."""
    wired = service(wsgi=plan.has(WSGI), tight=plan.has(TIGHTLY))
    apps.begin(plan)
    pieces = plan.pieces(wire)
    first = pieces.pop(0) if plan.has(EARLY) and pieces else b""
    client = wired.connect(room=plan.room * 16 if plan.has(SLOW) else 1 << 40, first=first)
    for piece in pieces:
        client.send(piece)
        if plan.has(STEPPED):
            wired.settle()
            _hold_bounds(wired, client)
        if plan.has(SLOW):
            client.take(plan.pace * 16)
    wired.settle()
    _hold_bounds(wired, client)
    if plan.has(ENDS):
        client.end()
        wired.settle()
    if plan.setting & 1:
        client.take(1 << 40)
        wired.settle()
    if plan.has(WAITS) and plan.has(TIGHTLY):
        _wait(wired, client)
    elif client.room:
        _answers_of_a_plan(client, reading)
    _hold_asked(reading, wsgi=plan.has(WSGI))
    _leave(wired, client)


def _answers_of_a_plan(client: Client, reading: Reading) -> None:
    if client.was_cut:
        return
    answers, _rest = read_answers(bytes(client.received), reading.methods, ended=client.ended or client.closed)
    assert len(answers) <= len(reading.asked) + 1, "more answers than requests"


def _hold_asked(reading: Reading, *, wsgi: bool) -> None:
    """The app has seen a beginning of what was asked, and of the last request a beginning."""
    wanted = reading.asked + ([reading.begun] if reading.begun is not None else [])
    assert len(apps.seen) <= len(wanted), f"{[a.asked for a in apps.seen]} were never asked"
    for asking, asked in zip(apps.seen, wanted, strict=False):
        _hold_one(asking, asked, wsgi=wsgi)


def _hold_one(asking: Asking, asked: Asked, *, wsgi: bool) -> None:
    seen = asking.asked
    assert seen.method == asked.method
    if not wsgi:
        assert seen._replace(body=b"") == asked._replace(body=b""), f"{seen} was asked as {asked}"
    assert not asked.body or asked.body.startswith(seen.body)


def _hold_bounds(wired: Wired, client: Client) -> None:
    """What waits, for the rest of a head or a line or for the app, is within the limits, but for the last read, and for
    the first, behind which a transport that comes then may read once."""
    limits = wired.service.limits
    slack = client.largest_first + (client.transport.largest_read if client.transport is not None else 0)
    for connection in wired.service.roster:
        assert isinstance(connection, Connection)
        assert len(connection._rest) <= max(limits.head, limits.read_ahead) + slack
        assert len(getattr(connection.body, "_held", b"")) <= limits.chunk_overhead
        exchange = connection.exchange
        assert sum(map(len, getattr(exchange, "_pieces", ()))) <= limits.read_ahead + slack
        gathered = getattr(exchange, "_gathered", None)
        assert gathered is None or sum(map(len, gathered.pieces)) <= limits.memory_body


def _wait(wired: Wired, client: Client) -> None:
    """A client that does nothing more is let go, whatever the app waits for, unless that is the app's own time."""
    for _ in range(PATIENCE * 2):
        wired.advance(0.5)
    if not wired.service.bridge.is_running():
        assert client.closed or client.ended, "a client that does nothing is kept"
    _hold_bounds(wired, client)


def _leave(wired: Wired, client: Client) -> None:
    client.reset()
    wired.settle()
    for _ in range(2):
        wired.advance(SOON)  # after which a fresh connection's client is watched
    wired.assert_idle()


def seeds() -> Iterator[bytes]:
    """The corpus: read whole, and in the modes that it is not read in by the tests."""
    for case in load():
        if len(case.wire) < MAX_SEED:
            for head in _PLANS:
                yield head + case.wire
            yield _PLANS[0] + GOOD + case.wire + GOOD
