"""Events: what the supervisor says happened, to whom and why. Log lines, the API's stream and the shell show the same.

Invariant: one event is one object and one line; whatever text it carries has no line break when rendered as text. A
field `stack`, a list of lines, follows it there, indented.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

Level = Literal["debug", "info", "warning", "error"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is one of the contract's event names, or `log` for a plain message of the master.

    `text` is for a person: what happened and why, without repeating app, slot or pid. `fields` are further JSON keys
    (`reason`, `why`, `seconds`, ..); they may not reuse the names here.
    """

    ts: float  # seconds since the epoch
    name: str
    text: str
    level: Level = "info"
    app: str | None = None
    slot: int | None = None
    pid: int | None = None
    generation: int | None = None
    fields: dict[str, Any] = {}


def as_object(event: Event) -> dict[str, Any]:
    """The JSON object of the contract: `{"ts", "event", "app", "slot", "pid", "generation", ...}`; None is left out."""
    known = {
        "ts": event.ts,
        "event": event.name,
        "level": event.level,
        "app": event.app,
        "slot": event.slot,
        "pid": event.pid,
        "generation": event.generation,
        "message": event.text,
    }
    return {key: value for key, value in known.items() if value is not None} | event.fields


def from_object(data: dict[str, Any]) -> Event:
    """The event that `as_object` turned into this; what is missing or of a wrong type is taken as not said."""
    rest = dict(data)

    def take(key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = rest.pop(key, default)
        return value if isinstance(value, kind) else default

    level = take("level", str, "info")
    return Event(
        ts=float(take("ts", (int, float), 0.0)),
        name=take("event", str, "log"),
        text=take("message", str, ""),
        level=level if level in get_args(Level) else "info",
        app=take("app", str, None),
        slot=take("slot", int, None),
        pid=take("pid", int, None),
        generation=take("generation", int, None),
        fields=rest,
    )
