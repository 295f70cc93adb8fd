"""A worker asks itself, as a client would.

Invariant: what is read of an answer is bounded.
"""

from __future__ import annotations

import asyncio
import socket

from supervisor.serve.http1.head import HEAD_END

LONGEST = 65536  # bytes of an answer that are looked at


async def ask(loop: asyncio.AbstractEventLoop, sock: socket.socket, path: str) -> int:
    """GET `path` on a connected, non-blocking socket; the answer's status, 0 when there is none."""
    head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: holdfast\r\nconnection: close\r\n\r\n"
    answer = b""
    try:
        await loop.sock_sendall(sock, head.encode("ascii", "replace"))
        while piece := await loop.sock_recv(sock, LONGEST):
            answer = _without_interim(answer + piece)[:LONGEST]
    except ConnectionError:  # what came before it may be an answer
        pass
    return int(answer[9:12]) if answer[:7] == b"HTTP/1." else 0


def _without_interim(answer: bytes) -> bytes:
    """`answer` from its own head on; 1xx ones may come before it (RFC 9110 section 15.2)."""
    while answer.startswith(b"HTTP/1.1 1") and HEAD_END in answer:
        answer = answer.partition(HEAD_END)[2]
    return answer
