"""Any bytes to an open WebSocket: its app gets the messages that a second reading finds, whatever the cuts.

Invariant of a run: no exception leaves a callback; what is written is frames, and nothing behind a close frame; a
client that breaks the protocol is told with the right code; and when it has gone, nothing is left of it.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

from fuzzing.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, frame, read_client, read_server
from fuzzing.plan import Plan, split, written
from supervisor.serve.limits import Limits
from tests.serve.answers import read_answers
from tests.serve.stepped import Client, Wired

LIMIT = 200  # bytes of a message: above that of the server's short cut for small frames, below that of the inputs
PATIENCE = 12  # seconds after which a client that says nothing is let go
SECOND = Limits(read_ahead=256, write_idle=1, half_closed=1, closing=1)

ENDS, DEFLATES, PLANNED, STEPPED, EARLY, WAITS, SLOW = range(7)  # bits of a plan's flags
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n"
)
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"

TOKENS = (
    b"\x81\x80", b"\x82\x83\0\0\0\0abc", b"\x01\x81", b"\x00\x81", b"\x80\x81", b"\x88\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x81\xfe\x00\x7e",
    b"\x81\xff\0\0\0\0\0\0\0\x7e", b"\xc1\x87", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0\0\0\0",
)  # fmt: skip


class Seen:
    """What the app got: messages, and the code of the end."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.messages: list[str | bytes] = []
        self.code: int | None = None

    def begin(self, plan: Plan | None) -> None:
        self.__init__()  # type: ignore[misc]
        self.plan = plan

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        assert (await receive())["type"] == "websocket.connect"
        await _ACTS[self.plan.acts[0] % len(_ACTS) if self.plan is not None else 0](self, receive, send)

    async def take(self, receive: Any) -> str | bytes | None:
        """The next message, or None at the end."""
        message = await receive()
        if message["type"] == "websocket.disconnect":
            self.code = message["code"]
            return None
        data: str | bytes = message["text"] if message.get("text") is not None else message["bytes"]
        self.messages.append(data)
        return data


async def _echo(seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (data := await seen.take(receive)) is not None:
        with contextlib.suppress(OSError):
            await send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})


async def _close_after_one(seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept", "subprotocol": "chat"})
    await seen.take(receive)
    await send({"type": "websocket.close", "code": 3000, "reason": "é" * 100})
    while await seen.take(receive) is not None:
        pass


async def _leave(seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await seen.take(receive)


async def _raise(seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await seen.take(receive)
    raise ValueError("planned")


async def _flood(seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    for _ in range(20):
        await send({"type": "websocket.send", "bytes": bytes(10_000)})
    while await seen.take(receive) is not None:
        pass


async def _deny(_seen: Seen, _receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"a", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"b"})


async def _refuse(_seen: Seen, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})
    await receive()


_ACTS: tuple[Callable[[Seen, Any, Any], Coroutine[Any, Any, None]], ...] = (
    _echo,
    _close_after_one,
    _leave,
    _raise,
    _flood,
    _deny,
    _refuse,
)

seen = Seen()
_services: list[Wired] = []


class Outcome(NamedTuple):
    """What the app got, and how it ended."""

    messages: list[str | bytes]
    code: int | None
    closes: int  # close frames
    is_over: bool


def service() -> Wired:
    """The one that all runs share."""
    if not _services:
        wired = Wired(seen.app, limits=SECOND, ws_max_size=LIMIT, ws_ping_interval=1.0, ws_ping_timeout=1.0)
        wired.start()
        _services.append(wired)
    return _services[0]


def check(data: bytes) -> None:
    """Raises AssertionError, or whatever the server lets through."""
    plan, wire = split(data)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        if plan.has(PLANNED):
            _check_planned(plan, wire)
        else:
            _check_echo(plan, wire)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("holdfast:")]
    assert len(lines) <= 1, lines


def _check_echo(plan: Plan, wire: bytes) -> None:
    seen.begin(None)
    whole = _outcome(plan, [wire])
    seen.begin(None)
    cut = _outcome(plan, plan.pieces(wire))
    assert cut == whole, f"cut {cut} != whole {whole}"
    if plan.has(DEFLATES):
        return
    stream = read_client(wire, LIMIT)
    assert whole.messages == stream.messages
    if stream.codes:
        assert whole.code in stream.codes, f"{whole.code} is none of {stream.codes}"
        assert whole.closes == 1, "the client's close frame was not answered"
    else:
        assert whole.closes == 0
        assert whole.is_over == plan.has(ENDS)


def _outcome(plan: Plan, pieces: list[bytes]) -> Outcome:
    wired = service()
    client = wired.connect()
    for piece in _opened(wired, client, plan, pieces):
        client.send(piece)
        if plan.has(STEPPED):
            wired.settle()
    wired.settle()
    is_over = client.ended or client.closed
    if plan.has(ENDS):
        client.end()
        wired.settle()
        is_over = True
    frames = _frames(client, plan)
    _hold_echoes(frames)
    _leave_it(wired, client)
    return Outcome(seen.messages, seen.code, sum(each.opcode == CLOSE for each in frames), is_over)


def _opened(wired: Wired, client: Client, plan: Plan, pieces: list[bytes]) -> list[bytes]:
    """Do the handshake; what is left to send. `EARLY` frames come in one packet with it."""
    head = HANDSHAKE + (OFFER if plan.has(DEFLATES) else b"") + b"\r\n"
    if plan.has(EARLY):
        return [head + b"".join(pieces[:1]), *pieces[1:]]
    client.send(head)
    wired.settle()
    return pieces


def _frames(client: Client, plan: Plan) -> list[Frame]:
    answers, rest = read_answers(bytes(client.received), ["GET"], ended=client.closed)
    assert len(answers) == 1
    if answers[0].status != 101:
        assert rest == b""
        return []
    return read_server(rest, compressed=plan.has(DEFLATES))


def _hold_echoes(frames: list[Frame]) -> None:
    """What comes back are the app's messages, from the first on."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    echoes = []
    for each in frames:
        if each.opcode in (TEXT, BINARY):
            data = inflate.decompress(each.data + b"\x00\x00\xff\xff") if each.rsv else each.data
            echoes.append(data.decode() if each.opcode == TEXT else data)
    assert echoes == seen.messages[: len(echoes)]


def _check_planned(plan: Plan, wire: bytes) -> None:
    """An app that does anything, a client that is slow: only the order of things is known."""
    seen.begin(plan)
    wired = service()
    client = wired.connect(room=1000 + plan.room * 64 if plan.has(SLOW) else 1 << 40)
    for piece in _opened(wired, client, plan, plan.pieces(wire)):
        client.send(piece)
        if plan.has(STEPPED):
            wired.settle()
        if plan.has(SLOW):
            client.take(plan.pace * 64)
    wired.settle()
    if plan.has(ENDS):
        client.end()
    if plan.has(WAITS):
        for _ in range(PATIENCE * 2):
            wired.advance(0.5)
        assert client.closed or client.ended, "a client that says nothing is kept"
    client.take(1 << 40)
    wired.settle()
    if not client.was_cut:
        _frames(client, plan)
    if not plan.has(DEFLATES):
        messages = read_client(wire, LIMIT).messages
        assert seen.messages == messages[: len(seen.messages)]
    _leave_it(wired, client)


def _leave_it(wired: Wired, client: Client) -> None:
    client.reset()
    wired.settle()
    wired.assert_idle()


def seeds() -> Iterator[bytes]:
    """Streams of frames, good and bad, under a few plans."""
    streams = [
        frame(TEXT, "é".encode()) + frame(BINARY, b"abc"),
        frame(TEXT, b"a", fin=False) + frame(PING, b"b") + frame(CONT, b"c", fin=False) + frame(CONT, b"d"),
        frame(BINARY, bytes(130)) + frame(PONG) + frame(CLOSE, b"\x03\xe8bye"),
        frame(CLOSE),
        frame(TEXT, b"\xff"),
        frame(CONT, b"a"),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(BINARY, bytes(LIMIT + 1)),
        frame(BINARY, bytes(LIMIT), fin=False) + frame(CONT, b"a"),
        frame(TEXT, b"a", rsv=4),
        frame(TEXT, zlib.compress(b"a" * 100, wbits=-zlib.MAX_WBITS)[:-4], rsv=4) * 2,
        frame(3),
        frame(PING, bytes(126)),
        frame(CLOSE, b"\x00"),
        frame(CLOSE, b"\x03\xed"),
        frame(TEXT, b"hello") * 40,
    ]
    for stream in streams:
        yield written() + stream
        yield written(STEPPED, ENDS, cuts=b"\xff") + stream
        yield written(EARLY, DEFLATES, cuts=b"\x09") + stream
        for act in range(len(_ACTS)):
            yield written(PLANNED, STEPPED, SLOW, WAITS, cuts=b"\x08", acts=bytes([act]), room=1, pace=1) + stream
