"""What the control API answers: a request in, an answer out. Knows HTTP's words, but no socket and no clock.

Invariants: nothing here waits, and every refusal is a status of 400 or above with the body `{"error": "one line"}`.
What is asked with GET changes nothing: it is what those may who may only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, TypeVar

import msgspec

from supervisor.control.access import Access
from supervisor.control.port import Supervision
from supervisor.errors import RefusedError
from supervisor.messages.events import Event
from supervisor.messages.heap import Heap
from supervisor.messages.status import Begun
from supervisor.observe.metrics import CONTENT_TYPE
from supervisor.observe.render import encode_json, render_json

JSON = "application/json"
NDJSON = "application/x-ndjson"
MAX_TRACED = 600.0  # seconds
MAX_FRAMES = 16
MAX_NAMED = 1000  # apps


class Request(msgspec.Struct, frozen=True):
    """One request, whole. `target` is the request target as sent (RFC 9112, section 3.2)."""

    method: str
    target: str
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True):
    """One short answer. `allow` is the `Allow` header of a 405 (RFC 9110, section 10.2.1)."""

    status: int
    body: bytes
    content_type: str = JSON
    allow: str = ""


class Follow(msgspec.Struct, frozen=True):
    """The answer to `/events?follow=1`: every event from now on, a line each; `first` are lines to begin with, each
    made when it is asked for."""

    first: Iterator[bytes]


class Gradual(msgspec.Struct, frozen=True):
    """An answer that takes long to make: `pieces` of its body, each made when it is asked for, in well below 1 ms."""

    pieces: Iterator[bytes]
    content_type: str = JSON


class Later(msgspec.Struct, frozen=True):
    """The answer to what takes a while: `begin` is handed a function that takes the answer once it is there.

    It may be called at once or never; what `begin` raises is the answer, too.
    """

    begin: Callable[[Callable[[Answer], None]], None]


class BadRequestError(Exception):
    """The request can't be meant; the text says what was expected."""


class _Apps(msgspec.Struct, forbid_unknown_fields=True):
    apps: Annotated[list[str], msgspec.Meta(max_length=MAX_NAMED)] = []


class _Target(msgspec.Struct, forbid_unknown_fields=True):
    target: str


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    app: str
    workers: str | int


class _Signal(msgspec.Struct, forbid_unknown_fields=True):
    signal: str | int
    target: str


class _Heap(msgspec.Struct, forbid_unknown_fields=True):
    target: str
    seconds: float
    frames: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAMES)] = 1


Reply = Answer | Gradual | Follow | Later
Handler = Callable[[Request, Supervision], Reply]
T = TypeVar("T")


def route(request: Request, supervision: Supervision, access: Access = Access.FULL) -> Reply:
    """Answer one request of somebody who has `access`, which is not none.

    What the master raises beyond `RefusedError` escapes: it is a bug, and the caller's 500.
    """
    path, _query = _split(request.target)
    methods = _ONE_CRASH if path.startswith(_CRASHES) else _ROUTES.get(path)
    if methods is None:
        return error(404, f"no such path: {path}; there is {', '.join(_ROUTES)}")
    handler = methods.get(request.method)
    if handler is None:
        return error(405, f"{path} is asked with {' or '.join(methods)}", allow=", ".join(methods))
    if access is not Access.FULL and request.method != "GET":
        return error(403, f"your group may only read; {path} is for the instance's own user and root")
    try:
        return handler(request, supervision)
    except BadRequestError as wrong:
        return error(400, str(wrong))
    except RefusedError as refusal:
        return error(409, str(refusal))


def error(status: int, text: str, *, allow: str = "") -> Answer:
    """A refusal; whatever `text` holds becomes one line of printable characters."""
    line = "".join(char if char.isprintable() else " " for char in text[:2000])
    return Answer(status, _json({"error": line.strip()}), allow=allow)


def mishap(bug: Exception) -> Answer:
    """What a client hears of an error of ours."""
    return error(500, f"an error in holdfast itself ({type(bug).__name__}); its log has the details")


def event_line(event: Event) -> bytes:
    """One event as one line of NDJSON, with its line break."""
    return render_json(event) + b"\n"


def _json(value: object) -> bytes:
    return encode_json(value) + b"\n"


def _split(target: str) -> tuple[str, str]:
    """Path and query. The absolute form, which a server has to accept (RFC 9112, section 3.2.2), loses its origin."""
    if target.startswith("http://"):
        target = "/" + target.removeprefix("http://").partition("/")[2]
    path, _, query = target.partition("?")
    return path, query


def _flags(request: Request, known: tuple[str, ...]) -> dict[str, bool]:
    """The query's switches: `?follow=1&recent=0`. Every known one is in the result."""
    flags = dict.fromkeys(known, False)
    for part in filter(None, _split(request.target)[1].split("&")):
        name, _, value = part.partition("=")
        if name not in known or value not in ("0", "1"):
            raise BadRequestError(f"the query has {part!r}; expected {' or '.join(f'{flag}=1' for flag in known)}")
        flags[name] = value == "1"
    return flags


def _body(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise BadRequestError(f"the body: {wrong}") from wrong


def _status(_request: Request, supervision: Supervision) -> Answer:
    return Answer(200, _json(supervision.status()))


def _metrics(_request: Request, supervision: Supervision) -> Gradual:
    return Gradual((family.encode() for family in supervision.metrics()), CONTENT_TYPE)


def _version(_request: Request, supervision: Supervision) -> Answer:
    status = supervision.status()
    return Answer(200, _json({"version": status.version, "pid": status.pid}))


def _events(request: Request, supervision: Supervision) -> Gradual | Follow:
    flags = _flags(request, ("follow", "recent"))
    recent = supervision.recent_events() if flags["recent"] or not flags["follow"] else ()
    return Follow(map(event_line, recent)) if flags["follow"] else Gradual(map(event_line, recent), NDJSON)


def _reload(request: Request, supervision: Supervision) -> Answer:
    return _begun(supervision.reload(_body(request, _Apps).apps))


def _rollback(request: Request, supervision: Supervision) -> Answer:
    return _begun(supervision.rollback(_body(request, _Apps).apps))


def _begun(rolls: dict[str, Begun]) -> Answer:
    generations = {app: begun.generation for app, begun in rolls.items()}
    return Answer(202, _json({"generations": generations, "rolls": {app: it.number for app, it in rolls.items()}}))


def _rolls(_request: Request, supervision: Supervision) -> Answer:
    return Answer(200, _json({"apps": supervision.rolls()}))


def _crashes(_request: Request, supervision: Supervision) -> Gradual:
    def pieces() -> Iterator[bytes]:
        """`CrashList` as JSON."""
        separator = b'{"crashes":['
        for crash in supervision.crashes():
            yield separator + encode_json(crash)
            separator = b","
        yield b"]}\n" if separator == b"," else separator + b"]}\n"

    return Gradual(pieces())


def _crash(request: Request, supervision: Supervision) -> Answer:
    return Answer(200, supervision.crash(_split(request.target)[0].removeprefix(_CRASHES)) + b"\n")


def _start(request: Request, supervision: Supervision) -> Answer:
    target = _body(request, _Target).target
    supervision.start(target)
    return Answer(202, _json({"target": target}))


def _stop(request: Request, supervision: Supervision) -> Answer:
    target = _body(request, _Target).target
    supervision.stop(target)
    return Answer(202, _json({"target": target}))


def _restart(request: Request, supervision: Supervision) -> Answer:
    target = _body(request, _Target).target
    supervision.restart(target)
    return Answer(202, _json({"target": target}))


def _scale(request: Request, supervision: Supervision) -> Answer:
    wanted = _body(request, _Scale)
    return Answer(202, _json({"app": wanted.app, "workers": supervision.scale(wanted.app, str(wanted.workers))}))


def _signal(request: Request, supervision: Supervision) -> Answer:
    wanted = _body(request, _Signal)
    return Answer(200, _json({"pids": supervision.signal(str(wanted.signal), wanted.target)}))


def _upgrade(_request: Request, supervision: Supervision) -> Answer:
    return Answer(202, _json(supervision.upgrade()))


def _last_upgrade(_request: Request, supervision: Supervision) -> Answer:
    return Answer(200, _json({"upgrade": supervision.last_upgrade()}))


def _heap(request: Request, supervision: Supervision) -> Later:
    wanted = _body(request, _Heap)
    if not 0 <= wanted.seconds <= MAX_TRACED:
        raise BadRequestError(f"seconds: 0 to {MAX_TRACED:g}, not {wanted.seconds:g}")

    def begin(give: Callable[[Answer], None]) -> None:
        def on_answer(found: Heap | RefusedError) -> None:
            text = f"{wanted.target}: {found}"
            give(error(409, text) if isinstance(found, RefusedError) else Answer(200, _json(found)))

        supervision.heap(wanted.target, wanted.seconds, wanted.frames, on_answer)

    return Later(begin)


def _stack(request: Request, supervision: Supervision) -> Later:
    target = _body(request, _Target).target

    def begin(give: Callable[[Answer], None]) -> None:
        supervision.stack(target, lambda found: give(Answer(200, _json({"target": target, "workers": found}))))

    return Later(begin)


def _shutdown(_request: Request, supervision: Supervision) -> Answer:
    supervision.shutdown()
    return Answer(202, _json({"state": "stopping"}))


_CRASHES = "/crashes/"
_ONE_CRASH: dict[str, Handler] = {"GET": _crash}

_ROUTES: dict[str, dict[str, Handler]] = {
    "/status": {"GET": _status},
    "/metrics": {"GET": _metrics},
    "/version": {"GET": _version},
    "/events": {"GET": _events},
    "/reload": {"POST": _reload},
    "/rollback": {"POST": _rollback},
    "/rolls": {"GET": _rolls},
    "/upgrade": {"GET": _last_upgrade, "POST": _upgrade},
    "/crashes": {"GET": _crashes},
    "/start": {"POST": _start},
    "/stop": {"POST": _stop},
    "/restart": {"POST": _restart},
    "/scale": {"POST": _scale},
    "/signal": {"POST": _signal},
    "/stack": {"POST": _stack},
    "/heap": {"POST": _heap},
    "/shutdown": {"POST": _shutdown},
}
