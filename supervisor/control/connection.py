"""One client of the control API: bytes through h11, whole requests to `respond`, answers and events back.

Invariant: nothing a client does blocks or grows the master. What it sends is read in small pieces and bounded, one
request is answered in a step of the lane, no more is read before that answer has left, what takes long to make is made
in `Slices`, and every phase ends:

    READING    a whole request has to arrive          within REQUEST_TIMEOUT
    MAKING     the answer is made, a slice at a time  as long as it takes, which ends by itself
    WAITING    somebody else makes the answer         as long as it takes, which whoever makes it bounds
    ANSWERING  the answer leaves                      some of it every STUCK_TIMEOUT
    STREAMING  events leave as they happen            some of them every STUCK_TIMEOUT, when there are any
    LINGERING  the last answer has left, the client's rest is thrown away, so that the kernel does not answer it
               with a reset before the client has read why (RFC 9112, section 9.6)   for LINGER_TIMEOUT
"""

from __future__ import annotations

import contextlib
import enum
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.control.backlog import Backlog
from supervisor.control.feed import dropped_line
from supervisor.control.routes import NDJSON, Answer, Follow, Gradual, Later, Reply, Request, error, mishap
from supervisor.control.slices import Slices
from supervisor.errors import RefusedError
from supervisor.kernel.lane import Lane
from supervisor.kernel.reactor import Timer

if TYPE_CHECKING:
    import h11
else:
    from supervisor.control.loading import h11

READ_BYTES = 1024  # a body in chunks of one byte each takes 0.7 ms to parse; also how far a head may pass MAX_HEAD
MAX_HEAD = 16 * 1024
MAX_FIELDS = 100  # in a head, about: h11 has no limit, and takes 4 ms for what fits into MAX_HEAD
MAX_TRAILER = 1024
MAX_BODY = 64 * 1024
MAX_PIECE = 64 * 1024  # of a stream of events, framed at once
REQUEST_TIMEOUT = 5.0
STUCK_TIMEOUT = 30.0
LINGER_TIMEOUT = 1.0

Respond = Callable[[Request], Reply]
Subscribe = Callable[[Callable[[bytes], None]], Callable[[], None]]


class Phase(enum.Enum):
    """Where a connection stands; see the module's docstring."""

    READING = enum.auto()
    MAKING = enum.auto()
    WAITING = enum.auto()
    ANSWERING = enum.auto()
    STREAMING = enum.auto()
    LINGERING = enum.auto()
    CLOSED = enum.auto()


class Connection:
    """Owns its socket until `on_closed(self)`."""

    def __init__(
        self,
        sock: socket.socket,
        lane: Lane,
        respond: Respond,
        subscribe: Subscribe,
        on_closed: Callable[[Connection], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lane = lane
        self._respond = respond
        self._subscribe = subscribe
        self._on_closed = on_closed
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._phase = Phase.READING
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._wire = bytearray()  # framed, not yet taken by the kernel
        self._slices: Slices | None = None  # of an answer that is made, or of what a stream begins with
        self._made = bytearray()
        self._backlog = Backlog(dropped_line)
        self._unsubscribe: Callable[[], None] | None = None
        self._flush_planned = False
        self._last = False  # the server is closing: nothing more is read
        self._due: float | None = None
        self.since = lane.now()  # when the client last did what it had to do next
        self.has_asked = False  # for anything, ever
        self._timer: Timer | None = None
        self._expect(REQUEST_TIMEOUT)
        lane.add_reader(sock.fileno(), self.on_readable)

    @property
    def has_output(self) -> bool:
        """True while anything waits to be sent to a client that is still there."""
        return self._phase is not Phase.CLOSED and bool(self._wire or self._has_events)

    @property
    def is_waited_for(self) -> bool:
        """It is this client's turn: to send, or to take what is sent."""
        return bool(self._wire) or self._phase in (Phase.READING, Phase.LINGERING)

    @property
    def _has_events(self) -> bool:
        return bool(self._backlog) or (self._phase is Phase.STREAMING and bool(self._slices))

    @property
    def is_busy(self) -> bool:
        """A request is arriving, or its answer is leaving."""
        if self._phase is Phase.READING:
            return self._head is not None or bool(self._http.trailing_data[0]) or bool(self._wire)
        return self._phase in (Phase.ANSWERING, Phase.MAKING)

    @property
    def is_idle(self) -> bool:
        """Between two requests: nothing is known of it but its socket."""
        return self._phase is Phase.READING and not self.is_busy

    def give_up(self) -> socket.socket:
        """An idle one's socket, for another connection to go on with; this one is closed."""
        sock = self._sock.dup()
        self.close()
        return sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def refuse(self, refusal: Answer) -> None:
        """Answer at once, whatever the client wanted, and end."""
        self._answer(refusal, last=True)

    def finish(self) -> None:
        """No further request is read; a stream of events gets its regular end after what waits for it."""
        self._last = True
        self._make(everything=True)
        if self._phase is Phase.STREAMING:
            self._frame_events(everything=True)
            self._send(h11.EndOfMessage())
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes. Never blocks, never raises; a broken connection is closed."""
        self._flush_planned = False
        if self._phase is Phase.CLOSED:
            return
        if not self._wire and self._phase is Phase.STREAMING:
            self._frame_events()
        if self._wire:
            try:
                sent = self._sock.send(self._wire, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            del self._wire[:sent]
            if sent or self._due is None:
                self._expect(STUCK_TIMEOUT)
        if self.has_output:
            self._lane.add_writer(self._sock.fileno(), self.flush)
        else:
            self._lane.remove_writer(self._sock.fileno())
            self._on_flushed()

    def close(self) -> None:
        """Drop the connection now. Closing twice is harmless."""
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSED
        if self._timer:
            self._timer.cancel()
        if self._unsubscribe:
            self._unsubscribe()
        self._lane.remove_reader(self._sock.fileno())
        self._lane.remove_writer(self._sock.fileno())
        self._sock.close()
        self._on_closed(self)

    # Reading

    def on_readable(self) -> None:
        """Take what has come, READ_BYTES of it at most. Never blocks, never raises."""
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._phase is Phase.READING:
            self._http.receive_data(data)
            self._read_request()
        elif not data:
            self.close()

    def _read_request(self) -> None:
        """Go on with the request that arrives, as far as there are bytes."""
        if self._phase is not Phase.READING or self._last:
            return
        try:
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                self._take(event)
                if self._phase is not Phase.READING or isinstance(event, h11.EndOfMessage):
                    return  # the next request, if it has come along, is for another step
        except h11.RemoteProtocolError as wrong:
            status = wrong.error_status_hint
            self._answer(error(status, "the request's head is too long" if status == 431 else f"{wrong}"), last=True)
            return
        if refusal := self._excess(self._http.trailing_data[0]):
            self._answer(error(431, refusal), last=True)
        elif self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._lane.add_writer(self._sock.fileno(), self.flush)

    def _excess(self, unparsed: bytes) -> str:
        """What is wrong with a head, or the end of a body in chunks, that goes on for too long; empty if nothing is."""
        if self._head is None:
            return f"more than {MAX_FIELDS} header fields" if unparsed.count(b"\n") > MAX_FIELDS else ""
        return "the trailer is too long" if len(unparsed) > MAX_TRAILER else ""

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._head = event
            declared = [value for name, value in event.headers if name == b"content-length"]
            if declared and int(declared[0]) > MAX_BODY:
                self._refuse_body()
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_BODY:
                self._refuse_body()
        elif isinstance(event, h11.EndOfMessage):
            self._on_request()
        else:  # the client has closed its side between two requests
            self.close()

    def _refuse_body(self) -> None:
        self._answer(error(413, f"the body is longer than {MAX_BODY} bytes"), last=True)

    def _on_request(self) -> None:
        assert self._head is not None
        self.has_asked = True
        request = Request(self._head.method.decode(), self._head.target.decode("latin-1"), bytes(self._body))
        self._phase = Phase.ANSWERING
        try:
            answer = self._respond(request)
        except Exception as bug:
            self._answer(mishap(bug))
            raise  # to the reactor, which logs it
        if isinstance(answer, Gradual):
            self._begin(answer)
        elif isinstance(answer, Follow):
            self._follow(answer)
        elif isinstance(answer, Later):
            self._wait(answer)
        else:
            self._answer(answer)

    # Answering

    def _answer(self, answer: Answer, *, last: bool = False) -> None:
        self._phase = Phase.ANSWERING
        headers = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
        if answer.allow:
            headers.append(("allow", answer.allow))
        if last or self._last:
            headers.append(("connection", "close"))
        self._send(_response(answer.status, headers))
        if self._head is None or self._head.method != b"HEAD":
            self._send(h11.Data(data=answer.body))
        self._send(h11.EndOfMessage())
        if not last:  # after the last one, a client that only writes has to be read, or it would never come to read
            self._lane.remove_reader(self._sock.fileno())
        self.flush()

    def _begin(self, answer: Gradual) -> None:
        self._phase, self._due = Phase.MAKING, None
        self._slices, self._content_type = Slices(answer.pieces, self._lane.now), answer.content_type
        self._lane.remove_reader(self._sock.fileno())
        self._make()

    def _make(self, *, everything: bool = False) -> None:
        """Go on with an answer in slices; when it is whole, have it leave."""
        while self._phase is Phase.MAKING and self._slices:
            try:
                self._made += self._slices.take()
            except Exception as bug:
                self._answer(mishap(bug))
                raise
            if not self._slices:
                self._answer(Answer(200, bytes(self._made), self._content_type))
            elif not everything:
                self._lane.call_later(0, self._make)
                return

    def _wait(self, answer: Later) -> None:
        self._phase, self._due = Phase.WAITING, None
        self._lane.remove_reader(self._sock.fileno())
        try:
            answer.begin(self._on_answer)
        except RefusedError as refusal:
            self._answer(error(409, str(refusal)))

    def _on_answer(self, answer: Answer) -> None:
        if self._phase is Phase.WAITING:  # else it was dropped meanwhile
            self._answer(answer)

    def _follow(self, answer: Follow) -> None:
        try:
            self._unsubscribe = self._subscribe(self._on_line)
        except RefusedError as refusal:
            self._answer(error(409, str(refusal)))
            return
        self._phase, self._slices = Phase.STREAMING, Slices(answer.first, self._lane.now)
        self._send(_response(200, [("content-type", NDJSON)]))
        self.flush()

    def _on_line(self, line: bytes) -> None:
        self._backlog.push(line)
        if not self._flush_planned and not self._wire:
            self._flush_planned = True
            self._lane.call_later(0, self.flush)  # once for all events of this turn

    def _frame_events(self, *, everything: bool = False) -> None:
        while self._has_events and (everything or not self._wire):
            self._send(h11.Data(data=self._next_events()))

    def _next_events(self) -> bytes:
        """Those that the stream begins with, and then what has happened since."""
        return self._slices.take(MAX_PIECE) if self._slices else self._backlog.take(MAX_PIECE)

    def _send(self, event: h11.Event) -> None:
        self._wire += self._http.send(event) or b""

    def _on_flushed(self) -> None:
        self._due = None
        if self._phase is Phase.READING:  # a 100 Continue has left
            self._expect(REQUEST_TIMEOUT)
        elif self._phase is Phase.ANSWERING or (self._phase is Phase.STREAMING and self._last):
            self._next_request()

    def _next_request(self) -> None:
        self._head, self._slices = None, None
        self._body.clear()
        self._made.clear()
        if self._last or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._phase = Phase.LINGERING
            self._lane.add_reader(self._sock.fileno(), self.on_readable)
            self._expect(LINGER_TIMEOUT)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            return
        self._http.start_next_cycle()
        self._phase = Phase.READING
        self._expect(REQUEST_TIMEOUT)
        if self._http.trailing_data[0]:  # a pipelined one, after everybody else's turn; until then no more is read
            self._lane.call_later(0, self._read_pipelined)
        else:
            self._lane.add_reader(self._sock.fileno(), self.on_readable)

    def _read_pipelined(self) -> None:
        if self._phase is Phase.READING:
            self._lane.add_reader(self._sock.fileno(), self.on_readable)
            self._read_request()

    # Time

    def _expect(self, seconds: float) -> None:
        """Be done with this phase in so many seconds. One timer serves: most deadlines are moved, few are met."""
        self.since = self._lane.now()
        self._due = self.since + seconds
        if self._timer is None or self._timer.callback is None or self._timer.when > self._due:
            self._plan(self._due)

    def _plan(self, when: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._lane.call_at(when, self._on_time)

    def _on_time(self) -> None:
        if self._due is None:
            return
        if self._lane.now() < self._due:
            self._plan(self._due)
        elif self._phase is Phase.READING and (self._head is not None or self._http.trailing_data[0]):
            self._answer(error(408, f"the request did not arrive whole in {REQUEST_TIMEOUT:g} seconds"), last=True)
        else:
            self.close()


def _response(status: int, headers: list[tuple[str, str]]) -> h11.Response:
    from http import HTTPStatus  # as late as h11

    return h11.Response(status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=headers)
