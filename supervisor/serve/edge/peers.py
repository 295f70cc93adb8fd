"""Who is believed when he says for whom he speaks: trusted proxies, and the fields they send.

Invariant: what a client can write decides nothing. Fields are looked at only when the peer is trusted, and then from
the right, where the peer itself has written, through hops that are trusted in turn; the first that is not is the
client. Whatever does not parse ends the walk at the last hop that did. An element of `Forwarded` says all of its hop;
of `X-Forwarded-Proto`, `-Host` and `-Port` only the last value counts, the peer's own: no count of values tells which
hops have written them, for a client can add some.

Two families of fields say the same. A proxy overwrites the one that it speaks, and may pass on the other as its client
has sent it: so `Forwarded` counts only where there is none of `X-Forwarded-*`. The Host field stays as it came: host
and port that a proxy names become the server's, for apps that know they may believe them.

Sources: RFC 7239; RFC 9110, section 5.6.1, for empty elements of lists; MDN and the manuals of nginx, HAProxy and AWS
for the X- fields, which no standard has.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from supervisor.serve.http1.head import fields, split_host

if TYPE_CHECKING:
    from zttp import HeaderBlock, Request

    from supervisor.serve.http1.connection import Connection

MAX_HOPS = 32
MAX_FIELD = 4096  # bytes of one field that are looked at, its right end
_KEPT = 1024

Client = tuple[str, int] | None
Server = tuple[str, int | None] | None

_SCHEMES = {b"http": "http", b"ws": "http", b"https": "https", b"wss": "https"}
_V6 = rb"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40}"
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_NODE = re.compile(rb"(?:\[(" + _V6 + rb")\]|([0-9.]{7,15}))(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?|(" + _V6 + rb")")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*+"'
_PAIR = rb"(?:" + _TOKEN + rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
_LAST_ELEMENT = re.compile(rb"(?:\A|,)[ \t]*+(" + _PAIR + rb"(?:;" + _PAIR + rb")*+)[ \t]*+\Z")
_EACH_PAIR = re.compile(rb"(" + _TOKEN + rb")=(?:(" + _TOKEN + rb")|(" + _QUOTED + rb"))")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class Trust:
    """The peers that are believed: networks, or all with `*`. Unix sockets are, unless nobody is: their file's mode
    says who may connect."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._everybody = "*" in addresses
        self._networks = [ipaddress.ip_network(text) for text in addresses if text != "*"]
        self._known: dict[str | None, bool] = {None: bool(addresses)}
        self._labels: dict[tuple[str | None, bool], bytes] = {}

    def covers(self, host: str | None) -> bool:
        """Whether this IP address, or None for a Unix socket, is believed."""
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known = {None: self._known[None]}
            known = self._known[host] = self._everybody or self._is_listed(host or "")
        return known

    def label(self, host: str | None, speaks: bool) -> bytes:
        """A client for the flight recorder, marked with a `*` when its peer is believed, also about the request's id.
        Equal ones are the same object, as far as they are lately seen."""
        label = self._labels.get((host, speaks))
        if label is None:
            if len(self._labels) >= _KEPT:
                self._labels.clear()
            label = self._labels[host, speaks] = b"*" * speaks + (host or "").encode("ascii", "replace")[:46]
        return label

    def _is_listed(self, host: str) -> bool:
        address = address_of(host.partition("%")[0])
        return address is not None and any(address in network for network in self._networks)


class Hop(NamedTuple):
    """What one proxy says about the side it was asked from; b"" for what it doesn't say."""

    node: bytes
    scheme: bytes = b""
    host: bytes = b""  # with or without a port
    port: bytes = b""


class Origin:
    """A connection from a trusted peer: who it is itself, and for whom it speaks from request to request."""

    __slots__ = ("_client", "_scheme", "_server", "_trust", "told")

    def __init__(self, connection: Connection, trust: Trust) -> None:
        self._client = connection.client
        self._server = connection.server
        self._scheme = connection.scheme
        self._trust = trust
        self.told = False  # the connection's fields are those of another

    @property
    def itself(self) -> tuple[Client, Server, str]:
        """Client, server and scheme of the connection, whoever it has spoken for last."""
        return self._client, self._server, self._scheme

    def look_through(self, connection: Connection, request: Request) -> None:
        """Set the connection's `client`, `server` and `scheme` to what they are for this request."""
        if speaks_for_others(request):
            self.told = True
            told = client_of(fields(request), self._trust, (self._client, self._server, self._scheme))
            connection.client, connection.server, connection.scheme = told
            connection.label = self._trust.label(told[0][0] if told[0] else None, True)
        elif self.told:
            self.told = False
            connection.client, connection.server, connection.scheme = self._client, self._server, self._scheme
            connection.label = self._trust.label(self._client[0] if self._client else None, True)


def speaks_for_others(request: Request) -> bool:
    """Whether a trusted peer tells with it whom it speaks for."""
    headers = fields(request)
    return _speaks_x(headers) or headers.get(b"forwarded") is not None


def _speaks_x(headers: HeaderBlock) -> bool:
    get = headers.get
    return (
        get(b"x-forwarded-for") is not None
        or get(b"x-forwarded-proto") is not None
        or get(b"x-forwarded-host") is not None
        or get(b"x-forwarded-port") is not None
    )


def client_of(headers: HeaderBlock, trust: Trust, peer: tuple[Client, Server, str]) -> tuple[Client, Server, str]:
    """Client, server and scheme as the fields of a trusted `peer` tell them."""
    client, server, scheme = peer
    for hop in _x_hops(headers) if _speaks_x(headers) else _forwarded_hops(headers):
        scheme = _SCHEMES.get(hop.scheme.lower(), scheme)
        server = _server_of(hop, scheme, server)
        node = node_of(hop.node)
        if node is None:
            break
        client = node
        if not trust.covers(node[0]):
            break
    return client, server, scheme


def _server_of(hop: Hop, scheme: str, server: Server) -> Server:
    """Whom a hop was asked for, else `server`. A port without a host is another one of `server`, if that has any."""
    port = int(hop.port) if _PORT.fullmatch(hop.port) and int(hop.port) <= 65535 else None
    named = split_host(hop.host) if hop.host else None
    if named is not None:
        return named[0], named[1] or port or (443 if scheme == "https" else 80)
    return server if port is None or server is None or server[1] is None else (server[0], port)


def _x_hops(headers: HeaderBlock) -> list[Hop]:
    """The nearest first, which is the one that is asked what it was asked for."""
    node, *farther = _listed(headers, b"x-forwarded-for") or [b""]
    own = (_nearest(headers, b"x-forwarded-" + name) for name in (b"proto", b"host", b"port"))
    return [Hop(node, *own), *map(Hop, farther)]


def _nearest(headers: HeaderBlock, name: bytes) -> bytes:
    return next(iter(_listed(headers, name)), b"")


def _listed(headers: HeaderBlock, name: bytes) -> list[bytes]:
    """The values of a comma-separated field over all its lines, the last first. Empty ones are none."""
    text = b",".join(headers.getall(name))[-MAX_FIELD:]
    values = text.rsplit(b",", MAX_HOPS)[-MAX_HOPS:]
    return [value for each in reversed(values) if (value := each.strip(b" \t"))]


def _forwarded_hops(headers: HeaderBlock) -> list[Hop]:
    """The elements of `Forwarded`, the last first, as far as they are well-formed. Empty ones are none."""
    rest = b",".join(headers.getall(b"forwarded"))[-MAX_FIELD:]
    hops: list[Hop] = []
    while len(hops) < MAX_HOPS and (rest := rest.rstrip(b", \t")):
        found = _LAST_ELEMENT.search(rest)
        if found is None:
            break
        pairs = {
            name.lower(): token or _ESCAPE.sub(rb"\1", quoted[1:-1])
            for name, token, quoted in _EACH_PAIR.findall(found[1])
        }
        hops.append(Hop(pairs.get(b"for", b""), pairs.get(b"proto", b""), pairs.get(b"host", b"")))
        rest = rest[: found.start()]
    return hops


_nodes: dict[bytes, tuple[str, int] | None] = {}  # lately seen


def node_of(text: bytes) -> tuple[str, int] | None:
    """An address as proxies write it, and its port, 0 when there is none or `_hidden`: `192.0.2.1`, `192.0.2.1:80`,
    `[2001:db8::1]`, `[2001:db8::1]:80`, and, though it is not in RFC 7239, `2001:db8::1`. None for anything else,
    such as `unknown`."""
    if text in _nodes:
        return _nodes[text]
    match = _NODE.fullmatch(text)
    address = address_of((match[1] or match[2] or match[4]).decode("ascii")) if match else None
    port = int(match[3] or 0) if match else 0
    node = None if address is None or port > 65535 else (str(address), port)
    if len(_nodes) >= _KEPT:
        _nodes.clear()
    if len(text) <= 64:
        _nodes[text] = node
    return node


def address_of(text: str | bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address from its text or its packed bytes; one that IPv6 maps from IPv4 is of IPv4. None for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.version == 6 and address.ipv4_mapped) or address
