"""Events and the app's own output as lines: text for a person, JSON for a program.

Invariant: an event is one line, and its stack, if it has one, indented lines behind it. Whatever an app or a client put
into them, no line break, control character or direction override comes out: they are escaped, so a log can neither be
forged nor garble a terminal. An app's own output is its own affair and passes as it is (colours too), one line at a
time.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

import msgspec

from supervisor.messages.events import Event, Level, as_object

Stream = Literal["stdout", "stderr"]

# C0 and C1 controls, Unicode's line and paragraph separators and direction overrides, and what UTF-8 can't encode.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_LEVEL_COLOURS: dict[Level, str] = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_SLOT_COLOURS = ("\x1b[36m", "\x1b[35m", "\x1b[34m", "\x1b[32m", "\x1b[33m", "\x1b[96m", "\x1b[95m", "\x1b[94m")


class OutputLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="app.output"):
    """One line that a worker (or, without a slot, a spawner) wrote to its stdout or stderr."""

    ts: float
    app: str
    slot: int | None = None
    pid: int
    generation: int
    stream: Stream
    line: str


_json = msgspec.json.Encoder(enc_hook=str)


def render_text(event: Event, *, colour: bool = False) -> str:
    """One line without its newline: time, level, who, pid, event, text; in columns, so that a person can scan it."""
    who = f"{escape(place(event.app, event.slot)):<12}"
    level, name = f"{event.level:<7}", f"{escape(event.name):<16}"
    stamp, pid, text = local_time(event.ts), f"{event.pid or '-':>7}", escape(event.text)
    if colour:
        stamp, pid, name = (f"{_DIM}{part}{_RESET}" for part in (stamp, pid, name))
        level = f"{_LEVEL_COLOURS[event.level]}{level}{_RESET}"
        who = f"{_slot_colour(event.slot)}{who}{_RESET}"
    return f"{stamp} {level} {who} {pid} {name} {text}".rstrip()


def render_stack(event: Event) -> str:
    """The stack that comes with an event, indented, a line for each of its lines, with its line breaks; or nothing."""
    stack = event.fields.get("stack")
    if not isinstance(stack, list | tuple):
        return ""
    return "".join(f"\n    {escape(str(line))}" for line in stack)


def render_json(event: Event) -> bytes:
    """The contract's object on one line, without its newline. What JSON has no form for becomes its `str`."""
    return encode_json(as_object(event))


def output_text(output: OutputLine, *, colour: bool = False) -> str:
    """`web:2 | line`, without its newline."""
    who = place(output.app, output.slot)
    if colour:
        return f"{_slot_colour(output.slot)}{who} |{_RESET} {output.line}{_RESET}"
    return f"{who} | {output.line}"


def output_json(output: OutputLine) -> bytes:
    """`{"event": "app.output", "ts", "app", "slot", "pid", "generation", "stream", "line"}`, without its newline."""
    return encode_json(output)


def place(app: str | None, slot: int | None) -> str:
    """`web:2`, `web` or, for the master itself, `holdfast`."""
    if app is None:
        return "holdfast"
    return app if slot is None else f"{app}:{slot}"


def local_time(ts: float) -> str:
    """ISO 8601 in the machine's time zone, with milliseconds: `2026-11-21T14:03:05.123+01:00`."""
    whole, milliseconds = divmod(int(ts * 1000), 1000)
    local = time.localtime(whole)
    zone = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{milliseconds:03d}{zone[:3]}:{zone[3:]}"


def escape(text: str) -> str:
    """`text` with everything that would end its line, or steer a terminal, written out: a newline as `\\n`."""
    return text if text.isprintable() else _UNSAFE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _slot_colour(slot: int | None) -> str:
    return _DIM if slot is None else _SLOT_COLOURS[slot % len(_SLOT_COLOURS)]


def encode_json(record: object) -> bytes:
    """Any record as JSON on one line, without its newline; never fails over text that isn't Unicode."""
    try:
        return _json.encode(record)
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that isn't UTF-8
        return _json.encode(_encodable(msgspec.to_builtins(record, enc_hook=str)))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value
