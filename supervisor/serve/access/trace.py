"""Names for requests: `X-Request-ID` and `traceparent`, taken from those who may give them, or made.

Invariant: nobody pays for a name that nobody asks for. A `Trace` is made with each request and is three references; it
looks at the head, or makes a name, when it is asked first, and keeps to its answer from then on.

Sources: W3C Trace Context, sections 3.2 and 4.3; no standard has X-Request-ID.
"""

from __future__ import annotations

import itertools
import operator
import os
import re
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
from zttp import Request

from supervisor.serve.http1.head import fields

if TYPE_CHECKING:
    import asyncio
    import threading

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@,~-]{1,128}")
_IDS = rb"(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-)"
_TRACEPARENT = re.compile(rb"(?!ff|00.{54})([0-9a-f]{2})" + _IDS + rb"([0-9a-f]{2})(?:-.*)?")  # 00 has no fifth part
_TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")
_TAILS = [f"{number:02x}" for number in range(256)]

KEYS = ("request_id", "traceparent", "draining")


def _batch(_: None) -> Iterator[str]:
    return map(operator.add, itertools.repeat(os.urandom(15).hex()), _TAILS)


def _new_ids() -> Iterator[str]:
    """Endless, unique, 32 hex digits each. No generator: threads may be in it at once."""
    return itertools.chain.from_iterable(map(_batch, itertools.repeat(None)))


_ids = _new_ids()


def _renew() -> None:
    global _ids
    _ids = _new_ids()


os.register_at_fork(after_in_child=_renew)  # two workers must not go on with the same batch


class Bridge(Protocol):
    """What all requests to an app share."""

    @property
    def draining(self) -> asyncio.Event | threading.Event:
        """Set once the worker leaves."""

    def named(self, name: str) -> None:
        """The app has asked for the id of the request that it is running."""


class Trace(msgspec.Struct, gc=False):
    """A mapping of `request_id`, `traceparent` and `draining`, for one request. `trusted`: its peer may name it."""

    request: Request
    trusted: bool
    bridge: Bridge
    name: str = ""
    parent: str = ""

    def __getitem__(self, key: str) -> Any:
        if key == "request_id":
            return self.name or self._asked()
        if key == "traceparent":
            return self.parent or self._parent()
        if key == "draining":
            return self.bridge.draining
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in KEYS else default

    def keys(self) -> KeysView[str]:
        return KeysView(self)

    def values(self) -> ValuesView[Any]:
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:
        return ItemsView(self)

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)

    def __contains__(self, key: object) -> bool:
        return key in KEYS

    def __eq__(self, other: object) -> bool:
        return self is other or (dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented)

    def __copy__(self) -> Self:
        """Whoever copies a scope copies no request: names that are yet to be made would be others in the copy."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def named(self) -> str:
        """The request's id, looked for and made if need be: for those who know that `name` is empty still."""
        request = self.request
        may_name = self.trusted and (len(request.headers) > 1 or request.http_version == b"1.0")  # Host names nobody
        self.name = name = (self._given_name() if may_name else "") or next(_ids)
        return name

    def _asked(self) -> str:
        """The same for the app, in whose logs the id may appear: it goes on record."""
        name = self.named()
        self.bridge.named(name)
        return name

    def _parent(self) -> str:
        self.parent = self._given_parent() if self.trusted else ""
        if not self.parent:
            name = self.name or self.named()
            trace = name if _TRACE_ID.fullmatch(name) else next(_ids)
            self.parent = f"00-{trace}-{next(_ids)[14:30]}-00"
        return self.parent

    def _given_name(self) -> str:
        given = _only(self.request, b"x-request-id")
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else self._given_parent()[3:35]

    def _given_parent(self) -> str:
        """Of a later version what version 00 knows: the ids, and whether the caller has sampled."""
        match = _TRACEPARENT.fullmatch(_only(self.request, b"traceparent"))
        if match is None:
            return ""
        version, ids, flags = match.groups()
        known = int(flags, 16) if version == b"00" else int(flags, 16) & 1
        return f"00{ids.decode('ascii')}{known:02x}"


Mapping.register(Trace)  # to inherit from it as well would need a metaclass of both


def _only(request: Request, name: bytes) -> bytes:
    """The value of a field that is there once, else b"": of two, one may be what the peer's client sent."""
    values = fields(request).getall(name)
    return values[0] if len(values) == 1 else b""
