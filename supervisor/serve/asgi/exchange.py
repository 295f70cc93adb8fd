"""One request to an ASGI 3 app (spec 2.5) and its messages back to the connection.

Invariant: one exchange is one request, one task and one answer; messages in an order that the spec forbids raise in the
app, at the send that broke it. What the app holds (`receive`, `send`) stays harmless after the answer is out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from supervisor.kernel.recorder import fitting
from supervisor.serve.access.trace import Trace
from supervisor.serve.asgi.extensions import (
    BODY,
    DONE,
    OFFERED,
    OFFERED_LEGACY,
    PROMISED,
    STARTED,
    UNDER_WAY,
    WAITING,
    ExtendedAnswer,
    Phase,
)
from supervisor.serve.asgi.interface import Message, Scope
from supervisor.serve.faults import ClientDisconnectedError, is_news_of_the_end
from supervisor.serve.http1.answer import AnswerError, Lines, frozen, render
from supervisor.serve.http1.familiar import Head
from supervisor.serve.http1.head import PERCENT, decode_path, mounted
from supervisor.serve.patience import arrival

if TYPE_CHECKING:
    from supervisor.serve.asgi.bridge import AsgiBridge
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.http1.ending import Ending

_NO_PIECES: list[bytes] = []  # of the body that a request has not; stays empty
_PIECE = 64  # bytes of memory that a piece of a body takes besides its own


class AsgiExchange(ExtendedAnswer):
    """One request, from its head to the end of the app's coroutine."""

    __slots__ = (
        "_body_done",
        "_bridge",
        "_half_closed",
        "_live",
        "_pieces",
        "_seat",
        "_task",
        "_told",
        "holds_body",
        "since",
    )

    since: float

    def __init__(self, bridge: AsgiBridge, connection: Connection, head: Head, keep: bool) -> None:
        # What Answer.__init__ does is written out: one call more is felt here.
        self.head = head
        self.keep = keep
        self.status = 0
        self.sent = 0
        self.trace = Trace(head.request, connection.origin is not None, bridge)
        waiting = bridge.turns.waiting
        self.since = waiting[-1].since if waiting else monotonic()  # who comes in one turn of the loop has come at once
        if connection.body is None:
            self._body_done = True
            self.holds_body = False
            self._pieces = _NO_PIECES
        else:
            self._body_done = False
            self.holds_body = head.request.expect_continue and not head.legacy
            self._pieces = []
        self._bridge = bridge
        self._connection = connection
        self._phase = WAITING
        self._lines: Lines
        self._seat: int | None = None  # in the recorder
        self._told = False  # the app has seen the end of the body
        self._gone = False
        self._half_closed = False
        self._live = False  # the app was told to begin and has not ended
        self._changed: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    # What the connection calls.

    def start(self) -> None:
        self._live = True
        turns = self._bridge.turns
        if turns.waiting:
            turns.waiting.append(self)
        else:
            turns.begin(self)

    def feed(self, data: bytes, done: bool) -> None:
        self.holds_body = False
        self._body_done = done
        pieces = self._pieces
        if data:
            pieces.append(data)
        if not done and sum(map(len, pieces)) + len(pieces) * _PIECE > self._connection.service.limits.read_ahead:
            self._connection.pause_reading()
        self._wake()

    def writable(self) -> None:
        self._wake()

    def half_closed(self) -> None:
        self._half_closed = True
        self._wake()

    def lost(self) -> None:
        self._gone = True
        self._pieces.clear()
        if self._live:
            self._wake()
        else:
            self._connection.tally.leave()

    def cancel(self) -> None:
        """The worker ends: so does the app's coroutine."""
        if self._task is not None:
            self._task.cancel("the worker's drain timeout is over")

    # What the line calls, where it waits for its turn.

    @property
    def gone(self) -> bool:
        return self._gone

    @property
    def is_ending(self) -> bool:
        return self._connection.eof

    @property
    def path(self) -> bytes:
        return self.head.path

    def queue(self) -> None:
        """It stands in line, and is not in flight."""
        connection = self._connection
        connection.tally.inflight -= 1
        self.since = arrival(connection, self.since)

    def unqueue(self) -> None:
        """Its turn has come."""
        self._connection.tally.inflight += 1

    def turn_away(self) -> None:
        """Its turn does not come."""
        self._live = False
        self._phase = DONE
        self._connection.turn_away()

    def pass_on(self, give: Callable[[Ending, bytes], bool]) -> bool:
        """Its turn comes with another worker, if `give` gives it there; whether it does."""
        if not self._connection.pass_on(give):
            return False
        self._live = False
        self._phase = DONE
        return True

    # What its turn calls.

    def has_task(self, task: asyncio.Task[None]) -> None:
        """The app's coroutine goes on in this task, or will begin in it."""
        self._task = task
        self._bridge.live.add(self)

    def waits(self) -> None:
        """The app's coroutine has returned to the loop for the first time, and will go on."""
        if self._seat is None:
            bridge = self._bridge
            self._seat = bridge.recorder.keep(self._connection.label, self.head.raw, self.since, self.trace.name)
            bridge.current.value = b""

    def ended(self, failure: BaseException | None) -> None:
        """The app's coroutine has returned, or raised this."""
        bridge = self._bridge
        self._live = False
        if self._task is not None:
            bridge.live.discard(self)
            if self._seat is not None:
                bridge.recorder.vacate(self._seat)
        if self._gone:
            self._connection.tally.leave()
        if failure is not None or self._phase is not DONE:
            self._fail(failure)
        if bridge.service.draining:
            bridge.service.check_empty()

    # What the app calls.

    async def receive(self) -> Message:
        """ASGI's receive: the body in pieces, then, when the client has gone or the answer is out, the disconnect."""
        while not (self._gone or self._told or self._pieces or self._body_done or self._phase is DONE):
            self._want_body()
            await self._change()
        if not (self._told or self._gone or self._phase is DONE):
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._told = self._body_done
            if not self._told:
                self._connection.resume_reading()
            return {"type": "http.request", "body": body, "more_body": not self._told}
        while not (self._gone or self._half_closed or self._phase is DONE):
            await self._change()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises `ClientDisconnectedError` (an OSError) once the client has gone."""
        if self._gone:
            raise ClientDisconnectedError("the client has gone")
        kind = message["type"]
        phase = self._phase
        if kind == "http.response.body" and (phase is STARTED or phase is BODY):
            body = message["body"] if "body" in message else b""  # noqa: SIM401  # half the time of `get`
            if "more_body" not in message or not message["more_body"]:
                if phase is STARTED:
                    self._answer(body)
                else:
                    self._finish(body)
                return
            self._stream(body)
            while self._connection.write_paused and not self._gone:  # `_drained`, written out
                await self._change()
        elif kind == "http.response.start" and phase is WAITING:
            status = message["status"]
            headers = message["headers"] if "headers" in message else ()  # noqa: SIM401  # as above
            lines = self.head.lines
            if lines is None or lines.fields != headers or lines.said != status:
                lines = self._render(status, headers)
            self._lines = lines
            self._phase = STARTED if "trailers" not in message or not message["trailers"] else PROMISED
        else:
            await self._extend(kind, message)

    # How it happens.

    def scope(self, bridge: AsgiBridge) -> Scope:
        """For the app, which is called now: from here on the request is on record."""
        connection = self._connection
        if connection.label is not bridge.client:  # the recorder's `enter`, written out
            bridge.client = connection.label
            bridge.recorder.introduce(connection.label)
        head = self.head
        try:
            bridge.current.value = head.raw
        except ValueError:
            bridge.current.value = fitting(head.raw)
        draft = head.draft
        if draft:
            scope = draft.copy()  # the app's own, as all that it could change
            scope["headers"] = draft["headers"].copy()
        else:
            scope = self._draft(bridge, head)
            if head.is_kept:
                head.draft = scope.copy()
                head.draft["headers"] = scope["headers"].copy()
        state = bridge.state
        scope["scheme"] = connection.scheme
        scope["client"] = connection.client
        scope["server"] = connection.server
        scope["state"] = state.copy() if state else {}
        scope["extensions"] = extensions = OFFERED.copy()
        if head.legacy:
            scope["http_version"] = "1.0"
            scope["extensions"] = extensions = OFFERED_LEGACY.copy()
        extensions["holdfast"] = self.trace
        if connection.tls is not None:
            extensions["tls"] = connection.tls.extension.copy()
        return scope

    def _render(self, status: int, headers: Any) -> Lines:
        """What the app has not answered to the same head the last time."""
        lines = render(status, headers)
        self.head.answered(lines)
        return lines

    def _draft(self, bridge: AsgiBridge, head: Head) -> Scope:
        """What the head alone says."""
        raw = head.path
        path = raw.decode("ascii") if PERCENT not in raw else decode_path(raw)
        root = bridge.root_path
        scope = bridge.scope.copy()  # filling in a copy costs less than building it
        scope["method"] = head.method
        scope["path"] = mounted(root, path) if root else path
        scope["raw_path"] = raw
        scope["query_string"] = head.query
        scope["headers"] = head.request.headers.to_list(lowercase_names=True)  # type: ignore[union-attr]
        return scope

    def _fail(self, failure: BaseException | None) -> None:
        """The app has ended without a whole answer, or raised after it."""
        if (self._gone or self._half_closed) and is_news_of_the_end(failure):
            if not (self._gone or self._phase is DONE):
                self._connection.abandon()  # whoever only half-closed has no answer to wait for any more
            return
        if failure is None:
            self._complain("the app returned without completing its answer")
        elif isinstance(failure, AnswerError):
            self._complain(str(failure))
        else:
            self._complain("the app raised an exception", failure)
        if self._gone or self._phase is DONE:
            return
        connection = self._connection
        if self._phase in UNDER_WAY:
            connection.cut()
            return
        at_odds = isinstance(failure, AnswerError)
        keep = self.keep and not at_odds and connection.body is None and not connection.must_close(self)
        self._done(self.own(500, connection.service.stamps, keep=keep))

    def _answer(self, body: bytes) -> None:
        """Head and whole body at once: the common answer."""
        connection = self._connection
        service = connection.service
        if (service.draining or connection.body is not None) and connection.must_close(self):
            self.keep = False
        lines = self._lines
        size = len(body)
        if lines.simple and size == lines.declared and self.head.is_plain and type(body) is bytes:
            self.status = lines.status  # `whole`, written out for the answer that most are
            self.sent = size
            stamp = service.stamps.last if self.keep else service.stamps.farewell
            data = (lines.head if lines.stamp is stamp else lines.stamped(stamp)) + body
        else:
            data, apart = self.whole(lines, body, service.stamps)
            if apart:
                connection.transport.writelines((data, apart))
                data = b""
        self._phase = DONE
        if self._changed is not None:
            self._changed.set()
        service.gathering.finish(connection, data)

    def _stream(self, body: bytes) -> None:
        if self._phase is BODY:
            data = self.more(body)
        else:
            body = frozen(body)
            data = self._open(BODY) + self.more(body)
        self._connection.stream(data)

    def _finish(self, body: bytes) -> None:
        self._done(self.more(body) + self.end())

    def _open(self, phase: Phase, size: int | None = None, *, chunked: bool = False) -> bytes:
        connection = self._connection
        if connection.service.draining and connection.must_close(self):
            self.keep = False
        head = self.begin(self._lines, connection.service.stamps, size, chunked=chunked)
        self._phase = phase
        return head

    def _want_body(self) -> None:
        if self.holds_body:
            self.holds_body = self._phase in UNDER_WAY  # where there is none any more
            self._connection.send_continue()
        self._connection.resume_reading()
