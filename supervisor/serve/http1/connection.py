"""One HTTP/1.1 connection: bytes in, requests to the app, answers out in order, and the end of it all; `state` has the
map.

Invariants. At most one request is with the app; bytes that come behind it wait in `_rest`, and reading stops once they
are more than `limits.read_ahead`. A connection in IDLE holds no parser, no bytes and no timer: its deadline is a number
that the service's sweep compares. Once our side has announced the end, it half-closes and reads on until the client's
end, for a reset would destroy an answer still on its way (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import zttp

from supervisor.serve.faults import complain
from supervisor.serve.http1.body import BodyError, ChunkedBody, SizedBody
from supervisor.serve.http1.ending import LEFT, Ending
from supervisor.serve.http1.familiar import LONGEST, SELDOM, Head, head_of
from supervisor.serve.http1.head import (
    HASH,
    HEAD_END,
    LARGE_BODY,
    METHODS,
    SLASH,
    Refusal,
    Target,
    fields,
    judge,
    judge_partial,
    judge_size,
    known_hosts,
    refusal_of,
    skip_empty_lines,
)
from supervisor.serve.http1.state import BUSY, CLOSED, CLOSING, HEAD, IDLE, NEXT, SKIP
from supervisor.serve.limits import NEVER
from supervisor.serve.tally import FINISHED, STARTED

if TYPE_CHECKING:
    from supervisor.serve.exchange import Opener
    from supervisor.serve.http1.sendfile import FilePart


class Connection(Ending):
    """Drives one client's bytes. An exchange writes through `transport`, and ends with `finish` or `cut`."""

    __slots__ = ()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.service.introduce(self, "http")

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is IDLE:
            service = self.service
            head = service.find_head(data) if len(data) <= LONGEST else None
            if head is None:
                self._take(data, 0)
                return
            # What `_take` does for the ordinary request, written out as it is there.
            self.state = BUSY
            self.expires = NEVER
            tally = self.tally
            tally.inflight += 1
            tally.row[STARTED] = tally.started = tally.started + 1
            origin = self.origin
            if origin is not None and (head.names_others or origin.told):
                origin.look_through(self, head.request)
            self._last = last = head.last
            self.exchange = exchange = service.open(self, head, not last)
            exchange.start()
        elif state is HEAD:
            held = self._rest
            self._take(held + data, len(held))
        elif state is not CLOSING:
            if self.body is not None:
                self._feed(self.body, data)
            else:
                self._rest += data
                self._hold_back()

    def go_on_with(self, unread: bytes) -> None:
        """Another worker has read this before it handed the connection over."""
        if self.state is IDLE:
            self.data_received(unread)

    def eof_received(self) -> bool:
        """A half-closed client still gets its answers (True keeps the transport), any other end is the end."""
        self.eof = True
        if self.body is not None or self.state not in (BUSY, NEXT):
            self._post()
            return False
        if self.state is BUSY and not self.is_stuck():
            self.expires = self.service.tick + self.service.half_closed_ticks
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.state = CLOSED
        self.expires = NEVER
        self.outgoing.clear()
        if self.file is not None:
            self.drop_file()
        self._rest = b""
        self.body = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._log(exchange, LEFT)
            self.tally.finish()
            exchange.lost()
        self.service.forget(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.state is BUSY:
            self.expires = self.service.tick + self.service.write_idle_ticks

    def resume_writing(self) -> None:
        if self.file is not None:
            self.file.go_on()
            return
        super().resume_writing()
        if self.state is BUSY:
            self._await_body()
        if self._flushing:
            self._flushing = False
            self.finish()
        elif self.exchange is not None:
            self.exchange.writable()

    # Reading requests.

    def _take(self, data: bytes, fresh: int) -> None:
        """Read a head from the start of `data`, whose bytes before `fresh` were looked at before."""
        if data[0] == 13:
            data, fresh = skip_empty_lines(data), 0
            if not data:
                self._await_request()
                return
        end = data.find(HEAD_END, fresh - 3 if fresh > 3 else 0) + 4
        if end == 3:
            self._wait_for_head(data, fresh)
            return
        raw, self._rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        service = self.service
        if end > service.small_head and (refusal := judge_size(raw, service.limits)):
            self._refuse(refusal, raw)
            return
        parser = service.parser
        try:
            request: zttp.Request = parser.receive_event(raw)  # type: ignore[assignment]
        except zttp.RemoteProtocolError as error:
            service.parser = zttp.Connection(zttp.SERVER)
            refusal = judge_partial(raw, 0, service.limits) or refusal_of(raw, "size limit" in str(error))
            self._refuse(refusal, raw)
            return
        self._last = last = parser.should_close()
        # What `judge` and `_begin` do for the ordinary request without a body, written out: each call would be felt.
        target = request.target
        if (
            request.end_stream
            and target[0] == SLASH
            and request.http_version == b"1.1"
            and (method := METHODS.get(request.method)) is not None
            and target.isascii()
            and HASH not in target
            and (get := request.headers.get)(b"host") in known_hosts  # type: ignore[union-attr]
            and get(b"content-length") is None  # else it may be 0 several times
            and parser.upgrade() is None
        ):
            parser.start_next_cycle()
            self.state = BUSY
            self.expires = NEVER if not self.eof else service.tick + service.half_closed_ticks
            tally = self.tally  # its `start`
            tally.inflight += 1
            tally.row[STARTED] = tally.started = tally.started + 1
            head_only, more = method == "HEAD", len(request.headers) > 1
            path, query, plain = request.path, request.query, not head_only
            head = Head(raw, request, method, path, query, last, head_only, False, plain, more, more)
            origin = self.origin
            if origin is not None and (more or origin.told):  # with Host alone nobody is named
                origin.look_through(self, request)
            if self._rest:
                self._hold_back()
            self.exchange = exchange = service.open(self, head, not last)
            exchange.start()
            if not tally.started & SELDOM:
                service.heads.note(head)
        else:
            self._take_unusual(raw, request, judge(request), parser)

    def _wait_for_head(self, data: bytes, fresh: int) -> None:
        refusal = judge_partial(data, fresh, self.service.limits)
        if refusal is not None:
            self._refuse(refusal, data)
            return
        if self.state is not HEAD:
            self.state = HEAD
            deadline = self.service.tick + self.service.head_ticks
            self.expires = deadline if data != b"\r" else min(deadline, self.expires)  # half an empty line is no head
        self._rest = data
        if self.eof:
            self._close()

    def _take_unusual(
        self, raw: bytes, request: zttp.Request, verdict: Target | Refusal | None, parser: zttp.H1Connection
    ) -> None:
        opener = self.service.opener(request, parser.upgrade())
        if request.end_stream:
            parser.start_next_cycle()
        else:
            self.service.parser = zttp.Connection(zttp.SERVER)
        if isinstance(verdict, Refusal):
            self._refuse(verdict, request.method + b" ")
            return
        path, query = (request.path, request.query) if verdict is None else verdict
        if not request.end_stream:
            length, limits = fields(request).get(b"content-length"), self.service.limits
            if length is not None and int(length) > limits.body:
                self._refuse(LARGE_BODY, request.method + b" ")
                return
            self.body = ChunkedBody(limits) if length is None else SizedBody(int(length))
        self._begin(head_of(raw, request, path, query, self._last), opener)

    def _begin(self, head: Head, opener: Opener) -> None:
        self.state = BUSY
        self.expires = NEVER if not self.eof else self.service.tick + self.service.half_closed_ticks
        self.tally.start()
        if self.origin is not None:
            self.origin.look_through(self, head.request)
        self.exchange = exchange = opener(self, head, not self._last)
        if self.body is not None:
            if not exchange.holds_body:
                self._await_body()
            if self._rest:
                rest, self._rest = self._rest, b""
                self._feed(self.body, rest)
                if self.exchange is not exchange:
                    return
            if self.eof and self.body is not None:
                self.transport.close()  # the rest does not come (RFC 9112 section 6.3)
                return
        else:
            self._hold_back()
        exchange.start()

    def _feed(self, body: SizedBody | ChunkedBody, data: bytes) -> None:
        try:
            piece, self._rest = body.feed(data)
        except BodyError as error:
            self._refuse_body(error.refusal)
            return
        done = not body.remaining
        if done:
            self.body = None
            self._hold_back()
        self._await_body()
        if self.exchange is not None:
            self.exchange.feed(piece, done)
        elif done:
            self._ready()

    def _hold_back(self) -> None:
        """What has come behind the request may be enough."""
        if len(self._rest) > self.service.limits.read_ahead:
            self.pause_reading()

    # Ending answers.

    def finish(self, data: bytes = b"") -> None:
        """The answer is complete with `data`."""
        if self.outgoing:
            self.outgoing.append(data)
            self.flush()
        elif data:
            self.transport.write(data)
        if self.write_paused:
            self._flushing = True
            return
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        tally = self.tally  # its `answered`
        tally.row[FINISHED] = tally.finished = tally.finished + 1
        inflight = tally.inflight
        tally.inflight = inflight - 1
        if exchange.status >= 400 or inflight == tally.capacity:
            tally.notable(exchange.status)
        service = self.service
        if service.access is not None:
            service.access.record(self.client, exchange)
        if not exchange.keep:
            # A client that announced the end itself sends nothing that a reset could hit.
            if self._last and not self._rest and self.body is None:
                self._close()
            else:
                self._linger()
        elif self.body is None:
            if self._rest or self.eof or service.roster.dismisses_idle or not self._reading:
                self._ready()
            else:
                self.state = IDLE
                self.expires = service.tick + service.keepalive_ticks
        elif self._can_skip(exchange):
            self.state = SKIP
            self.resume_reading()
            self._await_body()
        else:
            self._linger()

    def finish_with_file(self, head: bytes, part: FilePart) -> None:
        """The answer is complete with `head` and `part` of a file, which is closed then."""
        self.stream(head)
        self.send_file(part, self._file_failed)
        if self.exchange is not None:
            self.finish()

    def _file_failed(self, why: str) -> None:
        exchange = self.exchange
        if exchange is not None:
            complain(exchange.head.method, exchange.head.request.target, why)
        self.cut()

    def _ready(self) -> None:
        """Ready for the next request, which may be here already."""
        service = self.service
        if self._rest:
            self.state = NEXT
            self.expires = NEVER
            service.loop.call_soon(self._next, context=service.context)
            return
        self.state = IDLE
        self.expires = service.tick + service.keepalive_ticks
        if self.eof:
            self._close()
            return
        if not self._reading:
            self.resume_reading()
        if service.roster.dismisses_idle:
            service.roster.dismiss(self)

    def _await_request(self) -> None:
        """Only empty lines have come, which are no request and win no time for one."""
        deadline = self.expires
        self._rest = b""
        self._ready()
        if self.state is IDLE:
            self.expires = min(self.expires, deadline)

    def _next(self) -> None:
        if self.state is NEXT:
            self.state = IDLE
            self.resume_reading()
            self._take(self._rest, 0)

    def turn_away(self) -> None:
        """Answer the request under way, which the app has not seen, with 503. Whoever does not even take that, or has a
        body still to send, is let go."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        service = self.service
        keep = exchange.keep and self.body is None and not (exchange.head.legacy or self.must_close(exchange))
        self.transport.write(exchange.own(503, service.stamps, keep=keep, fields=service.retry_after))
        self.tally.turned_away()
        if service.access is not None:
            service.access.record(self.client, exchange)
        if keep and not self.write_paused:
            self._ready()
        else:
            self._linger()


def finish_all(connections: list[Connection]) -> None:
    """`finish` for connections of one service whose answers are written; what most need of it is written out."""
    tally, service = connections[0].tally, connections[0].service
    access, done = service.access, 0
    for connection in connections:
        exchange = connection.exchange
        if exchange is None:
            continue
        if (
            connection.tally is not tally  # a probe has its own
            or connection.write_paused
            or not exchange.keep
            or exchange.status >= 400
            or connection.body is not None
            or connection._rest
            or connection.eof
            or service.roster.dismisses_idle
            or not connection._reading
        ):
            connection.finish()
            continue
        connection.exchange = None
        done += 1
        if access is not None:
            access.record(connection.client, exchange)
        connection.state = IDLE
        connection.expires = service.tick + service.keepalive_ticks
    if done:
        tally.answered_all(done)
