"""What a worker that asks itself makes of what comes back."""

from __future__ import annotations

import asyncio
import socket

import pytest

from supervisor.serve.asking import ask


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 503 Service Unavailable\r\n\r\nHTTP/1.1 1", 503),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        (b"", 0),
        (b"no HTTP at all", 0),
    ],
)
@pytest.mark.parametrize("resets", [False, True])
def test_the_status_is_that_of_the_answer_itself_and_0_without_one(sent: bytes, status: int, resets: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(sent)

        async def answered() -> int:
            asked = asyncio.ensure_future(ask(asyncio.get_running_loop(), ours, "/health"))
            await asyncio.sleep(0)
            if not resets:  # what is not read when a Unix socket is closed resets the connection
                assert theirs.recv(65536).startswith(b"GET /health HTTP/1.1\r\n")
            theirs.close()
            return await asked

        assert asyncio.run(answered()) == status
