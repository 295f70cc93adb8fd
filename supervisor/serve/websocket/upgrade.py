"""The request to speak WebSocket, and the app's part in it: its verdict, its messages, its end.

    ASKED ──websocket.accept──────────► DECIDED   101, and a `WebSocket` takes the transport over
      ├──websocket.close──────────────► DECIDED   403
      └──websocket.http.response.start──► DENYING ──first body──► ANSWERING ──last body──► DECIDED

Up to the verdict this is an exchange like any other: a request of its HTTP/1.1 connection, one of `max_inflight`. With
the answer it is finished, counted, and in the access log with its 101, its 403 or the status of the app's own answer.
An open WebSocket counts as a connection and as nothing else: clients that say nothing would else fill `max_inflight`.

Invariant: one verdict. An answer that is no 101 is the connection's last, for what the client may have sent ahead, in
the hope of a WebSocket, must never be read as a request.
"""

from __future__ import annotations

import asyncio
import enum
from time import monotonic
from typing import TYPE_CHECKING

from supervisor.serve.access.trace import Trace
from supervisor.serve.asgi.inbox import Inbox
from supervisor.serve.faults import ClientDisconnectedError, complain, is_news_of_the_end
from supervisor.serve.http1.answer import Answer, AnswerError, Lines, frozen, render
from supervisor.serve.http1.familiar import Head
from supervisor.serve.http1.head import Refusal, decode_path, fields, mounted
from supervisor.serve.websocket.framing import CodeError, Framing, OfferError
from supervisor.serve.websocket.handshake import Handshake, agree, judge_handshake, refuse
from supervisor.serve.websocket.socket import ABNORMAL, APP_FAILED, NORMAL, OPEN, WebSocket

if TYPE_CHECKING:
    from supervisor.serve.asgi.bridge import AsgiBridge
    from supervisor.serve.asgi.interface import Message, Scope
    from supervisor.serve.http1.connection import Connection


class Verdict(enum.Enum):
    """How far the app's decision is; the picture above."""

    ASKED = 1
    DENYING = 2  # the answer's head has come; nothing is written yet
    ANSWERING = 3
    DECIDED = 4


ASKED, DENYING, ANSWERING, DECIDED = Verdict


class Upgrade(Answer):
    """One handshake with the app, and the app's coroutine to its end."""

    __slots__ = (
        "_bridge",
        "_connection",
        "_framing",
        "_handshake",
        "_inbox",
        "_owed",
        "_seat",
        "_socket",
        "_task",
        "_verdict",
        "holds_body",
        "since",
    )

    head: Head

    def __init__(self, bridge: AsgiBridge, connection: Connection, head: Head, _keep: bool) -> None:
        super().__init__("GET", False, False)
        self.head = head
        self.trace = Trace(head.request, connection.origin is not None, bridge)
        self.since = monotonic()
        self.holds_body = False
        self._bridge = bridge
        self._connection = connection
        self._verdict = ASKED
        self._handshake: Handshake
        self._framing: Framing
        self._lines: Lines
        self._inbox = Inbox(bridge.loop, bridge.service.limits.read_ahead)
        self._seat: int  # in the flight recorder
        self._socket: WebSocket | None = None
        self._owed = False  # the client went before it was answered: `leave` is due when the app has ended
        self._task: asyncio.Task[None] | None = None

    # What the connection calls.

    def start(self) -> None:
        bridge = self._bridge
        judged = judge_handshake(self.head.request)
        if isinstance(judged, Handshake):
            settings = bridge.service.settings
            try:
                self._framing = Framing(settings.ws_max_size, judged.extensions, deflate=settings.ws_deflate)
            except OfferError as error:
                judged = Refusal(400, str(error))
        if isinstance(judged, Refusal):
            self._decide(refuse(judged, self, bridge.service.stamps))
            return
        self._handshake = judged
        bridge.live.add(self)
        self._seat = bridge.recorder.keep_websocket(self._connection.label, self.head.raw, self.since)
        self._task = bridge.spawn(self._run(self._scope()))

    def feed(self, data: bytes, done: bool) -> None:
        """A handshake with a body is refused: nobody reads that."""

    def writable(self) -> None:
        self._inbox.wake()

    def half_closed(self) -> None:
        self._connection.transport.close()

    def lost(self) -> None:
        self._inbox.hang_up(ABNORMAL, "")
        if self in self._bridge.live:
            self._owed = True
        else:
            self._connection.tally.leave()

    def cancel(self) -> None:
        """The worker ends: so does the app's coroutine."""
        if self._task is not None:
            self._task.cancel("the worker's drain timeout is over")

    # What the app calls.

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises `ClientDisconnectedError` (an OSError) once the client has gone or was sent away; only a
        close is no error then, for it asks for what is."""
        kind = message["type"]
        socket = self._socket
        if socket is not None and socket.phase is OPEN:
            if kind == "websocket.send":
                socket.write(message)
                while socket.write_paused and not self._inbox.gone:
                    await self._inbox.change()
                return
            if kind == "websocket.close":
                code, reason = message.get("code"), message.get("reason") or ""
                code = NORMAL if code is None else code
                socket.close(code, reason)
                self._inbox.end(code, reason)
                return
        elif self._inbox.gone:
            if kind != "websocket.close":
                raise ClientDisconnectedError("the client has gone")
            return
        elif self._verdict is not DECIDED:
            await self._take_verdict(kind, message)
            return
        state = "open" if socket is not None and socket.phase is OPEN else self._verdict.name.lower()
        raise RuntimeError(f"the app sent {kind!r} where the WebSocket was {state}")

    # The verdict.

    def _scope(self) -> Scope:
        connection = self._connection
        root = self._bridge.root_path
        tls = {} if connection.tls is None else {"tls": connection.tls.extension.copy()}
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "wss" if connection.scheme == "https" else "ws",
            "path": mounted(root, decode_path(self.head.path)),
            "raw_path": self.head.path,
            "query_string": self.head.query,
            "root_path": root,
            "headers": fields(self.head.request).to_list(lowercase_names=True),
            "client": connection.client,
            "server": connection.server,
            "subprotocols": self._handshake.subprotocols.copy(),
            "state": self._bridge.state.copy(),
            "extensions": {"websocket.http.response": {}, "holdfast": self.trace} | tls,
        }

    async def _take_verdict(self, kind: str, message: Message) -> None:
        connection, verdict, stamps = self._connection, self._verdict, self._bridge.service.stamps
        if kind == "websocket.accept" and verdict is ASKED:
            self._accept(message)
        elif kind == "websocket.close" and verdict is ASKED:
            self._decide(self.own(403, stamps))
        elif kind == "websocket.http.response.start" and verdict is ASKED:
            self._lines = render(message["status"], message.get("headers", ()))
            self._verdict = DENYING
        elif kind == "websocket.http.response.body" and verdict is not ASKED:
            body = frozen(message.get("body", b""))
            if message.get("more_body", False):
                connection.stream(self._begin() + self.more(body))
                while connection.write_paused and not self._inbox.gone:
                    await self._inbox.change()
            elif verdict is DENYING:
                self._decide(b"".join(self.whole(self._lines, body, stamps)))
            else:
                self._decide(self.more(body) + self.end())
        else:
            raise RuntimeError(f"the app sent {kind!r} where the WebSocket was {verdict.name.lower()}")

    def _begin(self) -> bytes:
        """The head of an answer in pieces, once."""
        if self._verdict is ANSWERING:
            return b""
        self._verdict = ANSWERING
        return self.begin(self._lines, self._bridge.service.stamps)

    def _accept(self, message: Message) -> None:
        connection, service = self._connection, self._bridge.service
        headers, subprotocol = tuple(message.get("headers") or ()), message.get("subprotocol")
        answer = agree(self._handshake, subprotocol, headers, self._framing.agreed, service.stamps)
        self.status = 101
        self._lines = render(204, headers)  # as `agree` did
        self._verdict = DECIDED
        socket = self._socket = WebSocket(connection, self._framing, self._inbox)
        self._inbox.on_empty = socket.read_on
        early = connection.become(socket)
        service.roster.upgrade(connection, socket)
        connection.tally.answered(self.status)
        if service.access is not None:
            service.access.record(connection.client, self)
        socket.transport.write(answer)
        if connection.eof:
            socket.transport.close()
        elif early:
            socket.data_received(early)

    def _decide(self, data: bytes) -> None:
        """`data` ends an answer that is no 101."""
        self._verdict = DECIDED
        self._inbox.end(ABNORMAL, "")
        self._connection.finish(data)

    # The app's end.

    async def _run(self, scope: Scope) -> None:
        failure: BaseException | None = None
        try:
            await self._bridge.app(scope, self._inbox.receive, self.send)
        except BaseException as error:
            failure = error
        bridge = self._bridge
        bridge.live.discard(self)
        bridge.recorder.vacate(self._seat)
        self._task = None
        if self._owed:
            self._connection.tally.leave()
        if failure is not None or self._verdict is not DECIDED:
            self._fail(failure)
        elif self._socket is not None and self._socket.phase is OPEN:
            self._socket.close(NORMAL, "")
        if bridge.service.draining:
            bridge.service.check_empty()

    def _fail(self, failure: BaseException | None) -> None:
        """The app has raised, or ended without a verdict."""
        gone = self._inbox.gone
        if not (gone and is_news_of_the_end(failure)):
            self._complain(failure)
        if self._socket is not None:
            if self._socket.phase is OPEN:
                self._socket.close(APP_FAILED, "")
        elif gone or self._verdict is DECIDED:
            return
        elif self._verdict is ANSWERING:
            self._connection.cut()
        else:
            self._decide(self.own(500, self._bridge.service.stamps))

    def _complain(self, failure: BaseException | None) -> None:
        raw = self.head.request.target
        if failure is None:
            complain("WebSocket", raw, "the app returned without accepting or denying it")
        elif isinstance(failure, (AnswerError, CodeError)):
            complain("WebSocket", raw, str(failure))
        else:
            complain("WebSocket", raw, "the app raised an exception", failure)
