"""A second reading of what a client sends, to hold the server's against: RFC 9112 by the letter, slow and plain.

Invariant: it shares no code and no parser with the server, and whatever two careful readers could take for different
requests is `BAD` here. Rules beyond the RFC's that the server has chosen are named as such.
"""

from __future__ import annotations

import enum
import ipaddress
import string
from typing import NamedTuple

TOKEN = frozenset(b"!#$%&'*+-.^_`|~" + (string.ascii_letters + string.digits).encode())  # RFC 9110 section 5.6.2
DIGITS = frozenset(string.digits.encode())
HEX = frozenset(string.hexdigits.encode())
REG_NAME = frozenset(b"-._~!$&'()*+,;=" + (string.ascii_letters + string.digits).encode())  # RFC 3986 section 3.2.2
UNWISE = frozenset(b"<>\\^`{|}")  # in no URI, but sent by browsers: chosen to be let through
TARGET = REG_NAME | frozenset(b":@/?[]%") | UNWISE
MAX_FIELDS = 100
MAX_DIGITS = 19  # of a Content-Length; chosen


class End(enum.Enum):
    """How the stream goes on behind the last whole request."""

    CLEAN = "clean"  # nothing is left, and a further request may follow
    UNFINISHED = "unfinished"  # the beginning of something
    CLOSED = "closed"  # the client has said that no further request follows; what does, means nothing
    BAD = "bad"
    SWITCHES = "switches"  # the last request asks for WebSocket: what follows is not HTTP


class Asked(NamedTuple):
    """One request."""

    method: str
    path: bytes
    query: bytes
    version: bytes
    fields: tuple[tuple[bytes, bytes], ...]  # names in lower case
    body: bytes


class Reading(NamedTuple):
    """`begun` is a request with a good head whose body is not whole, or bad; `methods` are those to read answers by."""

    asked: list[Asked]
    end: End
    methods: list[str]
    begun: Asked | None = None
    why: str = ""
    statuses: frozenset[int] = frozenset()  # any of which answers what is bad


class BadError(Exception):
    """What was sent is no request, or more than one."""

    def __init__(self, why: str, *statuses: int) -> None:
        super().__init__(why)
        self.statuses = frozenset(statuses or (400,))


class UnfinishedError(Exception):
    """More bytes are needed."""


def read(stream: bytes, *, switches: bool = True) -> Reading:
    """All that `stream` asks for. Limits on sizes are not looked at, but for the number of fields. To a server that
    never `switches` to WebSocket, whoever asks for that has asked for a plain answer (RFC 9110 section 7.8)."""
    asked: list[Asked] = []
    methods: list[str] = []
    begun = None
    at = 0
    while True:
        while stream.startswith(b"\r\n", at):  # RFC 9112 section 2.2
            at += 2
        if at == len(stream):
            return Reading(asked, End.CLEAN, methods)
        methods.append("HEAD" if stream.startswith(b"HEAD ", at) else "GET")
        try:
            begun, length, at = _head(stream, at)
            body, at = _chunked(stream, at) if length is None else _sized(stream, at, length)
        except UnfinishedError:
            return Reading(asked, End.UNFINISHED, methods, begun)
        except BadError as error:
            return Reading(asked, End.BAD, methods, begun, str(error), error.statuses)
        asked.append(begun._replace(body=body))
        end = _end(begun, switches=switches)
        if end is not End.CLEAN:
            return Reading(asked, end, methods)
        begun = None


def _head(stream: bytes, at: int) -> tuple[Asked, int | None, int]:
    """A request without its body, whose length is None when it is chunked, and where the body begins."""
    _method(stream, at)
    line, at = _line(stream, at)
    lines = []
    while True:
        field, at = _line(stream, at)
        if not field:
            break
        lines.append(field)
    method, target, version = _request_line(line)
    fields = tuple(_field(each) for each in lines)
    if len(fields) > MAX_FIELDS:
        raise BadError("too many fields", 431)
    host = _host(fields, version)
    length = _framing(fields, version)
    path, query = _target(method, target, host)
    return Asked(method, path, query, version, fields, b""), length, at


def _method(stream: bytes, at: int) -> None:
    """What can become no method is told before its line has come."""
    end = at
    while end < len(stream) and stream[end] in TOKEN:
        end += 1
    if stream[at:] != b"\r" and end < len(stream) and (end == at or stream[end] != 0x20):
        raise BadError("the request line does not begin with a method")


def _line(stream: bytes, at: int) -> tuple[bytes, int]:
    """A line without its CRLF; a CR or LF alone is never part of one (RFC 9112 section 2.2)."""
    end = at
    while end < len(stream) and stream[end] not in b"\r\n":
        end += 1
    if end == len(stream) or stream[end:] == b"\r":
        raise UnfinishedError
    if stream[end : end + 2] != b"\r\n":
        raise BadError("a bare CR or LF")
    return stream[at:end], end + 2


def _request_line(line: bytes) -> tuple[str, bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not all(parts):
        raise BadError("the request line is not three words")
    method, target, version = parts
    if not set(method) <= TOKEN:
        raise BadError("the method is not a token")
    if not version.startswith(b"HTTP/") or len(version) != 8 or version[6:7] != b".":
        raise BadError("there is no version")
    major, minor = version[5:6], version[7:8]
    if not major.isdigit() or not minor.isdigit():
        raise BadError("the version is not made of digits")
    if major != b"1":
        raise BadError("another major version", 505, 400)
    return method.decode(), target, b"1.0" if minor == b"0" else b"1.1"


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not set(name) <= TOKEN:
        raise BadError("a field's name is not a token and a colon")
    if _has_controls(value):
        raise BadError("a control character in a field")
    return name.lower(), value.strip(b" \t")


def _has_controls(text: bytes) -> bool:
    return any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in text)


def _all(fields: tuple[tuple[bytes, bytes], ...], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]


def _listed(fields: tuple[tuple[bytes, bytes], ...], name: bytes) -> set[bytes]:
    return {element.strip(b" \t").lower() for value in _all(fields, name) for element in value.split(b",")}


def _host(fields: tuple[tuple[bytes, bytes], ...], version: bytes) -> bytes | None:
    hosts = _all(fields, b"host")
    if len(hosts) > 1 or (not hosts and version != b"1.0"):
        raise BadError("not exactly one Host")
    if hosts and not is_authority(hosts[0]):
        raise BadError("Host is not a host")
    return hosts[0] if hosts else None


def is_authority(text: bytes) -> bool:
    """`uri-host [":" port]` of RFC 3986, 3.2.2 and 3.2.3, not empty, and with a port that TCP has."""
    if text.startswith(b"["):
        literal, bracket, port = text[1:].partition(b"]")
        if not bracket or not _is_ip_literal(literal) or (port and not port.startswith(b":")):
            return False
        port = port[1:]
    else:
        name, _colon, port = text.partition(b":")
        if not _is_reg_name(name):
            return False
    return set(port) <= DIGITS and len(port) <= 5 and int(port or b"0") <= 65535


def _is_ip_literal(text: bytes) -> bool:
    if text[:1] in (b"v", b"V"):
        version, dot, address = text[1:].partition(b".")
        return bool(dot and version and address) and set(version) <= HEX and set(address) <= REG_NAME | {0x3A}
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return False
    return b"%" not in text


def _is_reg_name(name: bytes) -> bool:
    at = 0
    while at < len(name):
        if name[at] == 0x25:
            if len(name) < at + 3 or not set(name[at + 1 : at + 3]) <= HEX:
                return False
            at += 3
        elif name[at] in REG_NAME:
            at += 1
        else:
            return False
    return 0 < len(name) <= 255


def _framing(fields: tuple[tuple[bytes, bytes], ...], version: bytes) -> int | None:
    """The body's length; None when it is chunked (RFC 9112 section 6.3)."""
    lengths, codings = _all(fields, b"content-length"), _all(fields, b"transfer-encoding")
    if codings:
        if lengths or version == b"1.0":
            raise BadError("two ways to frame the body", 400, 501)
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadError("an unknown coding", 501, 400)
        return None
    if len(lengths) > 1:
        raise BadError("more than one Content-Length")
    if lengths and (not lengths[0] or not set(lengths[0]) <= DIGITS or len(lengths[0]) > MAX_DIGITS):
        raise BadError("Content-Length is not a number")
    return int(lengths[0]) if lengths else 0


def _target(method: str, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Path and query (RFC 9112 section 3.2)."""
    if method == "CONNECT" or method != method.upper():
        raise BadError("not implemented", 501, 400)  # chosen: registered methods are all upper case
    if not set(target) <= TARGET:
        raise BadError("the target has a character of no URI")
    if target == b"*":
        if method != "OPTIONS":
            raise BadError("the target * is for OPTIONS")
        return b"*", b""
    if not target.startswith(b"/"):
        scheme, mark, rest = target.partition(b"://")
        if scheme.lower() not in (b"http", b"https") or not mark:
            raise BadError("the target is neither a path nor an http URI")
        ends = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
        authority = rest[: min(ends)] if ends else rest
        if not is_authority(authority) or (host is not None and authority.lower() != host.lower()):
            raise BadError("the target's authority is not the Host")
        target = rest[len(authority) :]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _mark, query = target.partition(b"?")
    return path, query


def _end(asked: Asked, *, switches: bool) -> End:
    options = _listed(asked.fields, b"connection")
    protocols = _listed(asked.fields, b"upgrade") if switches and b"upgrade" in options else []
    if asked.version == b"1.1" and b"websocket" in protocols:
        return End.SWITCHES
    if b"close" in options or (asked.version == b"1.0" and b"keep-alive" not in options):
        return End.CLOSED
    return End.CLEAN


def _sized(stream: bytes, at: int, length: int) -> tuple[bytes, int]:
    if len(stream) - at < length:
        raise UnfinishedError
    return stream[at : at + length], at + length


def _chunked(stream: bytes, at: int) -> tuple[bytes, int]:
    """RFC 9112 section 7.1."""
    body = b""
    while True:
        line, at = _line(stream, at)
        digits, semicolon, extensions = line.partition(b";")
        if semicolon:
            digits = digits.rstrip(b" \t")
        if not 0 < len(digits) <= 16 or not set(digits) <= HEX:
            raise BadError("a bad chunk size")
        if semicolon and (_has_controls(extensions) or not _are_extensions(b";" + extensions)):
            raise BadError("a bad chunk extension")
        size = int(digits, 16)
        if not size:
            break
        if len(stream) - at < size + 2:
            raise UnfinishedError
        body, at = body + stream[at : at + size], at + size + 2
        if stream[at - 2 : at] != b"\r\n":
            raise BadError("a chunk longer than its size")
    while True:
        line, at = _line(stream, at)
        if not line:
            return body, at
        if _field(line)[0] in (b"content-length", b"transfer-encoding", b"host"):
            raise BadError("a trailer that says where its message ends, or what it is")


def _are_extensions(text: bytes) -> bool:
    """`*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`"""
    scan = _Scan(text)
    while scan.at < len(text):
        scan.blanks()
        if not scan.literal(b";"):
            return False
        scan.blanks()
        if not scan.token():
            return False
        before = scan.at
        scan.blanks()
        if not scan.literal(b"="):
            scan.at = before
            continue
        scan.blanks()
        if not (scan.quoted() or scan.token()):
            return False
    return True


class _Scan:
    """Steps through a text; each method but `blanks` says whether what it is named after was there."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def blanks(self) -> None:
        while self.text[self.at : self.at + 1] in (b" ", b"\t"):
            self.at += 1

    def literal(self, byte: bytes) -> bool:
        found = self.text[self.at : self.at + 1] == byte
        self.at += found
        return found

    def token(self) -> bool:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in TOKEN:
            self.at += 1
        return self.at > start

    def quoted(self) -> bool:
        """The text holds no control characters, as all lines here."""
        if not self.literal(b'"'):
            return False
        while self.at < len(self.text) and self.text[self.at] != 0x22:
            self.at += 2 if self.text[self.at : self.at + 1] == b"\\" else 1
        return self.literal(b'"')
