"""What clients do to a server, on purpose or not: each deed takes a fresh connection and leaves it in its own way.

`tests/processes/disturbed_app.py` is the app that they are done to.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import struct
from collections.abc import Callable

Dial = Callable[[], socket.socket]
Deed = Callable[[Dial], None]

HEAD = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n"
SMALL = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # RFC 9113 section 3.4, and SETTINGS
ENDS = (ConnectionError, ssl.SSLError)  # how a connection may end for whoever disturbs it
TAKEN = 100_000  # bytes of an endless answer that a client takes before it has enough


def read_rest(sock: socket.socket) -> bytes:
    """Everything until the server's end, which may be a reset."""
    data = bytearray()
    with contextlib.suppress(*ENDS):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leaves(said: bytes, *, takes: int = 0, rudely: bool = False) -> Deed:
    """Says something, takes so much, and goes."""

    def deed(dial: Dial) -> None:
        with dial() as sock, contextlib.suppress(*ENDS):
            sock.sendall(said)
            taken = 0
            while taken < takes and (piece := sock.recv(65536)):
                taken += len(piece)
            if rudely:
                reset(sock)

    return deed


def half_closes(said: bytes) -> Deed:
    """Says something, says that this was all, and waits for the server's end."""

    def deed(dial: Dial) -> None:
        with dial() as sock:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            read_rest(sock)

    return deed


def babbles(said: bytes) -> Deed:
    """Says something that is no HTTP, and waits for the server's end."""

    def deed(dial: Dial) -> None:
        with dial() as sock:
            with contextlib.suppress(*ENDS):
                sock.sendall(said)
            read_rest(sock)

    return deed


def speaks_tls(dial: Dial) -> None:
    """A real client's handshake; whoever answers in plain text fails it."""
    context = ssl.create_default_context()
    with dial() as sock, contextlib.suppress(*ENDS):
        context.wrap_socket(sock, server_hostname="localhost").close()


_noise = random.Random(2026).randbytes(4000)

DEPARTURES: dict[str, Deed] = {
    f"{name}{', rudely' if rudely else ''}": leaves(said, takes=takes, rudely=rudely)
    for rudely in (False, True)
    for name, said, takes in (
        ("goes before a head", b"", 0),
        ("goes in a request line", b"GET / HT", 0),
        ("goes in a head", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", 0),
        ("goes in a small body", SMALL % b"/read" + b"abc", 0),
        ("goes in a large body", LARGE % b"/read" + bytes(200_000), 0),
        ("goes in a chunked body", CHUNKED % b"/read" + b"5\r\nabc", 0),
        ("goes before its answer", HEAD % b"/drip", 0),
        ("goes while the app waits", HEAD % b"/wait", 0),
        ("goes behind a head of an answer", HEAD % b"/drip", 1),
        ("goes in an answer", HEAD % b"/stream", TAKEN),
        ("goes behind HEAD", b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n", 1),
        ("goes with an answer unread", (HEAD % b"/") * 3, 0),
        ("goes in a body that nobody reads", LARGE % b"/stream" + bytes(200_000), TAKEN),
        ("goes while the app sips", LARGE % b"/sip" + bytes(200_000), 1),
        ("goes behind pipelined requests", (HEAD % b"/") * 200, 10),
        ("goes in a WebSocket handshake", WEBSOCKET % b"/", 0),
        ("goes from a WebSocket", WEBSOCKET % b"/", 1),
        ("goes from an endless WebSocket", WEBSOCKET % b"/stream", TAKEN),
    )
}

HALF_CLOSES: dict[str, Deed] = {
    "half-closes at once": half_closes(b""),
    "half-closes behind HEAD": half_closes(b"HEAD /drip HTTP/1.1\r\nHost: x\r\n\r\n"),
    "half-closes in a head": half_closes(b"GET / HTTP/1.1\r\nHo"),
    "half-closes in a small body": half_closes(SMALL % b"/read" + b"abc"),
    "half-closes in a large body": half_closes(LARGE % b"/read" + bytes(200_000)),
    "half-closes in a chunked body": half_closes(CHUNKED % b"/read" + b"5\r\nabc"),
    "half-closes behind a request": half_closes(HEAD % b"/drip"),
    "half-closes behind pipelined requests": half_closes((HEAD % b"/") * 50),
    "half-closes behind half a request": half_closes(HEAD % b"/" + b"GET / HT"),
}

GARBAGE: dict[str, Deed] = {
    "noise": babbles(_noise),
    "zeroes": babbles(bytes(100_000)),
    "an endless word": babbles(b"A" * 1_000_000),
    "endless fields": babbles(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000),
    "line feeds": babbles(b"\n" * 1000),
    "another protocol": babbles(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "noise in a body": babbles(CHUNKED % b"/read" + _noise),
    "noise behind a request": babbles(HEAD % b"/" + _noise),
    "noise in a WebSocket": babbles(WEBSOCKET % b"/" + _noise),
    "HTTP/2": babbles(HTTP_2),
    "TLS": speaks_tls,
}


def says_behind_the_handshake(said: bytes) -> Deed:
    """Something that is not encrypted, on a TLS connection (which `dial` gives)."""

    def deed(dial: Dial) -> None:
        with dial() as sock, contextlib.suppress(*ENDS):
            with socket.socket(fileno=os.dup(sock.fileno())) as beneath:
                beneath.sendall(said)
            read_rest(sock)

    return deed


OVER_TLS: dict[str, Deed] = {
    "noise behind the handshake": says_behind_the_handshake(_noise),
    "plain HTTP behind the handshake": says_behind_the_handshake(HEAD % b"/"),
}

AT_A_TLS_PORT: dict[str, Deed] = {
    "goes before a handshake": leaves(b""),
    "goes in a handshake": leaves(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "goes in a handshake, rudely": leaves(b"\x16\x03\x01\x02\x00\x01", rudely=True),
    "half-closes in a handshake": half_closes(b"\x16\x03\x01\x02\x00\x01"),
    "plain HTTP": babbles(HEAD % b"/"),
    "plain HTTP/2": babbles(HTTP_2),
    "plain noise": babbles(_noise),
    "an untrusting client": speaks_tls,
}

FAILURES = ("/raise-before", "/raise-after-head", "/raise-in-body", "/raise-behind")


def words_of_ours(text: str) -> list[str]:
    """The lines of a log in which the server itself says something, without what was said for the app."""
    return [line for line in text.splitlines() if "holdfast: " in line]


def noise_of(text: str) -> list[str]:
    """The lines that are neither empty nor a mark."""
    return [line for line in text.splitlines() if line and "mark " not in line]
