"""The WSGI environ of a request (PEP 3333 section "environ Variables"). Pure.

Invariant: a client can't set a variable it has no header for. Names with an underscore are dropped, since `X_Y` and
`X-Y` would become the same `HTTP_X_Y`, and only one of them is what a proxy in front has checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote_to_bytes

from supervisor.config.settings import AppSettings
from supervisor.serve.head import PERCENT, fields, mounted

if TYPE_CHECKING:
    import threading

    from supervisor.serve.exchange import Exchange
    from supervisor.serve.http1 import Connection

Environ = dict[str, Any]

_NAMES_KEPT = 1024
_ADDRESSES_KEPT = 256
_names: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_LEFT_OUT = {"HTTP_PROXY"}  # httpoxy: CGI libraries take it for their own setting (CVE-2016-5385)


def _learn(name: bytes) -> str:
    """The variable a field goes into, "" for none."""
    if len(_names) >= _NAMES_KEPT:
        _names.clear()
        _names.update({b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"})
    lower = name.lower()
    known = _names.get(lower)
    if known is None:
        variable = "HTTP_" + lower.decode("ascii").upper().replace("-", "_")
        known = "" if b"_" in name or variable in _LEFT_OUT else variable
    _names[name] = known
    return known


class Templates:
    """The part of the environ that all requests to one address of a worker have in common."""

    def __init__(self, errors: TextIO, settings: AppSettings, draining: threading.Event) -> None:
        self._common: Environ = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": errors,
            "wsgi.multithread": settings.threads != 1,
            "wsgi.multiprocess": settings.workers != 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": "holdfast",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": settings.root_path or "",
            "REMOTE_ADDR": "",
            "holdfast.draining": draining,
        }
        self._known: dict[object, Environ] = {}

    def at(self, server: tuple[str, int | None] | None) -> Environ:
        """A copy, for the caller to fill."""
        known = self._known.get(server)
        if known is None:
            name, port = server or ("localhost", None)
            if port is None:  # a Unix socket; both variables must be there, and say something
                name, port = "localhost", 80
            known = self._common | {"SERVER_NAME": name, "SERVER_PORT": str(port)}
            if len(self._known) < _ADDRESSES_KEPT:
                self._known[server] = known
        return known.copy()


def fill(environ: Environ, exchange: Exchange, target: tuple[bytes, bytes], connection: Connection) -> None:
    """Add one request to a copy of the template. Text is latin-1 decoded bytes, as PEP 3333 wants it."""
    request = exchange.request
    path, query = target
    environ["REQUEST_METHOD"] = exchange.method
    environ["holdfast.trace"] = exchange.trace
    text = (unquote_to_bytes(path) if PERCENT in path else path).decode("latin-1")
    root = environ["SCRIPT_NAME"]
    environ["PATH_INFO"] = text if not root or mounted(root, text) != text else text.removeprefix(root)
    environ["QUERY_STRING"] = query.decode("latin-1")
    environ["RAW_URI"] = environ["REQUEST_URI"] = request.target.decode("latin-1")
    if request.http_version == b"1.0":
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    client = connection.client
    if client is not None:
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    if connection.scheme == "https":
        environ["wsgi.url_scheme"] = "https"
        environ["HTTPS"] = "on"
        if connection.tls is not None:
            environ.update(connection.tls.environ)
    known = _names
    for field, value in fields(request):
        variable = known.get(field)
        if variable is None:
            variable = _learn(field)
        if variable in environ:
            environ[variable] += ("; " if variable == "HTTP_COOKIE" else ",") + value.decode("latin-1")
        elif variable:
            environ[variable] = value.decode("latin-1")


def set_length(environ: Environ, length: int) -> None:
    """Say how long a body is that was chunked and lies complete now: to most apps no length means no body."""
    environ["CONTENT_LENGTH"] = str(length)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
