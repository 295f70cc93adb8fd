"""The ends that a connection can come to, and the state that they need; `state` has the map.

Invariant: once our side has announced the end, it half-closes and reads on until the client's end, for a reset would
destroy an answer still on its way (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.kernel.board import Cell
from supervisor.serve.http1.answer import CONTINUE, plain
from supervisor.serve.http1.body import ChunkedBody, SizedBody
from supervisor.serve.http1.head import (
    HEAD_END,
    SLOW_BODY,
    SLOW_HEAD,
    Refusal,
)
from supervisor.serve.http1.outgoing import Outgoing
from supervisor.serve.http1.state import BUSY, CLOSED, CLOSING, HEAD, IDLE
from supervisor.serve.limits import NEVER

if TYPE_CHECKING:
    from supervisor.serve.edge.peers import Origin
    from supervisor.serve.edge.tls import Agreed
    from supervisor.serve.exchange import Exchange
    from supervisor.serve.service import Service
    from supervisor.serve.tally import Tally

LEFT = 499  # what the access log says of a request whose client left before its answer began, as nginx does
UNSERVED = 503  # the same of one that we have given up on
_RESETS = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7)


class Ending(Outgoing):
    """All of a connection but the reading of requests and the end of an ordinary answer, which are `Connection`'s."""

    tls: Agreed | None = None
    is_movable = True  # to another process: what is between requests here is all in the socket
    __slots__ = (
        "_flushing",
        "_last",
        "_reading",
        "_rest",
        "asked",
        "body",
        "client",
        "eof",
        "exchange",
        "expires",
        "label",
        "origin",
        "scheme",
        "server",
        "service",
        "state",
        "tally",
    )

    def __init__(self, service: Service, tally: Tally) -> None:
        super().__init__(service.loop, service.context)
        self.service = service
        self.tally = tally
        self.state = IDLE
        self.expires = service.tick + service.first_byte_ticks
        self.exchange: Exchange | None = None
        self.body: SizedBody | ChunkedBody | None = None  # the part of the request's body that has not come yet
        self.eof = False
        self.asked = 0  # requests so far, where they are limited
        self.scheme: str
        self.origin: Origin | None = None  # the peer, when it is one that may speak for others
        self.client: tuple[str, int] | None = None
        self.label = b""  # the client, as the flight recorder has it
        self.server: tuple[str, int | None] | None = None
        self._rest = b""  # in HEAD the head so far, else what came behind the request that is being served
        self._last: bool | None = None  # the client said that it sends no further request; None: there was none
        self._reading = True
        self._flushing = False

    # Reading on, or not.

    @property
    def is_reading(self) -> bool:
        """Whether the transport is to read."""
        return self._reading

    @property
    def awaits_last_answer(self) -> bool:
        """Whether the client has said all that it has to say, and an answer is all that is missing."""
        return self.state is BUSY and self._last is True and self.body is None

    def pause_reading(self) -> None:
        """Leave further bytes to the kernel, and so to the client."""
        if self._reading:
            self._reading = False
            self.transport.pause_reading()
            self._await_body()

    def resume_reading(self) -> None:
        """Read on. Does nothing when nothing was paused."""
        if not self._reading and not self.eof and self.state is not CLOSED:
            self._reading = True
            self.transport.resume_reading()
            self._await_body()

    def _await_body(self) -> None:
        if self.write_paused:
            return
        if self.body is not None and self._reading:
            self.expires = self.service.tick + self.service.body_idle_ticks
        elif self.body is None and not self._reading and self.state is BUSY:
            self._watch()
        elif not self.eof:
            self.expires = NEVER

    def _watch(self) -> None:
        """Look in a while whether the client has said its last word: the app may wait for nothing else."""
        self.expires = self.service.tick + self.service.half_closed_ticks

    def send_continue(self) -> None:
        """Ask the client for the body it holds back (RFC 9110 section 10.1.1), unless the answer has begun."""
        if self.exchange is not None and not self.exchange.status:
            self.transport.write(CONTINUE)
        self._await_body()

    # How it ends.

    def must_close(self, exchange: Exchange) -> bool:
        """Whether the answer about to be begun should announce the connection's end."""
        if self.body is not None and not self._can_skip(exchange):
            return True
        service = self.service
        return service.draining and not (self.is_movable and service.roster.gives) and HEAD_END not in self._rest

    def _can_skip(self, exchange: Exchange) -> bool:
        """Whether reading the rest of the body is cheaper than a new connection. A client that still waits for `100`
        may never send it (RFC 9110 section 10.1.1)."""
        body = self.body
        return body is not None and 0 <= body.remaining <= self.service.limits.discard and not exchange.holds_body

    def _linger(self) -> None:
        """Half-close, and read what the client still sends until it closes, too."""
        self.flush()
        self._rest = b""
        self.body = None
        if self.eof:
            self._close()
            return
        self.state = CLOSING
        self.transport.write_eof()
        self.resume_reading()
        self.expires = self.service.tick + self.service.closing_ticks

    def _close(self) -> None:
        self.state = CLOSING
        self.expires = self.service.tick + self.service.closing_ticks
        self.transport.close()

    def _refuse(self, refusal: Refusal, head: bytes) -> None:
        """Answer a head, or the beginning of one, that no app should see."""
        self.tally.refuse(refusal.by)
        head_only = head.startswith(b"HEAD ")
        self.transport.write(plain(refusal.status, refusal.why, self.service.stamps, head_only=head_only))
        self._linger()

    def _refuse_body(self, refusal: Refusal) -> None:
        """End a request whose body can't be read on; answered only when the app has not begun to."""
        self.tally.refuse(refusal.by)
        self._post()
        if self.state is CLOSING:
            return
        if self._flushing and self.exchange is not None:
            # The answer is complete, but for what the client has not taken of it yet. It is the last one now.
            self.exchange.keep = False
            self.body = None
            return
        self.drop_file()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            answer = b""
            if not exchange.status:
                head_only = exchange.head.head_only
                answer = plain(refusal.status, refusal.why, self.service.stamps, head_only=head_only)
                self.transport.write(answer)
            self._log(exchange, refusal.status, len(answer.partition(HEAD_END)[2]))
            self.tally.finish()
            exchange.lost()
            if exchange.status and exchange.head.legacy:
                self._abort(exchange)
                return
        self._linger()

    def _post(self) -> None:
        """An answer that is complete may only wait to be written with others: have that done before the end."""
        if self.exchange is not None and self.exchange.status:
            self.service.gathering.post()

    def cut(self) -> None:
        """Give up on the request under way, if any, and on the connection."""
        self.flush()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self._log(exchange, UNSERVED)
            self.tally.cut()
            exchange.lost()
        self._abort(exchange)

    def _abort(self, exchange: Exchange | None) -> None:
        """End at once, in the middle of the answer to `exchange`. HTTP/1.0 would take an orderly end for the answer's
        (RFC 9112 section 8)."""
        transport = self.transport
        if exchange is not None and exchange.status and exchange.head.legacy and not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
        transport.abort()

    def _log(self, exchange: Exchange, status: int, sent: int = 0) -> None:
        """The request has ended without a whole answer of the app's; `status` is for one that had none of it."""
        if self.service.access is not None:
            self.service.access.record_broken(self.client, exchange, status, sent)

    def abandon(self) -> None:
        """The client has gone, as far as anybody can tell, and the app has given up on it: end without an answer."""
        self.flush()
        self._close()

    def become(self, successor: asyncio.Protocol) -> bytes:
        """The client speaks another protocol from now on: the transport is `successor`'s, as are the bytes returned."""
        self.exchange = None
        self.resume_reading()
        self.state, self.expires = CLOSED, NEVER
        self.transport.set_protocol(successor)
        return self._rest

    # What the service's sweep and drain call.

    @property
    def is_quiet(self) -> bool:
        """Nobody is owed anything here."""
        return self.state is IDLE or self.state is CLOSING

    def part(self) -> None:
        """Another process has the client from now on: let go, without a word."""
        self.state, self.expires = CLOSED, NEVER
        self.transport.abort()

    def pass_on(self, give: Callable[[Ending, bytes], bool]) -> bool:
        """Have `give` take the client with the request under way, which no app has seen; whether it has. One with a
        body stays, which may be on its way, and one whose client has said that it sends no more."""
        exchange = self.exchange
        if exchange is None or self.eof or not (self.is_movable and exchange.head.request.end_stream):
            return False
        if not give(self, exchange.head.raw + self._rest):
            return False
        self.exchange = None
        self.tally.finish()
        return True

    def leave(self) -> None:
        """The worker is going: an idle connection ends now."""
        if self.state is IDLE:
            self._close()  # nothing was sent that a reset could hit, and who idles may take long to notice the end

    def expire(self) -> None:
        """The deadline has passed."""
        state = self.state
        if state is HEAD:
            self._refuse(SLOW_HEAD, self._rest)
        elif state is IDLE:
            self.tally.ended(Cell.FIRST_BYTE_TIMEOUT if self._last is None else Cell.KEEPALIVE)
            self._close()
        elif state is BUSY and (is_stuck := self.is_stuck()) and self.is_taken():
            self.expires = self.service.tick + self.service.write_idle_ticks
        elif state is BUSY and not is_stuck and self.body is None:
            self._look_for_end()
        elif state is BUSY and not is_stuck:
            self._refuse_body(SLOW_BODY)
        else:
            if state is not CLOSING:
                self.tally.ended(Cell.SEND_TIMEOUT if state is BUSY else Cell.BODY_TIMEOUT)
            self._abort(self.exchange)

    def _look_for_end(self) -> None:
        """A client that has closed altogether looks like one that has half-closed, until something is written to it. If
        we have read that far; if not, the kernel is asked, and again in a while."""
        self.expires = NEVER
        if not self.eof:
            if self.transport.is_closing():
                return
            events = _events(self.transport.get_extra_info("socket").fileno())
            if events & (select.POLLERR | select.POLLHUP):
                self.transport.abort()
                return
            self._watch()
            if not events:
                return
        exchange = self.exchange
        if exchange is not None and not exchange.status:
            exchange.half_closed()
        elif exchange is not None and exchange.head.head_only:  # its answer is out, and nothing more will be written
            self._post()
            if self.exchange is exchange:
                self.abandon()


def _events(fd: int) -> int:
    """What poll(2) says of a socket's end: nothing, POLLRDHUP when the client sends no more, POLLHUP or POLLERR when it
    takes nothing either."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    events = poll.poll(0)
    return events[0][1] if events else 0
