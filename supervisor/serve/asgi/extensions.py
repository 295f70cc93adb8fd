"""What ASGI's extensions add to an answer: early hints, trailers, and a body that is a file.

Invariant: an extension is offered where it can work, and where the client can't take what it adds, that part alone is
left out: no interim answer and no trailers reach HTTP/1.0, no trailers a client that did not ask for them. The app sees
no difference, and its messages are checked all the same.

    WAITING ──start──► STARTED ──body──► BODY ──last body──► DONE
       │                  └──pathsend──► FILE ─────────────────┤
       └──start, trailers──► PROMISED ──body──► TRAILED        │
                                └──pathsend─┐      │ last body │
                                          FILE ──► OWING ──last trailers

Sources: the extensions page of the ASGI documentation; RFC 8297 (103); RFC 9110 sections 6.5 and 10.1.4 (trailers, TE).
"""

from __future__ import annotations

import abc
import asyncio
import enum
from typing import TYPE_CHECKING, Any

from zttp import Request

from supervisor.serve.faults import ClientDisconnectedError, complain
from supervisor.serve.http1.answer import JOINED, Answer, AnswerError, Headers, Lines, frozen, render_fields
from supervisor.serve.http1.familiar import Head
from supervisor.serve.http1.head import fields
from supervisor.serve.http1.sendfile import PIECE, FilePart

if TYPE_CHECKING:
    from supervisor.serve.asgi.interface import Message
    from supervisor.serve.http1.connection import Connection

OFFERED_LEGACY: dict[str, Any] = {"holdfast": None, "http.response.pathsend": {}}
OFFERED: dict[str, Any] = OFFERED_LEGACY | {"http.response.trailers": {}, "http.response.early_hint": {}}
"""`scope["extensions"]` for HTTP/1.0 and for HTTP/1.1, to be copied and to get the request's own trace."""

_EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\n%b\r\n"

_BEFORE_THE_BODY = frozenset(
    b"transfer-encoding content-length host connection keep-alive proxy-connection te trailer upgrade "
    b"authorization proxy-authorization proxy-authenticate www-authenticate cookie set-cookie "
    b"age cache-control expires date location retry-after vary warning "
    b"content-encoding content-type content-range".split()
)
"""Fields that a recipient has to know before the body, so that no trailer may be one (RFC 9110 section 6.5.1)."""


class Phase(enum.Enum):
    """How far the answer is."""

    WAITING = "waiting for its start"
    STARTED = "started"  # nothing is written yet
    BODY = "in its body"
    DONE = "complete"
    PROMISED = "started, with trailers to follow"  # nothing is written yet
    TRAILED = "in its body, with trailers to follow"
    OWING = "waiting for its trailers"
    FILE = "being sent from a file"


WAITING, STARTED, BODY, DONE, PROMISED, TRAILED, OWING, FILE = Phase
UNDER_WAY = frozenset((BODY, TRAILED, OWING, FILE))
"""Phases in which part of the answer is on its way to the client, and not all of it."""


def early_hints(links: Any) -> bytes:
    """An interim answer with one Link field for each of `links`; no bytes without any. Raises `AnswerError`."""
    text = render_fields([(b"link", link) for link in links])
    return _EARLY_HINTS % text if text else b""


def trailer_section(headers: Headers) -> bytes:
    """Checked and rendered trailer fields. Raises `AnswerError`."""
    pairs = [(name, value) for name, value in headers]
    text = render_fields(pairs)
    for name, _ in pairs:
        if name.lower() in _BEFORE_THE_BODY:
            raise AnswerError(f"{name.decode('ascii')} can't be a trailer")
    return text


def takes_trailers(request: Request) -> bool:
    """Whether the client said `TE: trailers`."""
    codings = b",".join(fields(request).getall(b"te")).lower()
    return any(coding.strip(b" \t") == b"trailers" for coding in codings.split(b","))


class ExtendedAnswer(Answer, abc.ABC):
    """The part of an ASGI exchange that plain answers do not need."""

    __slots__ = ("_changed", "_connection", "_gone", "_ignored", "_phase", "_trailers")

    _changed: asyncio.Event | None
    _connection: Connection
    _gone: bool
    _ignored: bool  # set once the app was told that it sends too much
    _lines: Lines
    _phase: Phase
    _trailers: bytes  # set once the body is over
    head: Head

    async def _extend(self, kind: str, message: Message) -> None:
        """Any message but the start and the bodies of a plain answer."""
        phase = self._phase
        if phase is DONE:
            self._ignore(kind)
        elif kind == "http.response.early_hint":
            hints = early_hints(message["links"])
            if hints and not (self.head.legacy or phase in UNDER_WAY):
                self._connection.transport.write(hints)
                await self._drained()
        elif kind == "http.response.body" and (phase is PROMISED or phase is TRAILED):
            body = frozen(message.get("body", b""))
            head = self._open(TRAILED) if phase is PROMISED else b""
            self._put(head + self.more(body))
            if not message.get("more_body", False):
                self._owe()
            await self._drained()
        elif kind == "http.response.trailers" and phase is OWING:
            self._trailers += trailer_section(message.get("headers", ()))
            if not message.get("more_trailers", False):
                self._done(self.end(self._trailers if takes_trailers(self.head.request) else b""))
        elif kind == "http.response.pathsend" and (phase is STARTED or phase is PROMISED):
            await self._send_file(message["path"])
        else:
            raise RuntimeError(f"the app sent {kind!r} where the answer was {phase.value}")

    def _complain(self, what: str, error: BaseException | None = None) -> None:
        complain(self.head.method, self.head.request.target, what, error)

    def _ignore(self, kind: str) -> None:
        """What comes after a whole answer is ignored, as ASGI says, but not in silence: the app has a mistake."""
        if not hasattr(self, "_ignored"):
            self._ignored = True
            self._complain(f"the app sent {kind!r} after its answer was complete: ignored")

    async def _send_file(self, path: str) -> None:
        """A whole body from a file; returns when the kernel has taken it, or the little there is was read."""
        promised = self._phase is PROMISED
        part = _opened(path)
        try:
            chunked = promised and not self.head.legacy and takes_trailers(self.head.request)
            if part.size:
                data = self._open(FILE, part.size, chunked=chunked)
            else:
                data = await self._through(part, chunked=chunked)
            if part.size >= JOINED and not self.bodyless:
                data = await self._around_file(data, part)
            elif not self.bodyless:
                data += self.more(part.read())
        except ClientDisconnectedError:
            raise
        except OSError as error:
            raise AnswerError(_why(path, error)) from None
        finally:
            part.close()
        if not promised:
            self._done(data + self.end())
            return
        self._put(data)
        self._owe()
        await self._drained()

    async def _around_file(self, head: bytes, part: FilePart) -> bytes:
        """Send head and file; returns what the file's chunk ends with."""
        before, after = self.around(part.size)
        connection = self._connection
        connection.stream(head + before)
        connection.send_file(part, self._file_failed)
        try:
            await self._drained()
        except asyncio.CancelledError:
            connection.drop_file()  # or it would be sent on: an answer that nobody ends
            raise
        if self._gone:
            raise ClientDisconnectedError("the client has gone")
        return after

    async def _through(self, part: FilePart, *, chunked: bool) -> bytes:
        """Read a file without a size, which is empty or the kernel's own (`/proc`), and send all but its last piece;
        returns that, with the head if nothing came before it."""
        piece = part.piece()
        data = self._open(FILE, len(piece) if len(piece) < PIECE else None, chunked=chunked) + self.more(piece)
        while len(piece) == PIECE and not self.bodyless:
            self._put(data)
            await self._drained()
            if self._gone:
                raise ClientDisconnectedError("the client has gone")
            piece = part.piece()
            data = self.more(piece)
        return data

    def _file_failed(self, why: str) -> None:
        self._complain(why)
        self._connection.cut()

    @abc.abstractmethod
    def _open(self, phase: Phase, size: int | None = None, *, chunked: bool = False) -> bytes:
        """The head of an answer that is not joined to its body, which is in `phase` from now on; as `begin`."""

    def _owe(self) -> None:
        self._phase = OWING
        self._trailers = b""

    def _put(self, data: bytes) -> None:
        self._connection.stream(data)

    def _done(self, data: bytes = b"") -> None:
        self._phase = DONE
        self._wake()
        self._connection.finish(data)

    async def _drained(self) -> None:
        """Until the kernel has taken all that was written, or the client has gone."""
        while self._connection.write_paused and not self._gone:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


def _opened(path: str) -> FilePart:
    try:
        return FilePart.open(path)
    except (OSError, ValueError) as error:
        raise AnswerError(_why(path, error)) from None


def _why(path: str, error: OSError | ValueError) -> str:
    return f"the app's file {path!r} can't be sent: {getattr(error, 'strerror', None) or error}"
