"""What a line of the access log says, compiled once from its format to the function that writes it.

Invariant: a line is one line, or one JSON object, of printable ASCII, whatever a client has sent; only the text of the
format itself may be more.

A format is text with atoms in it. Each atom is an expression of Python (`_ATOMS`), what several need is computed once
(`_STEPS`), and one function is written from them and compiled, as dataclasses does for `__init__`. So a line costs what
its own atoms cost, and nothing is interpreted again for each request.

Source: mod_log_config of Apache, and gunicorn's `access_log_format`, whose atoms these are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from math import trunc
from typing import TYPE_CHECKING, NamedTuple, cast

from supervisor.serve import logtext

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange

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


Client = tuple[str, int] | None
Render = Callable[[Client, "Exchange"], str]
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
    source.add({"combined": COMBINED, "json": _JSON}.get(template, template))
    names = {"clock": clock, "now": clock.now, "trunc": trunc, **vars(logtext)}
    exec(compile(source.function(), "<access log>", "exec"), names)  # noqa: S102 - what a setting says is in it as repr
    return cast("Render", names["render"])


_PIECE = re.compile(r"%(?:%|\((?:\{(?P<field>[^}]+)\})?(?P<name>[A-Za-z]+)\)s)")

_ATOMS = {
    "h": 'client[0] if client else "-"',
    "t": "clock.apache",
    "m": "exchange.method",
    "target": "texts[request.target]",
    "U": 'texts[request.target.partition(b"?")[0]]',
    "q": 'texts[request.target.partition(b"?")[2]]',
    "H": '"HTTP/1.0" if exchange.legacy else "HTTP/1.1"',
    "s": "DIGITS[exchange.status]",
    "B": "numbers[exchange.sent]",
    "b": 'numbers[exchange.sent] if exchange.sent else "-"',
    "T": "numbers[micros // 1000000]",
    "M": "numbers[micros // 1000]",
    "D": "numbers[micros]",
    "millis": "seconds[micros // 1000]",
    "micros": "DIGITS[micros % 1000]",
    "I": "exchange.trace.name or exchange.trace.named()",
    "second": "clock.unix",
    "fraction": "DIGITS[trunc((ended - clock.begun) * 1000)]",
    "client": 'json_hosts[client[0]] if client else "null"',
    "path": "json_texts[request.target]",
}
"""Expressions of a string."""

_LOOKED_UP = {
    "u": ("authorization", "user_of(found)", "-"),
    "f": ("referer", "texts[found]", "-"),
    "a": ("user-agent", "texts[found]", "-"),
    "referer": ("referer", "json_texts[found]", "null"),
    "agent": ("user-agent", "json_texts[found]", "null"),
}
"""Fields of the request: the name, the expression of what was found, and the text for nothing."""

_COMPOUND = {
    "r": "%(m)s %(target)s %(H)s",
    "L": "%(millis)s%(micros)s",
    "ts": "%(second)s.%(fraction)s",
}

_STEPS = (
    ("headers", "headers = request.headers"),
    ("request", "request = exchange.request"),
    ("micros", "micros = trunc((ended - exchange.since) * 1e6)"),
    ("clock.begun", "if ended >= clock.until:\n        clock.renew()"),
    ("ended", "ended = now()"),
)
"""What has to stand before the first mention of a name, the last step first."""


class _Source:
    """The function that writes a line, as text."""

    def __init__(self, writer: Writer) -> None:
        self._constants = {"l": "-", "p": f"<{writer.pid}>", "w": writer.worker, "g": str(writer.generation)}
        self._parts: list[str] = []  # expressions
        self._text = ""  # what comes next and is the same in each line
        self._looked_up: list[tuple[str, str, str]] = []

    def add(self, template: str) -> None:
        end = 0
        for match in _PIECE.finditer(template):
            self._text += template[end : match.start()]
            end = match.end()
            self._add_atom(match["name"] or "", match["field"])
        self._text += template[end:]

    def function(self) -> str:
        self._text += "\n"
        self._end_text()
        lines = [f"return ''.join(({', '.join(self._parts)},))"]
        if self._looked_up:
            lines.insert(0, self._look_up())
        for name, step in _STEPS:
            if name in "\n".join(lines):
                lines.insert(0, step)
        return "\n    ".join(["def render(client, exchange):", *lines])

    def _add_atom(self, name: str, field: str | None) -> None:
        if field is not None:
            self._add_expression(self._of_field(name, field))
        elif name in _LOOKED_UP:
            self._add_expression(self._field(*_LOOKED_UP[name]))
        elif name in _ATOMS:
            self._add_expression(_ATOMS[name])
        elif name in _COMPOUND:
            self.add(_COMPOUND[name])
        else:
            self._text += self._constants.get(name, "%")

    def _of_field(self, name: str, field: str) -> str:
        if name == "i":
            return self._field(field.lower(), "texts[found]", "-")
        return f"answered_field(exchange, {field!r})" if name == "o" else f"variable(exchange, {field!r})"

    def _field(self, field: str, found: str, nothing: str) -> str:
        self._looked_up.append((field, found, nothing))
        return f"field{len(self._looked_up) - 1}"

    def _look_up(self) -> str:
        """To look for a field costs more than to write it, and a head with one field has Host alone (in HTTP/1.0 it
        may be another)."""
        asked, spared = [], []
        for number, (field, found, nothing) in enumerate(self._looked_up):
            asked.append(f"found = get({field.encode()!r})")
            asked.append(f"field{number} = {nothing!r} if found is None else {found}")
            spared.append(f"field{number} = {nothing!r}")
        is_host_asked = any(field == "host" for field, _, _ in self._looked_up)
        condition = "headers" if is_host_asked else "len(headers) > 1 or exchange.legacy"
        block = "\n        "
        return (
            f"if {condition}:{block}{block.join(['get = headers.get', *asked])}\n    else:{block}{block.join(spared)}"
        )

    def _add_expression(self, expression: str) -> None:
        self._end_text()
        self._parts.append(expression)

    def _end_text(self) -> None:
        if self._text:
            self._parts.append(repr(self._text))
            self._text = ""
