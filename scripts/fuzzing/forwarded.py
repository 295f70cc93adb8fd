"""Any fields from a trusted proxy: whom it names is believed, and what its client has written decides nothing.

Invariant of a run: no exception; what comes out are addresses, ports and schemes and nothing else; and when the proxy
appends its client to whatever that client has sent, the proxy's word is the result.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import zttp

from fuzzing.plan import Plan, split, written
from supervisor.serve.edge.peers import Client, Server, Trust, client_of
from supervisor.serve.http1.head import fields

TRUST = Trust(("127.0.0.1", "10.0.0.0/8", "2001:db8::/32"))
PEER: tuple[Client, Server, str] = (("127.0.0.1", 50000), ("127.0.0.1", 8000), "http")
CLIENT = "198.51.100.7"  # whom the proxy names; it is not trusted itself
SERVER = ("shop.example", 8443)
X_FIELDS = (
    b"X-Forwarded-For: %b, 198.51.100.7, 10.0.0.1\r\nX-Forwarded-Proto: %b, https\r\n"
    b"X-Forwarded-Host: %b, shop.example\r\nX-Forwarded-Port: %b, 8443\r\nForwarded: %b"
)

SPEAKS_X, SPEAKS_FORWARDED, LINES = range(3)  # bits of a plan's flags

TOKENS = (
    b"X-Forwarded-For: ", b"X-Forwarded-Proto: ", b"X-Forwarded-Host: ", b"X-Forwarded-Port: ", b"Forwarded: ", b"for=",
    b"proto=", b"host=", b"by=", b";", b", ", b'"', b'\\"', b"\\", b"[2001:db8::1]", b"10.0.0.1", b"203.0.113.1:80",
    b"unknown", b"_hidden", b":_hidden", b"https", b"wss", b"a.example:443", b"\r\n", b"\t", b"\xff",
    b"::ffff:10.0.0.1", b"%eth0", b"0x7f.1",
)  # fmt: skip


def check(data: bytes) -> None:
    """Raises AssertionError, or whatever the server lets through."""
    plan, junk = split(data)
    if not plan.has(LINES):
        junk = junk.replace(b"\r", b"").replace(b"\n", b"")
    head = _head(plan, junk)
    if head is None:
        return
    client, server, scheme = client_of(head, TRUST, PEER)
    assert client is not None
    assert server is not None
    ipaddress.ip_address(client[0])
    assert 0 <= client[1] < 65536
    assert server[0].isascii()
    assert server[0].isprintable()
    assert " " not in server[0]
    assert server[1] is not None
    assert 0 <= server[1] < 65536
    assert scheme in ("http", "https")
    if not plan.has(LINES) and (plan.has(SPEAKS_X) or plan.has(SPEAKS_FORWARDED)):
        assert client == (CLIENT, 0), f"{client} instead of the proxy's client"
        assert scheme == "https"
        assert server == SERVER, f"{server} instead of the proxy's server"


def _head(plan: Plan, junk: bytes) -> zttp.HeaderBlock | None:
    """Fields as a proxy passes them on; None when no server would take them."""
    lines = junk
    if plan.has(SPEAKS_X):
        lines = X_FIELDS % ((junk,) * 5)
    elif plan.has(SPEAKS_FORWARDED):
        lines = b"Forwarded: " + junk + b',for=198.51.100.7;proto=https;host="shop.example:8443"'
    elif not plan.has(LINES):
        lines = b"Forwarded: " + junk
    try:
        request = zttp.Connection(zttp.SERVER).receive_event(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")
    except zttp.RemoteProtocolError:
        return None
    return fields(request) if isinstance(request, zttp.Request) else None


def seeds() -> Iterator[bytes]:
    """What proxies and their clients write."""
    values = [
        b"",
        b"10.0.0.1",
        b"203.0.113.1, 10.0.0.1, [2001:db8::1]:80",
        b"for=203.0.113.1;proto=http;by=10.0.0.2",
        b'for="[2001:db8::1]:80";host="a.example:8080", for=unknown',
        b'for="_a\\"b, for=c"',
        b'for="',
        b",,, ,",
        b"a" * 500,
    ]
    for value in values:
        for bits in ((), (SPEAKS_X,), (SPEAKS_FORWARDED,)):
            yield written(*bits) + value
    for name in (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port", b"Forwarded"):
        yield written(LINES) + b"X-Forwarded-For: 10.0.0.1\r\n" + name + b": 203.0.113.1, 443"
