"""The WSGI environ of a request (PEP 3333 section "environ Variables"). Pure.

Invariant: a client can't set a variable it has no header for. Names with an underscore are dropped, since `X_Y` and
`X-Y` would become the same `HTTP_X_Y`, and only one of them is what a proxy in front has checked.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote_to_bytes

from zttp import HeaderBlock

from supervisor.config.settings import AppSettings
from supervisor.serve.http1.familiar import Head
from supervisor.serve.http1.head import fields, mounted
from supervisor.serve.wsgi.filewrapper import FileWrapper

if TYPE_CHECKING:
    import threading

    from typing_extensions import Buffer

    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.wsgi.exchange import WsgiExchange

Environ = dict[str, Any]

_NAMES_KEPT = 1024
_ADDRESSES_KEPT = 256
_DRAFTS_KEPT = 8  # of one head
_FIXED = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_names: dict[bytes, str] = {}
_LEFT_OUT = {"HTTP_PROXY"}  # httpoxy: CGI libraries take it for their own setting (CVE-2016-5385)


def _fill(environ: Environ, headers: HeaderBlock) -> None:
    """The headers, where one is new, left out, or there more than once."""
    for name in {name for name, _ in headers}:
        environ.pop(_variable(name), None)
    for name, value in headers:
        variable = _variable(name)
        if variable in environ:
            environ[variable] += ("; " if variable == "HTTP_COOKIE" else ",") + value.decode("latin-1")
        elif variable:
            environ[variable] = value.decode("latin-1")


def _variable(name: bytes) -> str:
    """The variable that a field goes into, "" for none. Those that go into one are remembered."""
    known = _names.get(name)
    if known is None:
        lower = name.lower()
        known = _FIXED.get(lower) or "HTTP_" + lower.decode("ascii").upper().replace("-", "_")
        if b"_" in name or known in _LEFT_OUT:
            return ""
        if len(_names) >= _NAMES_KEPT:
            _names.clear()
        _names[name] = known
    return known


class NoBody(io.BufferedIOBase):
    """The body of all requests that have none: one object for all of them, which nobody can close or write to."""

    def readable(self) -> bool:
        return True

    def read(self, _size: int | None = -1, /) -> bytes:
        return b""

    def read1(self, _size: int = -1, /) -> bytes:
        return b""

    def readinto(self, _buffer: Buffer, /) -> int:
        return 0

    def seekable(self) -> bool:
        return True

    def seek(self, _offset: int, _whence: int = 0, /) -> int:
        return 0

    def tell(self) -> int:
        return 0

    def close(self) -> None:
        """For the next request."""


class Environs:
    """Makes environs. What the requests to one address of a worker have in common is put together once and copied.

    The copy has the ordinary request's values already: GET, HTTP/1.1, no query, no body. Writing each variable into a
    dict costs as much as calling a small function, so only what differs is written.
    """

    def __init__(self, errors: TextIO, settings: AppSettings, draining: threading.Event) -> None:
        self._root = settings.root_path or ""
        self._common: Environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": self._root,
            "PATH_INFO": "",
            "QUERY_STRING": "",
            "RAW_URI": "",
            "REQUEST_URI": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "holdfast",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "REMOTE_ADDR": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": NoBody(),
            "wsgi.errors": errors,
            "wsgi.multithread": settings.threads != 1,
            "wsgi.multiprocess": settings.workers != 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            "holdfast.draining": draining,
            "holdfast.trace": None,
        }
        self._known: dict[tuple[str, int | None] | None, Environ] = {}

    def of(self, exchange: WsgiExchange, connection: Connection) -> Environ:
        """The environ of one request. Text is latin-1 decoded bytes, as PEP 3333 wants it."""
        server, head = connection.server, exchange.head
        drafts = head.draft if head.is_kept and connection.scheme == "http" else None
        draft = drafts.get(server) if drafts is not None else None
        environ = self._draft(head, connection) if draft is None else draft.copy()
        if drafts is not None and draft is None and len(drafts) < _DRAFTS_KEPT:
            drafts[server] = environ.copy()
        environ["holdfast.trace"] = exchange.trace
        if connection.client is not None:
            environ["REMOTE_ADDR"], port = connection.client
            environ["REMOTE_PORT"] = str(port)
        return environ

    def _draft(self, head: Head, connection: Connection) -> Environ:
        """All but the client and the trace: what the head says, and the address of ours it was asked at."""
        server = connection.server
        environ = (self._known.get(server) or self._at(server)).copy()
        request = head.request
        environ["RAW_URI"] = environ["REQUEST_URI"] = path = request.target.decode()  # it is ASCII
        if head.query or len(head.path) != len(path):
            path = head.path.decode()
            environ["QUERY_STRING"] = head.query.decode()
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")
        environ["PATH_INFO"] = path
        if head.method != "GET" or head.legacy or self._root or connection.scheme != "http":
            self._differ(environ, head, connection)
        names, headers = _names, request.headers
        size = len(environ) + len(headers)
        try:
            for name, value in headers:
                environ[names[name]] = value.decode("latin-1")
        except KeyError:
            size = -1
        if len(environ) != size:
            _fill(environ, fields(request))
        return environ

    def _at(self, server: tuple[str, int | None] | None) -> Environ:
        name, port = server or ("localhost", None)
        if port is None:  # a Unix socket; both variables must be there, and say something
            name, port = "localhost", 80
        known = self._common | {"SERVER_NAME": name, "SERVER_PORT": str(port)}
        if len(self._known) < _ADDRESSES_KEPT:
            self._known[server] = known
        return known

    def _differ(self, environ: Environ, head: Head, connection: Connection) -> None:
        """What is not as with most requests."""
        environ["REQUEST_METHOD"] = head.method
        if head.legacy:
            environ["SERVER_PROTOCOL"] = "HTTP/1.0"
        root, path = self._root, environ["PATH_INFO"]
        if path == "*":
            environ["PATH_INFO"] = ""  # PEP 3333: empty, or begins with a slash
        elif root and mounted(root, path) == path:
            environ["PATH_INFO"] = path.removeprefix(root)
        if connection.scheme == "https":
            environ["wsgi.url_scheme"] = "https"
            environ["HTTPS"] = "on"
            if connection.server is None or connection.server[1] is None:
                environ["SERVER_PORT"] = "443"  # as `_at` says 80
            if connection.tls is not None:
                environ.update(connection.tls.environ)


def set_length(environ: Environ, length: int) -> None:
    """Say how long a body is that was chunked and lies complete now: to most apps no length means no body."""
    environ["CONTENT_LENGTH"] = str(length)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
