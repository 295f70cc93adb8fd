"""Judges a request head: what zttp leaves open, and which status a head that it refuses deserves. Pure.

Invariant: a request that reaches an app names one resource in one way. Its target is in the form its method allows
(RFC 9112 section 3.2), its Host is one valid authority (RFC 3986 section 3.2.2) and agrees with an absolute target,
its framing is Content-Length or the one coding `chunked`.

zttp 0.0.35 checks the syntax of lines and fields and the conflicts of framing; the rest is here. The common request is
passed by a handful of comparisons, everything unusual takes the slow path.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from zttp import HeaderBlock, Request

from supervisor.config.settings import MAX_REQUEST_FIELDS, MAX_REQUEST_LINE
from supervisor.kernel.board import Cell
from supervisor.serve.limits import Limits

HEAD_END = b"\r\n\r\n"
SLASH = 0x2F
HASH = 0x23
PERCENT = 0x25
TLS = 0x16  # the first byte of a handshake record (RFC 8446 section 5.1)


class Refusal(NamedTuple):
    """An answer that no app is asked for: the status, why in a few words for the client, and where that is counted."""

    status: int
    why: str
    by: Cell = Cell.MALFORMED


LONG_LINE = Refusal(414, "the request line is too long", Cell.LIMIT_REQUEST_LINE)
LARGE_HEAD = Refusal(431, "the head is too large", Cell.LIMIT_REQUEST_HEAD)
MANY_FIELDS = Refusal(431, "the head has too many fields", Cell.LIMIT_REQUEST_FIELDS)
LARGE_BODY = Refusal(413, "the body is too large", Cell.MAX_BODY)
SLOW_HEAD = Refusal(408, "the head took too long", Cell.HEAD_TIMEOUT)
SLOW_BODY = Refusal(408, "the body took too long", Cell.BODY_TIMEOUT)
OTHER_VERSION = Refusal(505, "only HTTP/1.1 and HTTP/1.0 are served here", Cell.HTTP_VERSION)
OTHER_CODING = Refusal(501, "the only transfer coding known here is chunked", Cell.NOT_IMPLEMENTED)


class Target(NamedTuple):
    """What an app sees of a target in absolute or asterisk form."""

    path: bytes
    query: bytes


METHODS: dict[bytes, str] = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
}
"""The methods of every day. Others pass as long as they are upper case, as all registered ones are."""

_METHOD = re.compile(rb"[A-Z0-9!#$%&'*+.^_`|~-]+")
_LINE_START = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?: |\Z)")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-\xff]+ HTTP/([0-9])\.([0-9])")
_REG_NAME = rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
_IP_FUTURE = rb"\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\]"
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|(" + _IP_FUTURE + rb"|" + _REG_NAME + rb"))(?::([0-9]{0,5}))?")
_MAX_NAME = 255  # bytes of a host (RFC 3986 section 3.2.2)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_CODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CODING_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*;[\t -~]*)?")
_LENGTH = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)
_HOST_LINE = re.compile(rb"\r\nhost:", re.IGNORECASE)
_FIELD_LINES = re.compile(rb"[^\r\n]+\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r\n)*\r\n")
_MAX_DIGITS = 19  # of a Content-Length: all that 64 bits surely hold, and `int` takes


def fields(request: Request) -> HeaderBlock:
    """The head's fields; on HTTP/1.1 zttp always gives its packed block."""
    return request.headers  # type: ignore[return-value]


known_hosts: set[bytes | None] = set()  # valid ones seen lately


def is_host(value: bytes) -> bool:
    """Whether a Host field holds `uri-host [":" port]`; an empty one is legal only where the target has no authority,
    which nobody serves, so it is refused."""
    if split_host(value) is None:
        return False
    if len(known_hosts) >= 1024:
        known_hosts.clear()
    known_hosts.add(value)
    return True


def split_host(value: bytes) -> tuple[str, int | None] | None:
    """Host, without an IPv6 address's brackets, and port of a Host field; None when it is not one."""
    match = _HOST.fullmatch(value)
    if match is None:
        return None
    address, name, digits = match.groups()
    port = int(digits) if digits else None
    if (port or 0) > 65535 or (len(name) > _MAX_NAME if address is None else not _is_ipv6(address)):
        return None
    return (address or name.strip(b"[]")).decode("ascii"), port


def _is_ipv6(text: bytes) -> bool:
    try:
        ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return False
    return True


def judge(request: Request) -> Target | Refusal | None:
    """None for the ordinary request, whose target is its path; a `Target` for the other forms; else a `Refusal`."""
    target = request.target
    if (
        target[0] == SLASH
        and request.http_version == b"1.1"
        and _is_framed_once(request)
        and request.method in METHODS
        and target.isascii()
        and HASH not in target
        and request.headers.get(b"host") in known_hosts  # type: ignore[union-attr]
    ):
        return None
    return _judge_unusual(request)


def _is_framed_once(request: Request) -> bool:
    """Whether it has no body and says nothing of one, or one length. zttp lets pass a length that is repeated."""
    headers = fields(request)
    lengths = headers.getall(b"content-length")
    if not lengths:
        return request.end_stream
    return headers.get(b"transfer-encoding") is None and len(lengths) == 1 and len(lengths[0]) <= _MAX_DIGITS


def _judge_unusual(request: Request) -> Target | Refusal | None:
    headers = fields(request)
    hosts = headers.getall(b"host")
    if request.http_version != b"1.0" and not hosts:
        return Refusal(400, "a Host field is missing")
    if len(hosts) > 1:
        return Refusal(400, "more than one Host field")
    if hosts and not is_host(hosts[0]):
        return Refusal(400, "the Host field is not a host")
    if request.method == b"CONNECT":
        return Refusal(501, "CONNECT is not served here", Cell.NOT_IMPLEMENTED)
    if not _METHOD.fullmatch(request.method):
        return Refusal(501, "unknown method", Cell.NOT_IMPLEMENTED)
    return _judge_framing(request, headers) or _judge_target(request, hosts[0] if hosts else None)


def _judge_framing(request: Request, headers: HeaderBlock) -> Refusal | None:
    lengths = headers.getall(b"content-length")
    if len(lengths) > 1 or (lengths and len(lengths[0]) > _MAX_DIGITS):
        return Refusal(400, "more than one Content-Length, or one too long")
    codings = headers.getall(b"transfer-encoding")
    if not codings:
        return None
    if request.http_version == b"1.0":
        return Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
    return _judge_codings(codings)


def _judge_codings(codings: list[bytes]) -> Refusal | None:
    """501 is for what is not known here (RFC 9112 section 6.1), 400 for what nobody can know the end of because chunked
    is not the last (section 6.3), and for a list that some readers would mend."""
    names = [name.strip(b" \t").lower() for name in b",".join(codings).split(b",")]
    if names == [b"chunked"]:
        return None
    if b"chunked" in names[:-1] or not all(map(_CODING_NAME.fullmatch, names)):
        return Refusal(400, "malformed Transfer-Encoding")
    return OTHER_CODING


def _judge_target(request: Request, host: bytes | None) -> Target | Refusal | None:
    target = request.target
    if not target.isascii() or HASH in target:
        return Refusal(400, "the target has characters that a URI can't have")
    if target[0] == SLASH:
        return None
    if target == b"*":
        return Target(b"*", b"") if request.method == b"OPTIONS" else Refusal(400, "the target * is for OPTIONS")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return Refusal(400, "the target is neither a path nor an http URI")
    authority, path, query = absolute.groups()
    if not is_host(authority):
        return Refusal(400, "the target's authority is not a host")
    if host is not None and host.lower() != authority.lower():
        return Refusal(400, "Host and target disagree")
    return Target(path or b"/", query or b"")


def mounted(root: str, path: str) -> str:
    """The path of an app below `root` as ASGI wants it, which is with the root, whether a proxy has taken that off or
    not (and with neither for the asterisk)."""
    return path if path == root or path.startswith(root + "/") or path[:1] != "/" else root + path


def decode_path(raw: bytes) -> str:
    """The path as ASGI wants it: percent-decoded, then UTF-8, with U+FFFD for what is not."""
    if PERCENT not in raw:
        return raw.decode("ascii")
    return unquote_to_bytes(raw).decode("utf-8", "replace")


def skip_empty_lines(data: bytes) -> bytes:
    """Drop empty lines before a request (RFC 9112 section 2.2); a lone CR at the end may become one and stays."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]


def judge_partial(data: bytes, fresh: int, limits: Limits) -> Refusal | None:
    """Refuse an unfinished head as soon as it can't become a good one. `fresh` is where its new bytes start.

    What comes first in the bytes is told, so that it is told of a head in pieces as of a whole one.
    """
    line = limits.request_line + 2
    if data != b"\r" and not _LINE_START.match(data, 0, line):
        return Refusal(400, "this is TLS, and the port is for plain HTTP" if data[0] == TLS else "this is not HTTP")
    is_long = len(data) >= line and data.find(b"\r\n", 0, line) < 0
    if _BARE.search(data, max(fresh - 1, 0), line if is_long else limits.head + 1):
        return Refusal(400, "a CR or LF that is no line's end")
    if is_long:
        return LONG_LINE
    return LARGE_HEAD if len(data) > limits.head else None


def judge_size(head: bytes, limits: Limits) -> Refusal | None:
    """Whether a whole head is within the limits. Those of up to `limits.small_head` bytes need not be shown here."""
    if len(head) > limits.head or head.find(b"\r\n", 0, limits.request_line + 2) < 0:
        return judge_partial(head, 0, limits)
    return (judge_partial(head, 0, limits) or MANY_FIELDS) if _count_fields(head) > limits.fields else None


def _count_fields(head: bytes) -> int:
    """Every line of a whole head but the first, and the empty one that ends it."""
    return head.count(b"\r\n") - 2


def _is_sound(head: bytes) -> bool:
    """Whether a whole head that zttp refused has nothing the matter with it but, perhaps, its transfer codings."""
    return bool(_FIELD_LINES.fullmatch(head)) and len(_HOST_LINE.findall(head)) == 1 and not _LENGTH.search(head)


def refusal_of(head: bytes, oversized: bool) -> Refusal:
    """Which status a head deserves that zttp refused; `oversized` when it was for its size or number of fields."""
    line = head.partition(b"\r\n")[0]
    parts = _REQUEST_LINE.fullmatch(line)
    if parts is None:
        return Refusal(400, "malformed request line")
    if parts[1] != b"1":
        return OTHER_VERSION
    if oversized:
        if len(line) > MAX_REQUEST_LINE:
            return LONG_LINE
        return MANY_FIELDS if _count_fields(head) > MAX_REQUEST_FIELDS else LARGE_HEAD
    codings = _CODING.findall(head)
    if codings and parts[2] != b"0" and _is_sound(head) and (refusal := _judge_codings(codings)):
        return refusal
    return Refusal(400, "malformed header or ambiguous framing")
