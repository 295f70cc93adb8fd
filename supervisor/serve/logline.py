"""What a line of the access log says, compiled once from its format to the function that writes it.

Invariant: a line is one line of printable ASCII, or one JSON object, whatever a client has sent. Backslash, quote and
everything that is not printable is escaped as `\\xhh`.

Source: mod_log_config of Apache, and gunicorn's `access_log_format`, whose atoms these are.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from supervisor.config.values import ATOM
from supervisor.serve.head import fields

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PLAIN = bytes(i for i in range(32, 127) if i not in b'"\\')


class Writer(NamedTuple):
    """Who writes: `worker` is `web:2`."""

    worker: str
    generation: int
    pid: int


Client = tuple[str, int] | None
Render = Callable[[Client, "Exchange", float], bytes]
"""From the client, the finished exchange, and the seconds it took, to a line with its newline."""


def compile_format(text: str, writer: Writer) -> Render:
    """`combined`, `json`, or a format with atoms, which was checked as a setting."""
    if text == "json":
        return _json(writer)
    return _combined() if text in ("combined", COMBINED) else _custom(text, writer)


class _Clock:
    """The time of day as Apache writes it, made once a second. `text` holds from `since` to `until`."""

    def __init__(self) -> None:
        self.since = self.until = 0.0
        self.text = b""

    def read(self) -> bytes:
        if not self.since <= time.time() < self.until:
            self.set()
        return self.text

    def set(self) -> None:
        now = int(time.time())
        at = time.localtime(now)
        self.text = time.strftime(f"[%d/{_MONTHS[at.tm_mon - 1]}/%Y:%H:%M:%S %z]", at).encode("ascii")
        self.since, self.until = float(now), now + 1.0


def _combined() -> Render:
    """The everyday format, written out, which is twice as fast as its atoms."""
    clock = _Clock()
    wall = time.time

    def render(client: Client, exchange: Exchange, _seconds: float) -> bytes:
        if not clock.since <= wall() < clock.until:
            clock.set()
        request = exchange.request
        target = request.target
        get = request.headers.get  # type: ignore[union-attr]
        referer, agent, authorization = get(b"referer", b"-"), get(b"user-agent", b"-"), get(b"authorization")
        if (target + referer + agent).translate(None, _PLAIN):
            target, referer, agent = (quoted(value).encode("ascii") for value in (target, referer, agent))
        return b'%b - %b %b "%b %b HTTP/%b" %d %b "%b" "%b"\n' % (
            client[0].encode() if client else b"-",
            _user(authorization).encode("ascii") if authorization else b"-",
            clock.text,
            request.method,
            target,
            request.http_version,
            exchange.status,
            b"%d" % exchange.sent if exchange.sent else b"-",
            referer,
            agent,
        )

    return render


_JSON = (
    b'{"ts":%%.6f,"client":%%b,"method":"%%b","path":%%b,"protocol":"HTTP/%%b","status":%%d,"bytes":%%d,"duration":%%.6f,'
    b'"referer":%%b,"user_agent":%%b,"request_id":"%%b","worker":%b,"generation":%d}\n'
)


def _json(writer: Writer) -> Render:
    """`duration` is seconds from head to answer, `bytes` counts the body. What can need no escape is not encoded."""
    encode = msgspec.json.Encoder().encode
    template = _JSON % (encode(writer.worker).replace(b"%", b"%%"), writer.generation)

    def text(value: bytes) -> bytes:
        return encode(value.decode("latin-1"))

    def render(client: Client, exchange: Exchange, seconds: float) -> bytes:
        request = exchange.request
        target = request.target
        get = request.headers.get  # type: ignore[union-attr]
        referer, agent = get(b"referer"), get(b"user-agent")
        quote = b'"%b"'.__mod__ if not (target + (referer or b"") + (agent or b"")).translate(None, _PLAIN) else text
        return template % (
            time.time(),
            b'"%b"' % client[0].encode() if client else b"null",
            request.method,
            quote(target),
            request.http_version,
            exchange.status,
            exchange.sent,
            seconds,
            b"null" if referer is None else quote(referer),
            b"null" if agent is None else quote(agent),
            exchange.trace["request_id"].encode("ascii"),
        )

    return render


Atom = Callable[[Client, "Exchange", float], object]


def _custom(text: str, writer: Writer) -> Render:
    atoms: list[Atom] = []
    template = ""
    end = 0
    for match in ATOM.finditer(text):
        template += text[end : match.start()].replace("%", "%%") + ("%s" if match["name"] else "%%")
        end = match.end()
        if match["name"]:
            atoms.append(_atom(match["name"], match["field"], writer))
    template += text[end:].replace("%", "%%") + "\n"

    def render(client: Client, exchange: Exchange, seconds: float) -> bytes:
        return (template % tuple([atom(client, exchange, seconds) for atom in atoms])).encode("utf-8", "replace")

    return render


def _atom(name: str, field: str | None, writer: Writer) -> Atom:
    if field is not None:
        return _FIELDS[name](field)
    clock = _Clock().read
    known: dict[str, Atom] = {
        "t": lambda *_: clock().decode("ascii"),
        "p": lambda *_: f"<{writer.pid}>",
        "w": lambda *_: writer.worker,
        "g": lambda *_: writer.generation,
        "l": lambda *_: "-",
    }
    return known.get(name) or _ATOMS[name]


_ATOMS: dict[str, Atom] = {
    "h": lambda client, *_: client[0] if client else "-",
    "u": lambda _, exchange, __: _user(fields(exchange.request).get(b"authorization", b"")),
    "r": lambda _, exchange, __: f"{exchange.method} {quoted(exchange.request.target)} {_protocol(exchange)}",
    "m": lambda _, exchange, __: exchange.method,
    "U": lambda _, exchange, __: quoted(exchange.request.target.partition(b"?")[0]),
    "q": lambda _, exchange, __: quoted(exchange.request.target.partition(b"?")[2]),
    "H": lambda _, exchange, __: _protocol(exchange),
    "s": lambda _, exchange, __: exchange.status,
    "B": lambda _, exchange, __: exchange.sent,
    "b": lambda _, exchange, __: exchange.sent or "-",
    "f": lambda _, exchange, __: quoted(fields(exchange.request).get(b"referer", b"-")),
    "a": lambda _, exchange, __: quoted(fields(exchange.request).get(b"user-agent", b"-")),
    "T": lambda _, __, seconds: int(seconds),
    "D": lambda _, __, seconds: int(seconds * 1e6),
    "M": lambda _, __, seconds: int(seconds * 1e3),
    "L": lambda _, __, seconds: f"{seconds:.6f}",
    "I": lambda _, exchange, __: exchange.trace["request_id"],
}


def _field_in(field: str) -> Atom:
    name = field.lower().encode("latin-1")
    return lambda _client, exchange, _seconds: quoted(fields(exchange.request).get(name, b"-"))


def _field_out(field: str) -> Atom:
    start = b"\r\n" + field.lower().encode("latin-1") + b": "

    def read(_client: Client, exchange: Exchange, _seconds: float) -> str:
        text = exchange.answered()
        at = text.lower().find(start)
        return "-" if at < 0 else quoted(text[at + len(start) : text.index(b"\r\n", at + 2)])

    return read


def _variable(name: str) -> Atom:
    value = quoted(os.environb.get(os.fsencode(name), b"-"))
    return lambda *_: value


_FIELDS: dict[str, Callable[[str], Atom]] = {"i": _field_in, "o": _field_out, "e": _variable}


def _protocol(exchange: Exchange) -> str:
    return "HTTP/" + exchange.request.http_version.decode()


def _user(authorization: bytes) -> str:
    """The name of HTTP's Basic authentication (RFC 7617), `-` for none."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic" or len(credentials) > 1024:
        return "-"
    try:
        name = base64.b64decode(credentials.strip(), validate=True).partition(b":")[0]
    except binascii.Error:
        return "-"
    return quoted(name).replace(" ", "\\x20") or "-"


def quoted(value: bytes) -> str:
    """What a client sent, made safe to stand between quotes: everything else than printable ASCII is escaped."""
    if not value.translate(None, _PLAIN):
        return value.decode("ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in value)
