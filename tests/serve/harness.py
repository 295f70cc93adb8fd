"""A service on a real listening socket, its uvloop in a thread, for tests that talk to it with blocking sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import uvloop

from supervisor.config.settings import AppSettings, Interface
from supervisor.kernel.board import Cell, private_row
from supervisor.serve.limits import Limits
from supervisor.serve.service import Service

T = TypeVar("T")


class Harness:
    """`address` is where it listens. What the service calls back is counted in `rooms` and `empties`."""

    def __init__(
        self,
        app: object,
        interface: Interface = "asgi",
        *,
        threads: int = 4,
        limits: Limits | None = None,
        family: socket.AddressFamily = socket.AF_INET,
        path: str | None = None,
        **settings: Any,
    ) -> None:
        self.row = private_row()
        self.rooms = 0
        self.empties = 0
        self._app = app
        self._interface: Interface = interface
        self._limits = limits
        self._settings = AppSettings(name="web", app="m:app", threads=threads, **settings)
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.bind(path or ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self.address: Any = self._listener.getsockname()
        self.family = family
        self.service: Service
        self.loop: asyncio.AbstractEventLoop
        self.errors: list[dict[str, Any]] = []  # what reached the loop's exception handler: must stay empty
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()), daemon=True)

    def __enter__(self) -> Harness:
        self._thread.start()
        assert self._ready.wait(10)
        if self._failure is not None:
            self._thread.join(5)
            self._listener.close()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listener.close()
        assert not self.errors, self.errors

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.loop.set_exception_handler(lambda _loop, context: self.errors.append(context))
        try:
            self.service = Service(
                app=self._app,
                interface=self._interface,
                settings=self._settings,
                row=self.row,
                loop=self.loop,
                access_log=None,
                on_room=self._on_room,
                on_empty=self._on_empty,
            )
            if self._limits is not None:
                self.service.set_limits(self._limits)
            await self.service.startup()
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        self.loop.add_reader(self._listener.fileno(), self._accept)
        self._ready.set()
        await self._stop.wait()
        self.loop.remove_reader(self._listener.fileno())
        await self.service.shutdown()
        await asyncio.sleep(0.01)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self.service.accepted(sock)

    def _on_room(self) -> None:
        self.rooms += 1

    def _on_empty(self) -> None:
        self.empties += 1

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the loop and return what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def cell(self, cell: Cell) -> int:
        return self.row[cell]

    @contextlib.contextmanager
    def connect(self, timeout: float = 10.0) -> Iterator[socket.socket]:
        """A client's socket."""
        with socket.socket(self.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(self.address)
            yield sock

    def ask(self, data: bytes, *, end: bool = True) -> bytes:
        """Everything that is answered to `data`, after which the client says that it ends."""
        with self.connect() as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = bytearray()
    while piece := sock.recv(65536):
        data += piece
    return bytes(data)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """What comes up to and with `mark`, and perhaps more."""
    data = b""
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def fill(sock: socket.socket, total: int) -> int:
    """Send up to `total` zero bytes, until the server takes no more for the socket's timeout; how many it took."""
    sent = 0
    block = bytes(1 << 20)
    try:
        while sent < total:
            sent += sock.send(block[: total - sent])
    except TimeoutError:
        pass
    return sent


def at_rest(count: Callable[[], int]) -> int:
    """What `count` says once it has come to rest."""
    last = -1
    while last != (now := count()):
        last = now
        threading.Event().wait(0.1)
    return now


def eventually(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def split_answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, lower-cased headers and body of each answer in `data`; heads must be well-formed."""
    answers = []
    while data:
        head, mark, data = data.partition(b"\r\n\r\n")
        assert mark, head
        lines = head.decode("latin-1").split("\r\n")
        version, status, _reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            size = -1
            while size:
                line, _, data = data.partition(b"\r\n")
                size = int(line, 16)
                body += data[:size]
                assert data[size : size + 2] == b"\r\n"
                data = data[size + 2 :]
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
            assert len(body) == length
        elif int(status) >= 200 and int(status) not in (204, 304):
            body, data = data, b""
        answers.append((int(status), headers, body))
    return answers


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI app that answers with method, path and body."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    content = f"{scope['method']} {scope['path']} ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": content})


def wsgi_echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """The same as a WSGI app."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode() + body]


def http(handler: Callable[[dict[str, Any], Any, Any], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI app that knows no lifespan."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await handler(scope, receive, send)

    return app


async def answer(send: Any, body: bytes = b"ok", headers: Any = (), status: int = 200) -> None:
    """A whole ASGI answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
