"""What a line of the access log says, compiled once from its format to the function that writes it.

Invariant: a line is one line, or one JSON object, of printable ASCII, whatever a client has sent; only the text of the
format itself may be more.

A format is text with atoms in it. Each atom is an expression of Python (`_ATOMS`), what several need is computed once
(`_STEPS`), and one function is written from them and compiled, as dataclasses does for `__init__`. So a line costs what
its own atoms cost, and nothing is interpreted again for each request. What a head alone says, of one that is kept
(`http1/familiar.py`), is written once.

Source: mod_log_config of Apache, and gunicorn's `access_log_format`, whose atoms these are.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from math import trunc
from textwrap import indent
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from supervisor.serve.access import text as logtext
from supervisor.serve.access.text import Memo, json_quoted, quoted, seconds, user_of

if TYPE_CHECKING:
    from supervisor.serve.access.trace import Trace
    from supervisor.serve.http1.familiar import Head

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
_JSON = (
    '{"ts":%(ts)s,"client":%(client)s,"method":"%(m)s","path":%(path)s,"protocol":"%(H)s","status":%(s)s,"bytes":%(B)s,'
    '"duration":%(L)s,"referer":%(referer)s,"user_agent":%(agent)s,"request_id":"%(I)s","worker":"%(w)s",'
    '"generation":%(g)s}'
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Writer(NamedTuple):
    """Who writes: `worker` is `web:2`."""

    worker: str
    generation: int
    pid: int


class Logged(Protocol):
    """An exchange that has ended, as far as a line tells of it."""

    head: Head
    status: int
    sent: int
    since: float
    trace: Trace

    def answered(self) -> bytes:
        """See `Exchange`."""


Client = tuple[str, int] | None
Render = Callable[[Client, Logged], str]
"""From a client and its finished exchange to a line with its newline."""


class Clock:
    """The time of day as text, right until `until`, which is of `now`: seconds that never jump."""

    def __init__(self, now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.now = now
        self._wall = wall
        self.until = 0.0
        self.renew()

    def renew(self) -> float:
        """Make the text right. Returns `now`."""
        now = self.now()
        if now >= self.until:
            wall = self._wall()
            second = int(wall)
            self.begun = now - (wall - second)
            self.until = self.begun + 1.0
            at = time.localtime(second)
            self.apache = time.strftime(f"[%d/{_MONTHS[at.tm_mon - 1]}/%Y:%H:%M:%S %z]", at)
            self.unix = str(second)
        return now


def compile_format(template: str, writer: Writer, clock: Clock) -> Render:
    """`combined`, `json`, or a format with atoms, which was checked as a setting.

    `%(t)s` says what `clock` says, who has to be renewed when a batch of lines begins.
    """
    source = _Source(writer)
    source.add({"combined": COMBINED, "json": _JSON}.get(template, template) + "\n")
    names: dict[str, Any] = {**vars(logtext), "clock": clock, "now": clock.now, "trunc": trunc, **source.tables}
    exec(compile(source.function(), "<access log>", "exec"), names)  # noqa: S102 - what a setting says is in it as repr
    return cast("Render", names["render"])


_PIECE = re.compile(r"%(?:%|\((?:\{(?P<field>[^}]+)\})?(?P<name>[A-Za-z]+)\)s)")

_ATOMS = {
    "h": 'client[0] if client else "-"',
    "t": "clock.apache",
    "m": "head.method",
    "H": '"HTTP/1.0" if head.legacy else "HTTP/1.1"',
    "s": "DIGITS[exchange.status]",
    "I": "exchange.trace.name or exchange.trace.named()",
    "o": "answered_field(exchange, {field!r})",
    "e": "variable(exchange, {field!r})",
    "second": "clock.unix",
    "millisecond": "DIGITS[trunc((ended - clock.begun) * 1000)]",
}
"""Expressions of a string; `field` is what the format has in braces."""

_TABLES: dict[str, tuple[Callable[[Any], str], str]] = {
    "client": (json.dumps, "client and client[0]"),
    "target": (quoted, "request.target"),
    "path": (json_quoted, "request.target"),
    "U": (quoted, 'request.target.partition(b"?")[0]'),
    "q": (quoted, 'request.target.partition(b"?")[2]'),
    "B": (str, "exchange.sent"),
    "b": (lambda size: str(size or "-"), "exchange.sent"),
    "T": (str, "micros // 1000000"),
    "M": (str, "micros // 1000"),
    "D": (str, "micros"),
    "L": (seconds, "micros"),
}
"""How a value is written, and the expression of the value."""

_FIELDS: dict[str, tuple[Callable[[bytes], str], str, str]] = {
    "i": (quoted, "", "-"),
    "u": (user_of, "authorization", "-"),
    "f": (quoted, "referer", "-"),
    "a": (quoted, "user-agent", "-"),
    "referer": (json_quoted, "referer", "null"),
    "agent": (json_quoted, "user-agent", "null"),
}
"""How a field of the request is written, its name, and the text for nothing."""

_OF_HEAD = frozenset(("m", "H", "target", "path", "U", "q"))  # as are all fields

_COMPOUND = {"r": "%(m)s %(target)s %(H)s", "ts": "%(second)s.%(millisecond)s"}

_STEPS = (
    ("headers", "headers = request.headers"),
    ("request", "request = head.request"),
    ("head", "head = exchange.head"),
    ("micros", "micros = trunc((ended - exchange.since) * 1e6)"),
    ("clock.begun", "if ended >= clock.until:\n    clock.renew()"),
    ("ended", "ended = now()"),
)
"""What has to stand before the first mention of a name, the last step first."""


class _Part(NamedTuple):
    """An expression of a string, which is part of a line."""

    expression: str
    is_own: bool = False  # it says something else for each request
    is_text: bool = False  # it is always the same


class _Source:
    """The function that writes a line, as text, and the tables that it uses.

    A line is a tuple of strings, joined, and each of them is felt. So what stands before a value in every line is in
    the table of its texts already.
    """

    def __init__(self, writer: Writer) -> None:
        self.tables: dict[str, Memo[Any]] = {}
        self._constants = {"l": "-", "p": f"<{writer.pid}>", "w": writer.worker, "g": str(writer.generation)}
        self._parts: list[_Part] = []
        self._text = ""  # what comes next and is the same in every line
        self._fields: list[tuple[str, str, str]] = []  # a name, the table's, and the text for nothing

    def add(self, template: str) -> None:
        end = 0
        for match in _PIECE.finditer(template):
            self._text += template[end : match.start()]
            end = match.end()
            self._add_atom(match["name"] or "", match["field"] or "")
        self._text += template[end:]

    def function(self) -> str:
        parts = [*self._parts, _Part(repr(self._text), is_text=True)]
        said: list[str] = []  # by the head alone
        short: list[_Part] = []  # the line, with that in a tuple
        for is_own, group in groupby(parts, key=lambda part: part.is_own):
            run = list(group)
            if is_own or all(part.is_text for part in run):
                short += run
            else:
                short.append(_Part(f"said[{len(said)}]"))
                said.append(f"{_joined(run)}, ")
        again = ["said = exchange.head.logged or remember(exchange)", *self._steps(f"return {_joined(short)}")]
        remember = self._steps(f"said = exchange.head.logged = ({''.join(said)})")
        shortcut = [_block("if exchange.head.is_kept:", *again)] if said else []
        return "\n".join(
            (
                _block("def remember(exchange):", *remember, "return said"),
                _block("def render(client, exchange):", *shortcut, *self._steps(f"return {_joined(parts)}")),
            )
        )

    def _steps(self, last: str) -> list[str]:
        """`last`, behind all that it needs."""
        lines = [last]
        if any(f"field{number}" in last for number in range(len(self._fields))):
            lines.insert(0, self._look_up())
        for name, step in _STEPS:
            if name in "\n".join(lines):
                lines.insert(0, step)
        return lines

    def _add_atom(self, name: str, field: str) -> None:
        if name in _COMPOUND:
            self.add(_COMPOUND[name])
        elif name in _TABLES:
            write, value = _TABLES[name]
            text = f"{self._table(self._take_text(), write)}[{value}]"
            self._parts.append(_Part(text, is_own=name not in _OF_HEAD))
        elif name in _FIELDS:
            write, known, nothing = _FIELDS[name]
            before = self._take_text()
            self._parts.append(_Part(f"field{len(self._fields)}"))
            self._fields.append((known or field.lower(), self._table(before, write), before + nothing))
        elif name in _ATOMS:
            if self._text:
                self._parts.append(_Part(repr(self._take_text()), is_text=True))
            self._parts.append(_Part(_ATOMS[name].format(field=field), is_own=name not in _OF_HEAD))
        else:
            self._text += self._constants.get(name, "%")

    def _take_text(self) -> str:
        text, self._text = self._text, ""
        return text

    def _table(self, before: str, write: Callable[[Any], str]) -> str:
        name = f"table{len(self.tables)}"
        self.tables[name] = Memo(lambda value: before + write(value), keeps=write is not user_of)  # no passwords
        return name

    def _look_up(self) -> str:
        """To look for a field costs more than to write it, and a head with one field has Host alone (in HTTP/1.0 it
        may be another)."""
        found, nothing = ["get = headers.get"], []
        for number, (field, table, text) in enumerate(self._fields):
            found.append(f"value = get({field.encode()!r})")
            found.append(f"field{number} = {text!r} if value is None else {table}[value]")
            nothing.append(f"field{number} = {text!r}")
        is_host_asked = any(field == "host" for field, _, _ in self._fields)
        condition = "headers" if is_host_asked else "head.says_more or head.legacy"
        return "\n".join((_block(f"if {condition}:", *found), _block("else:", *nothing)))


def _joined(parts: Iterable[_Part]) -> str:
    return f"''.join(({', '.join(part.expression for part in parts)},))"


def _block(opening: str, *lines: str) -> str:
    return "\n".join((opening, *(indent(line, "    ") for line in lines)))
