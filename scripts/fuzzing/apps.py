"""Apps that do what a plan says, well or badly, and write down what they were asked.

Invariant: an app is asked for nothing that it does not write down before it does anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fuzzing.plan import Plan
from tests.serve.reading import Asked

LARGE = 100_000  # bytes; more than is written at once


class PlannedError(Exception):
    """An app's own mistake."""


class Asking:
    """One request as the app sees it. `whole` once it has seen the end of the body."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.whole = False

    def add(self, body: bytes) -> None:
        """More of the body was read."""
        self.asked = self.asked._replace(body=self.asked.body + body)

    @property
    def text(self) -> bytes:
        """An answer's body: enough to tell which request it is for."""
        return b"%s %s %d" % (self.asked.method.encode(), self.asked.path, len(self.asked.body))


class Apps:
    """`seen` is what was asked since `begin`."""

    def __init__(self) -> None:
        self.seen: list[Asking] = []
        self._plan: Plan | None = None

    def begin(self, plan: Plan | None) -> None:
        """Do as `plan` says from now on; None is to read all and answer."""
        self.seen = []
        self._plan = plan

    def _act(self) -> int:
        return self._plan.acts[(len(self.seen) - 1) % len(self._plan.acts)] if self._plan is not None else 0

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan":
            raise NotImplementedError
        fields = tuple(scope["headers"])
        version = scope["http_version"].encode()
        asked = Asked(scope.get("method", "GET"), scope["raw_path"], scope["query_string"], version, fields, b"")
        call = Call(asked, receive, send)
        self.seen.append(call)
        if scope["type"] == "websocket":
            call.whole = True
            await send({"type": "websocket.close"})
            return
        act = self._act()
        if act & 0x80:  # a pause, in which the rest of the client's bytes may come
            await asyncio.sleep(0)
        await _ASGI[(act & 0x7F) % len(_ASGI)](call)

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """The WSGI app. It does not see a request's target and fields as they came."""
        path, query = environ["PATH_INFO"].encode("latin-1"), environ["QUERY_STRING"].encode("latin-1")
        if environ["RAW_URI"] == "*":
            path = b"*"
        version = environ["SERVER_PROTOCOL"][5:].encode()
        asked = Asked(environ["REQUEST_METHOD"], path, query, version, (), b"")
        call = WsgiCall(asked, environ["wsgi.input"], start_response)
        self.seen.append(call)
        return _WSGI[(self._act() & 0x7F) % len(_WSGI)](call)


class Call(Asking):
    """A request to the ASGI app, and the way to answer."""

    def __init__(self, asked: Asked, receive: Any, send: Any) -> None:
        super().__init__(asked)
        self.receive = receive
        self.send = send

    async def take(self) -> bool:
        """Read one piece; whether there is more."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise PlannedError
        self.add(message["body"])
        self.whole = not message["more_body"]
        return not self.whole

    async def take_all(self) -> None:
        while await self.take():
            pass

    async def start(self, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, body: bytes) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def last(self, body: bytes) -> None:
        await self.send({"type": "http.response.body", "body": body})


async def _echo(call: Call) -> None:
    await call.take_all()
    await call.start(200, (b"content-type", b"text/plain"))
    await call.last(call.text)


async def _stream(call: Call) -> None:
    await call.take_all()
    await call.start()
    for _ in range(3):
        await call.more(call.text)
    await call.last(b"")


async def _be_deaf(call: Call) -> None:
    await call.start()
    await call.last(call.text)


async def _be_half_deaf(call: Call) -> None:
    await call.take()
    await _be_deaf(call)


async def _raise(_call: Call) -> None:
    raise PlannedError


async def _raise_late(call: Call) -> None:
    await call.start()
    await call.more(b"a")
    raise PlannedError


async def _say_too_little(call: Call) -> None:
    await call.start(200, (b"content-length", b"5"))
    await call.last(b"abc")


async def _say_too_much(call: Call) -> None:
    await call.start(200, (b"content-length", b"2"))
    await call.more(b"ab")
    await call.more(b"c")


async def _answer_while_reading(call: Call) -> None:
    await call.start()
    while await call.take():
        await call.more(b"x")
    await call.last(call.text)


async def _answer_at_length(call: Call) -> None:
    await call.start()
    await call.more(bytes(LARGE))
    await call.last(call.text)


async def _answer_at_known_length(call: Call) -> None:
    await call.take_all()
    await call.start(200, (b"content-length", b"%d" % LARGE))
    await call.last(bytes(LARGE))


async def _do_nothing(_call: Call) -> None:
    return


async def _smuggle(call: Call) -> None:
    await call.start(200, (b"x", b"a\r\nContent-Length: 1"))


async def _close(call: Call) -> None:
    await call.start(204, (b"connection", b"close"), (b"transfer-encoding", b"chunked"))
    await call.last(b"none of this goes out")


async def _wait(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


async def _say_not_modified(call: Call) -> None:
    await call.take_all()
    await call.start(304, (b"content-length", b"77"))
    await call.last(b"")


async def _go_on(call: Call) -> None:
    """Work, and fail, when the answer is out."""
    await _echo(call)
    await asyncio.sleep(0)
    await call.receive()
    raise PlannedError


_ASGI: tuple[Callable[[Call], Coroutine[Any, Any, None]], ...] = (
    _echo,
    _stream,
    _be_deaf,
    _be_half_deaf,
    _raise,
    _raise_late,
    _say_too_little,
    _say_too_much,
    _answer_while_reading,
    _answer_at_length,
    _answer_at_known_length,
    _do_nothing,
    _smuggle,
    _close,
    _wait,
    _say_not_modified,
    _go_on,
)


class WsgiCall(Asking):
    """A request to the WSGI app."""

    def __init__(self, asked: Asked, body: Any, start_response: Any) -> None:
        super().__init__(asked)
        self.body = body
        self.start_response = start_response

    def take_all(self) -> None:
        self.add(self.body.read())
        self.whole = True


def _w_echo(call: WsgiCall) -> Iterable[bytes]:
    call.take_all()
    call.start_response("200 OK", [("Content-Type", "text/plain")])
    return [call.text]


def _w_stream(call: WsgiCall) -> Iterable[bytes]:
    while piece := call.body.read(3):
        call.add(piece)
    call.whole = True
    call.start_response("200 OK", [])
    yield b""
    for _ in range(3):
        yield call.text


def _w_be_deaf(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [])
    return [call.text]


def _w_raise(_call: WsgiCall) -> Iterable[bytes]:
    raise PlannedError


def _w_raise_late(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [])
    yield b"a"
    raise PlannedError


def _w_write(call: WsgiCall) -> Iterable[bytes]:
    write = call.start_response("200 OK", [])
    call.add(call.body.readline())
    write(b"a")
    write(call.text)
    return []


def _w_say_too_little(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [("Content-Length", "500")])
    return [call.text]


def _w_say_too_much(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [("Content-Length", "2")])
    return iter([b"ab", b"c"])


def _w_answer_at_length(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [])
    return iter([bytes(LARGE), call.text])


def _w_smuggle(call: WsgiCall) -> Iterable[bytes]:
    call.start_response("200 OK", [("X", "a\r\nContent-Length: 1")])
    return []


_WSGI: tuple[Callable[[WsgiCall], Iterable[bytes]], ...] = (
    _w_echo,
    _w_stream,
    _w_be_deaf,
    _w_raise,
    _w_raise_late,
    _w_write,
    _w_say_too_little,
    _w_say_too_much,
    _w_answer_at_length,
    _w_smuggle,
)
