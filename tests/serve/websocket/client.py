"""A WebSocket client by hand, so that it can do wrong what it likes (RFC 6455 sections 4.1 and 5.2)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tests.serve.harness import Harness, read_until

Handler = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

HANDSHAKE = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x0a\xb1\x02\xff"


def with_fields(*lines: bytes) -> bytes:
    return HANDSHAKE[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def masked(data: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head = bytes((first, bit | len(data)))
    elif len(data) < 65536:
        head = bytes((first, bit | 126)) + struct.pack("!H", len(data))
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", len(data))
    return head + (MASK + masked(data) if mask else data)


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


class Reader:
    """Takes frames from a socket; they must be whole, final and unmasked."""

    def __init__(self, sock: socket.socket, data: bytes = b"") -> None:
        self.sock = sock
        self.data = data

    def frame(self) -> tuple[int, bytes]:
        first, second = self._take(2)
        assert first & 0xF0 == 0x80, "fragmented or reserved"
        assert second < 0x80, "masked"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first & 0x0F, self._take(size)

    def closed(self) -> tuple[int | None, str]:
        """The code and reason of the close frame that comes next."""
        opcode, data = self.frame()
        assert opcode == CLOSE, (opcode, data[:80])
        return (struct.unpack("!H", data[:2])[0], data[2:].decode()) if data else (None, "")

    def ended(self) -> bool:
        """Whether the server ends the connection, with no byte more."""
        return self.data == b"" and self.sock.recv(1) == b""

    def _take(self, size: int) -> bytes:
        while len(self.data) < size:
            more = self.sock.recv(65536)
            assert more, f"ended within a frame: {self.data!r}"
            self.data += more
        taken, self.data = self.data[:size], self.data[size:]
        return taken


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Plain requests too, so that a test can tell what a request was taken for."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})
        return
    assert (await receive()) == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})


@contextlib.contextmanager
def opened(server: Harness, handshake: bytes = HANDSHAKE) -> Iterator[Reader]:
    """A client's socket after the 101."""
    with server.connect() as sock:
        sock.sendall(handshake)
        data = read_until(sock, b"\r\n\r\n")
        assert data.startswith(b"HTTP/1.1 101 "), data
        yield Reader(sock, data.partition(b"\r\n\r\n")[2])


def websocket(handler: Handler) -> Handler:
    """An app that knows no lifespan."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await handler(scope, receive, send)

    return app
