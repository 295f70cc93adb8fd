"""Everything one worker's connections share: the app, the clock they go by, the limits, the counters, the way out.

Invariant: a draining service closes no connection under a request. Requests under way finish, a request that still
comes is answered, and each last answer says that it is the last (RFC 9112 section 9.6).
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zttp

from supervisor.config.settings import AppSettings, Interface
from supervisor.kernel.board import Cell, Row, private_row
from supervisor.kernel.channel import Channel
from supervisor.kernel.recorder import Recorder
from supervisor.messages.wire import HandOver
from supervisor.serve.asgi.bridge import AsgiBridge
from supervisor.serve.asking import ask
from supervisor.serve.attaching import attach
from supervisor.serve.edge.gate import Gate
from supervisor.serve.edge.introduction import Introduction
from supervisor.serve.edge.peers import Trust
from supervisor.serve.edge.proxy import Told
from supervisor.serve.edge.secure import SecureConnection
from supervisor.serve.edge.tls import Tls
from supervisor.serve.faults import name_cuts
from supervisor.serve.gathering import Gathering
from supervisor.serve.handover import Crowd
from supervisor.serve.http1.answer import Stamps
from supervisor.serve.http1.connection import Connection
from supervisor.serve.http1.familiar import Head, Heads
from supervisor.serve.limits import NEVER, TICK, UNLIMITED, Limits, ticks
from supervisor.serve.newcomers import Newcomers
from supervisor.serve.patience import OnTurnedAway, Patience
from supervisor.serve.roster import Roster
from supervisor.serve.sweep import Sweep
from supervisor.serve.tally import Tally
from supervisor.serve.websocket.handshake import asks_for_websocket
from supervisor.serve.websocket.socket import WebSocket
from supervisor.serve.wsgi.bridge import WsgiBridge

if TYPE_CHECKING:
    from supervisor.serve.access.log import AccessLog
    from supervisor.serve.exchange import Bridge, Exchange, Opener

FOREVER = 86400.0  # seconds for TLS to end in: it knows of no progress, by which the connection goes
FORGETTING = 120  # ticks for which a head of a request is kept


class Service:
    """One app in one worker. Give it accepted connections between `startup` and `shutdown`."""

    def __init__(
        self,
        *,
        app: object,
        interface: Interface,
        settings: AppSettings,
        row: Row,
        loop: asyncio.AbstractEventLoop,
        access_log: AccessLog | None,
        on_room: Callable[[], None],
        on_empty: Callable[[], None],
        on_turned_away: OnTurnedAway = lambda _requests, _seconds: None,
    ) -> None:
        self.loop = loop
        self.context = contextvars.copy_context()  # what each request starts from, whoever served before
        self.settings = settings
        self.access = access_log
        self.tick = 0
        self.tls: Tls | None = None
        self._tls_terms: dict[str, Any]
        self.gathering = Gathering(loop)
        self.parser = zttp.Connection(zttp.SERVER)
        self.heads = Heads()
        self.find_head = self.heads.find
        self.stamps = Stamps()
        self.stamps.set(time.time())
        self.draining = False
        self.on_crowd: Callable[[], None] = lambda: None  # requests wait, and there may be no room any more
        self._is_cut = False
        self.roster = Roster(loop, lambda: self.tick, self.is_full, self.check_empty)
        self._deadlines = Sweep(loop, self.roster)
        self._trust = Trust(settings.forwarded_allow_ips)
        self._introduction = Introduction(self._trust, settings.proxy_protocol)
        self.introduce = self._introduction.introduce
        self._newcomers = Newcomers(loop, self.context, self.introduce)
        self.recorder: Recorder = Recorder(row)
        self._on_empty = on_empty
        self._emptied = False
        self._sweeper: asyncio.TimerHandle | None = None
        self.lets_wait = settings.queue_timeout > 0
        self.is_held = False  # room or not, no connection is to be taken
        self.capacity = settings.max_inflight
        self.retry_after = ((b"retry-after", b"%d" % max(1, math.ceil(settings.queue_timeout))),)
        exempt = frozenset(path.encode() for path in settings.exempt_paths)
        self.patience = Patience(loop, settings.queue_timeout, exempt, on_turned_away)
        self.bridge: Bridge
        if interface == "asgi":
            self.bridge = AsgiBridge(app, self)  # type: ignore[arg-type]
        else:
            self.bridge = WsgiBridge(app, self, on_room)  # type: ignore[arg-type]
            self.capacity = min(settings.max_inflight, settings.threads)
        self.open: Opener
        self._tell_room = on_room
        self._tally = Tally(row, settings.max_inflight, self._has_room)
        self.set_limits(Limits.of(settings))
        self._gate = Gate(loop, self._trust, self._admit, self._turned_away) if settings.proxy_protocol else None

    def set_limits(self, limits: Limits) -> None:
        """Other limits than those of the settings, for requests from now on."""
        self.limits = limits
        self.small_head = limits.small_head
        self.heads.forget()  # what is too large now
        self._tally.places = limits.connections
        self.open = self.bridge.open if limits.keepalive_requests == UNLIMITED else self._open_counted
        self._tls_terms = {"ssl_handshake_timeout": limits.tls_handshake, "ssl_shutdown_timeout": FOREVER}
        if self.tls is not None:
            self._tls_terms["ssl"] = self.tls.context
        self.first_byte_ticks: int = ticks(limits.first_byte)
        self.head_ticks = ticks(limits.head_timeout)
        self.body_idle_ticks = ticks(limits.body_idle)
        self.write_idle_ticks = ticks(limits.write_idle)
        self.half_closed_ticks = ticks(limits.half_closed)
        self.closing_ticks = ticks(limits.closing)
        self.keepalive_ticks = ticks(limits.keepalive)
        interval = self.settings.ws_ping_interval
        self.ping_ticks: int = ticks(interval) if interval else NEVER
        self.pong_ticks = ticks(self.settings.ws_ping_timeout)

    def _open_counted(self, connection: Connection, head: Head, keep: bool) -> Exchange:
        """Open an exchange where requests on a connection are limited; the last of them is answered as the last."""
        connection.asked += 1
        if keep and connection.asked >= self.limits.keepalive_requests:
            keep = False
            self._tally.ended(Cell.KEEPALIVE_REQUESTS)
        return self.bridge.open(connection, head, keep)

    def use_tls(self, tls: Tls | None) -> None:
        """Speak TLS on TCP connections from now on; Unix sockets stay plain."""
        self.tls = tls
        self.set_limits(self.limits)

    @property
    def inflight(self) -> int:
        """Requests whose head was read and whose answer is not finished, or whose app code still runs without one."""
        return self._tally.inflight

    @property
    def load(self) -> int:
        """How much of `capacity` is taken: by requests under way or, for a WSGI app, by those that hold a thread."""
        return self.bridge.load

    def _has_room(self) -> None:
        self.bridge.has_room()
        self._tell_room()

    def feel(self, lag: float) -> None:
        """A tick of the loop came so many seconds late."""
        self.bridge.feel(lag)

    def kept_waiting(self, seconds: float) -> None:
        """A connection has waited so long to be taken. Inline that is how late the loop is for requests."""
        if not self.owns_loop:
            self.feel(seconds)

    @property
    def is_queueing(self) -> bool:
        """Whether requests wait for their turn."""
        return self.bridge.has_line

    @property
    def owns_loop(self) -> bool:
        """Whether the loop is not the app's to block, as it is inline."""
        return self.bridge.owns_loop

    def is_full(self) -> bool:
        """Whether there is no room for a request more; if so, `on_room` is called once there may be."""
        return self.is_held or self._tally.inflight >= self.settings.max_inflight or self.bridge.is_full()

    def keeps_up(self) -> bool:
        """Whether a request that finds no room has its turn soon all the same."""
        few = self._tally.inflight < self.settings.max_inflight and not self.is_held
        return few and self.bridge.keeps_up()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._tally.connections

    @property
    def crowd(self) -> str:
        """What is here, in the words of a log line."""
        if max(self.load, self.inflight) >= self.capacity:
            return f"{self.inflight} requests under way, room for {self.capacity}"
        return f"{self.connections} connections open, room for {self.limits.connections}"

    def has_place(self) -> bool:
        """Whether one more connection may be taken; when not, `on_room` is called once it may."""
        return self._tally.has_place(0 if self._gate is None else self._gate.waiting)

    async def startup(self) -> None:
        """Start the clock and the app. Raises `AppError` when the app's lifespan says that it can't start."""
        self._sweep()
        await self.bridge.startup()

    async def shutdown(self) -> None:
        """Close what is still open, tell the app, stop the threads."""
        self._close_gate()
        self.roster.abort()
        await self.bridge.shutdown()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def accepted(self, sock: socket.socket, peer: object = None, here: object = None) -> None:
        """Take over a connection fresh from `accept`. `peer` and `here` are its addresses as the socket module has
        them; they are asked for when None."""
        if self._gate is None:
            self._admit(sock, None, peer, here)
        else:
            sock.setblocking(False)
            self._gate.take(sock, self.limits.proxy_header)

    def _admit(self, sock: socket.socket, told: Told | None, peer: object = None, here: object = None) -> None:
        """A connection whose PROXY header, if it should have one, was read."""
        tls = None if self.tls is None or sock.family == socket.AF_UNIX else self.tls
        connection = Connection(self, self._tally) if tls is None else SecureConnection(self, self._tally, tls)
        if told is not None:
            self._introduction.expect(connection, told)
        self.roster.add(connection)
        self._tally.opened()
        if tls is None:
            self._newcomers.welcome(connection, sock, peer, here)
        else:
            attach(self.loop, connection, sock, self._tls_terms)

    def adopt(self, sock: socket.socket, handed: HandOver) -> None:
        """Go on with a connection, non-blocking, that another worker has handed over."""
        connection = Connection(self, self._tally)
        self._introduction.expect(connection, handed)
        connection.asked = handed.asked
        longest = max(self.limits.keepalive, self.limits.first_byte)
        connection.expires = self.tick + ticks(max(0.0, min(longest, handed.until - time.monotonic())))
        self.roster.add(connection)
        self._tally.opened(accepted=False)
        attach(self.loop, connection, sock)
        if handed.unread:  # once it has its transport, and before that reads anything
            self.loop.call_soon(connection.go_on_with, handed.unread, context=self.context)

    async def probe(self, path: str) -> int:
        """The status that GET `path` gets through the whole stack; 0 when there is no answer. Counted nowhere."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours:
            connection = Connection(self, Tally(private_row(), 1 << 30, lambda: None))
            self.roster.add(connection)
            connection.tally.opened()
            attach(self.loop, connection, theirs)
            return await ask(self.loop, ours, path)

    def drain(self, linger: float | None, outlet: Channel | None = None) -> None:
        """Leave. Connections between requests, and others once they are, are given to other workers by `outlet`, which
        is ours from now on. Of those that can't be, and of all without it, each answer is the last, and idle ones end
        after `linger` seconds, or, with None, at their own deadline. WebSockets are closed with 1012, spread over that
        time or over half the drain timeout. `on_empty` is called when no connection and no app code is left, and all
        that was given was taken."""
        self.gathering.stop()
        self.draining = True
        self.bridge.draining.set()
        self.roster.drain(outlet, linger, self.settings.drain_timeout / 2 if linger is None else linger)
        self._let_go(linger)
        self.loop.call_soon(self.check_empty)

    def keep(self, linger: float | None) -> None:
        """Give nothing to other workers any more: what is still here is drained as without them."""
        self.roster.keep(linger)
        self._let_go(linger)
        self.check_empty()

    def _let_go(self, linger: float | None) -> None:
        if linger is not None:
            self.loop.call_later(linger, self._close_gate)

    def crowded(self, crowd: Crowd) -> None:
        """These wait for their turn, and nobody's turn comes: the takers of connections had better know, and while some
        are lent to other workers, these are."""
        self.on_crowd()
        self.roster.relieve(crowd)

    def watch_errors(self, on_error: Callable[[], None] | None) -> None:
        """Have each error among the answers told, or (None) no more."""
        self._tally.on_error = on_error

    def cut(self) -> int:
        """End everything at once, and name it; returns how many requests that has cost."""
        self.gathering.post()
        requests = [exchange for each in self.roster if (exchange := each.exchange) is not None]
        name_cuts(requests, [each for each in self.bridge.live if each not in requests])
        self._is_cut = True
        self.roster.cut()
        self.bridge.cut()
        self._close_gate()
        return len(requests)

    # What connections ask for.

    def opener(self, request: zttp.Request, upgrade: bytes | None) -> Opener:
        """What opens the exchange for a request that asks for `upgrade`. A WSGI app knows no WebSocket: it gets a plain
        request, as for any other protocol that nobody here speaks (RFC 9110 section 7.8)."""
        if upgrade is not None and self.bridge.open_websocket is not None and asks_for_websocket(request):
            return self.bridge.open_websocket
        return self.open

    def forget(self, connection: Connection | WebSocket) -> None:
        """The connection is closed."""
        if not self.roster.remove(connection):
            return
        if isinstance(connection, Connection):
            self._introduction.forget(connection)
        connection.tally.closed()
        if self.draining:
            if not self._is_cut:
                connection.tally.drained()
            self.check_empty()

    def check_empty(self) -> None:
        """Say once that nothing is left to wait for."""
        waits = self._gate is not None and self._gate.waiting > 0
        if self._emptied or waits or self.bridge.is_running() or not self.roster.has_left():
            return
        self._emptied = True
        self._on_empty()

    def _close_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()
            if self.draining:
                self.check_empty()

    def _turned_away(self, wrong: bool) -> None:
        """A connection ended at the gate."""
        if wrong:
            self._tally.refuse(Cell.PROXY_PROTOCOL)
        self._tally.made_place()
        if self.draining:
            self.check_empty()

    def _sweep(self) -> None:
        """Move the clock, and end what has passed its deadline."""
        self.tick = tick = self.tick + 1
        self.stamps.set(time.time())
        self._deadlines.run(tick)
        if not tick % FORGETTING:
            self.heads.forget()
        self._sweeper = self.loop.call_later(TICK, self._sweep)
