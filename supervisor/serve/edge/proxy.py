"""The PROXY protocol, versions 1 and 2: what a load balancer says of a connection before its first byte. Pure.

Invariant: a header is taken whole or refused, never guessed at; and `measure` claims no byte that is not its own, so
what follows it (a request, or a TLS handshake) can be left in the socket. An address has one spelling, in whatever it
comes: one that IPv6 maps from IPv4 is of IPv4, as in forwarding fields.

Source: HAProxy's proxy-protocol.txt, section 2, whose names are used here.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from supervisor.errors import HoldfastError
from supervisor.serve.edge.peers import address_of

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1 = 107  # bytes, the line's end included
MAX_V2 = 4096  # bytes; addresses take 216 at most, the rest is for extensions

_V1_START = b"PROXY "
_PORT = rb"(0|[1-9][0-9]{0,4})"
_ADDRESS = rb"([0-9A-Fa-f:.]+)"
_TCP = rb"(TCP[46]) " + _ADDRESS + b" " + _ADDRESS + b" " + _PORT + b" " + _PORT
_V1 = re.compile(rb"PROXY (?:UNKNOWN(?: [ -~]*)?|" + _TCP + rb")\r\n")
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM = 1
_ADDRESSES = {_INET: 12, _INET6: 36, _UNIX: 216}  # bytes
_TYPE_SSL, _CLIENT_SSL = 0x20, 0x01


class ProxyError(HoldfastError):
    """What came is no PROXY header; the message says why."""


class Told(NamedTuple):
    """What a header says; None where it leaves the connection's own. A Unix client has no address: `is_unix`."""

    source: tuple[str, int] | None = None
    destination: tuple[str, int | None] | None = None
    secure: bool = False  # the client came over TLS
    is_unix: bool = False


def measure(data: bytes) -> int:
    """The length of the header that `data` begins with, as far as one can know: more than `len(data)` asks for more
    bytes, of which all so far belong to it. Raises `ProxyError`."""
    if data[:1] != b"P":
        if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
            raise ProxyError("it does not begin with a PROXY header")
        if len(data) < 16:
            return 16
        length = 16 + int.from_bytes(data[14:16], "big")
        if length > MAX_V2:
            raise ProxyError(f"a PROXY header of {length} bytes is too long")
        return length
    if data[: len(_V1_START)] != _V1_START[: len(data)]:
        raise ProxyError("it does not begin with a PROXY header")
    end = data.find(b"\n", 0, MAX_V1)
    if end < 0 and len(data) >= MAX_V1:
        raise ProxyError("a PROXY header without an end")
    return end + 1 if end >= 0 else len(data) + 1


def parse(header: bytes) -> Told:
    """One whole header, of the length measured. Raises `ProxyError`."""
    return _parse_v1(header) if header[:1] == b"P" else _parse_v2(header)


def _parse_v1(line: bytes) -> Told:
    match = _V1.fullmatch(line)
    if match is None:
        raise ProxyError("a malformed PROXY line")
    kind, source, destination, source_port, destination_port = match.groups()
    if kind is None:
        return Told()
    return Told(_v1_address(kind, source, source_port), _v1_address(kind, destination, destination_port))


def _v1_address(kind: bytes, text: bytes, port: bytes) -> tuple[str, int]:
    address = address_of(text.decode("ascii"))
    if address is None or (b":" in text) != (kind == b"TCP6") or int(port) > 65535:
        raise ProxyError("a malformed address in a PROXY line")
    return str(address), int(port)


def _parse_v2(header: bytes) -> Told:
    command, family, kind = header[12], header[13] >> 4, header[13] & 15
    if command not in (0x20, 0x21):
        raise ProxyError(f"version and command {command:#x} of a PROXY header are unknown")
    if command == 0x20:  # LOCAL: the balancer's own connection, such as a health check
        return Told()
    if family == 0 or kind == 0:
        if header[13]:
            raise ProxyError(f"family and protocol {header[13]:#x} of a PROXY header are unknown")
        return Told()
    size = _ADDRESSES.get(family)
    if size is None or kind != _STREAM:
        raise ProxyError(f"family and protocol {header[13]:#x} of a PROXY header are not of a stream")
    block, extensions = header[16 : 16 + size], header[16 + size :]
    if len(block) < size:
        raise ProxyError("a PROXY header is too short for its addresses")
    secure = _is_secure(extensions)
    if family == _UNIX:
        path = block[108:].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return Told(None, (path, None), secure, is_unix=True)
    width = 4 if family == _INET else 16
    ports = struct.unpack("!HH", block[2 * width :])
    source, destination = (str(address_of(block[i * width : (i + 1) * width])) for i in range(2))
    return Told((source, ports[0]), (destination, ports[1]), secure)


def _is_secure(extensions: bytes) -> bool:
    """Whether the extensions (TLVs) say that the client came over TLS; they must fill the header exactly."""
    secure = False
    while extensions:
        length = int.from_bytes(extensions[1:3], "big") if len(extensions) >= 3 else len(extensions)
        value = extensions[3 : 3 + length]
        if len(value) < length:
            raise ProxyError("an extension of a PROXY header is cut off")
        if extensions[0] == _TYPE_SSL:
            if length < 5:
                raise ProxyError("the TLS extension of a PROXY header is too short")
            secure = bool(value[0] & _CLIENT_SSL)
        extensions = extensions[3 + length :]
    return secure
