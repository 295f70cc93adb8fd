"""Any bytes to a port that expects PROXY headers: what lets a connection in is a header to a second reading, too.

Invariant of a run: no exception leaves a callback; not a byte behind the header is lost, nor one of it left; the client
that the app sees is the one that the header names; whoever is not let in is closed.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from fuzzing.plan import Plan, split, written
from tests.serve.answers import read_answers
from tests.serve.reading import read
from tests.serve.stepped import Wired

ENDS, WAITS, STEPPED, STRANGER = range(4)  # bits of a plan's flags
PEER, STRANGE_PEER = ("127.0.0.1", 50000), ("192.0.2.99", 50000)
TIMEOUT = 6  # seconds; more than a header may take
CLAIMED = ("203.0.113.9", 0)  # whom the request says that it comes from: so it is if the header's client is trusted
GET = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LARGEST = 4096

TOKENS = (
    b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"192.0.2.1 ", b"::1 ", b"::ffff:", b"65535", b"\r\n", SIGNATURE,
    SIGNATURE + b"\x21\x11\0\x0c", SIGNATURE + b"\x21\x21\0\x24", SIGNATURE + b"\x21\x31\0\xd8",
    SIGNATURE + b"\x20\0\0\0", b"\x20\0\x05\x01\0\0\0\0", b"\x04\0\0", GET,
)  # fmt: skip

_seen: list[dict[str, Any]] = []
_services: list[Wired] = []


class Read(NamedTuple):
    """A header: its length, and whom it names; `client` is None when it leaves the connection's own."""

    length: int
    client: tuple[str, int] | None
    is_unix: bool = False


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Writes down by whom it was asked."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    _seen.append(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a"})


def service() -> Wired:
    """The one that all runs share."""
    if not _services:
        wired = Wired(app, proxy_protocol=True, forwarded_allow_ips=("127.0.0.1",))
        wired.start()
        _services.append(wired)
    return _services[0]


def check(data: bytes) -> None:
    """Raises AssertionError, or whatever the server lets through."""
    plan, wire = split(data)
    with contextlib.redirect_stderr(io.StringIO()):
        whole = _outcome(plan, [wire + GET])
        cut = _outcome(plan, [*plan.pieces(wire), GET])
    assert cut == whole, f"cut {cut} != whole {whole}"
    is_in, client = whole
    header = _read(wire + GET)
    if plan.has(STRANGER):
        assert client in (None, STRANGE_PEER), "a stranger was believed"
    elif header is None:
        assert not is_in, "let in without a header"
    elif (wire + GET)[header.length :] == GET:
        assert is_in, "not let in with a header"
        assert client == _believed(header)


def _believed(header: Read) -> tuple[str, int] | None:
    """Whom the app is told: a header that names nobody lets nobody speak for another."""
    if header.client is None:
        return None if header.is_unix else PEER
    return CLAIMED if header.client[0] == PEER[0] else header.client


def _unmapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An address as the app sees it: of IPv4 if it is one, whatever it came in."""
    return str((address.version == 6 and address.ipv4_mapped) or address)


def _outcome(plan: Plan, pieces: list[bytes]) -> tuple[bool, tuple[str, int] | None]:
    """Whether the request was answered with 200, and who has sent it."""
    _seen.clear()
    wired = service()
    client = wired.connect(address=STRANGE_PEER if plan.has(STRANGER) else PEER)
    for piece in pieces:
        client.send(piece)
        if plan.has(STEPPED):
            wired.settle()
    wired.settle()
    if plan.has(ENDS):
        client.end()
        wired.settle()
    if plan.has(WAITS):
        for _ in range(TIMEOUT * 2):
            wired.advance(0.5)
        assert client.transport is not None or client.closed, "a client that sends no header is kept"
    answers, _rest = read_answers(bytes(client.received), _methods(plan, b"".join(pieces)), ended=client.closed)
    client.end()
    client.reset()
    wired.settle()
    wired.assert_idle()
    return bool(answers) and answers[0].status == 200, _seen[0]["client"] if _seen else None


def _methods(plan: Plan, data: bytes) -> list[str]:
    """What is asked for behind the header: a stranger has none."""
    header = None if plan.has(STRANGER) else _read(data)
    return read(data[header.length :] if header is not None else data).methods


def _read(data: bytes) -> Read | None:
    """HAProxy's proxy-protocol.txt, sections 2.1 and 2.2, by the letter; None for what is no header."""
    return _read_v1(data) if data.startswith(b"PROXY ") else _read_v2(data)


def _read_v1(data: bytes) -> Read | None:
    line, mark, _ = data[:107].partition(b"\r\n")
    words = line.split(b" ")
    if not mark:
        return None
    if words[1] == b"UNKNOWN":
        return Read(len(line) + 2, None) if all(0x20 <= byte < 0x7F for byte in line) else None
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        return None
    kind = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        addresses = [_unmapped(kind(word.decode("ascii"))) for word in words[2:4]]
        ports = [int(word) for word in words[4:6] if word == str(int(word)).encode()]
    except ValueError:
        return None
    if len(ports) < 2 or not all(0 <= port < 65536 for port in ports) or b"%" in line:
        return None
    return Read(len(line) + 2, (addresses[0], ports[0]))


def _read_v2(data: bytes) -> Read | None:
    length = 16 + int.from_bytes(data[14:16], "big")
    if not data.startswith(SIGNATURE) or length > LARGEST or len(data) < length or data[12] not in (0x20, 0x21):
        return None
    block = data[16:length]
    if data[12] == 0x20 or data[13] == 0:
        return Read(length, None)
    size = {0x11: 12, 0x21: 36, 0x31: 216}.get(data[13])
    if size is None or len(block) < size or not _are_extensions(block[size:]):
        return None
    if data[13] == 0x31:
        return Read(length, None, is_unix=True)
    width = 4 if data[13] == 0x11 else 16
    address = ipaddress.ip_address(block[:width])
    return Read(length, (_unmapped(address), int.from_bytes(block[2 * width : 2 * width + 2], "big")))


def _are_extensions(block: bytes) -> bool:
    while block:
        size = int.from_bytes(block[1:3], "big")
        if len(block) < 3 + size or (block[0] == 0x20 and size < 5):
            return False
        block = block[3 + size :]
    return True


def seeds() -> Iterator[bytes]:
    """Headers, good and bad."""
    v4 = bytes((192, 0, 2, 1, 192, 0, 2, 2)) + b"\x03\xe8\x00\x50"
    headers = [
        b"",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 and more\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n",
        b"PROXY TCP4 127.0.0.1 192.0.2.2 1000 80\r\n",
        b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1000 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01000 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\n",
        SIGNATURE + b"\x21\x11\x00\x0c" + v4,
        SIGNATURE + b"\x20\x00\x00\x03abc",
        SIGNATURE + b"\x21\x21\x00\x24" + bytes(36),
        SIGNATURE + b"\x21\x31\x00\xd8" + b"/run/a".ljust(108, b"\0") * 2,
        SIGNATURE + b"\x21\x11\x00\x14" + v4 + b"\x20\x00\x05\x01\x00\x00\x00\x00",
        SIGNATURE + b"\x21\x11\x00\x0f" + v4 + b"\x04\x00\x01",
    ]
    for header in headers:
        yield written() + header
        yield written(STEPPED, cuts=b"\xff") + header
        yield written(STEPPED, STRANGER, ENDS, WAITS, cuts=b"\x81") + header
