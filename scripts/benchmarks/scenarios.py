"""The kinds of traffic that are measured."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.apps.plain_asgi import PIECE, RECORD
from benchmarks.peers import ASGI, FIXED, LOGGING, WEBSOCKET, WSGI, Peer


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic. `expected` is the body that every server has to answer before it is measured."""

    name: str
    about: str
    peers: tuple[Peer, ...]
    app: str = "plain_asgi:app"
    path: str = "/"
    expected: bytes = b"Hello, World!"
    post_bytes: int = 0
    varied: bool = False  # no two requests the same, which matters to who remembers them
    keepalive: bool = True
    threads: int = 8
    websocket: bool = False


SCENARIOS = (
    Scenario("asgi-plaintext", "ASGI, 13 bytes", (*ASGI, *FIXED)),
    Scenario("asgi-varied", "ASGI, 13 bytes, each request another", (*ASGI, *FIXED), varied=True),
    Scenario("asgi-log", "ASGI, 13 bytes, and a line of access log", LOGGING),
    Scenario("asgi-json", "ASGI, 1 KB of JSON", ASGI, path="/json", expected=json.dumps(RECORD).encode()),
    Scenario("asgi-10k", "ASGI, 10 KB", ASGI, path="/10k", expected=PIECE * 10),
    Scenario(
        "asgi-post10k", "ASGI, POST of 10 KB, sent back", ASGI, path="/echo", expected=PIECE * 10, post_bytes=10240
    ),
    Scenario("asgi-stream", "ASGI, 64 chunks of 1 KB", ASGI, path="/stream", expected=PIECE * 64),
    Scenario("asgi-fresh", "ASGI, 13 bytes, a connection for each request", (*ASGI, *FIXED), keepalive=False),
    Scenario("ws-echo", "WebSocket, text messages of 16 bytes, each sent back", WEBSOCKET, websocket=True),
    Scenario("wsgi-plaintext", "WSGI, 13 bytes, 8 threads", (*WSGI, *FIXED), app="plain_wsgi:app"),
    Scenario("wsgi-inline", "WSGI, 13 bytes, 1 thread", WSGI, app="plain_wsgi:app", threads=1),
)
