"""Requests to a WSGI app (PEP 3333), in threads or inline on the event loop, and its answers back to the connection.

Invariant: an app's thread touches no socket. It renders bytes and posts them; the loop writes. A body is gathered
before the app is called when it is small or chunked (a slow client then holds no thread), streamed from `read_ahead`
bytes on when it is large, and, inline, gathered whole, in a temporary file above `memory_body`. Whatever happens, the
result's `close()` is called.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from zttp import Request

from supervisor.serve.answer import Answer, AnswerError, Lines, plain, render_text
from supervisor.serve.body import SizedBody
from supervisor.serve.environ import Environ, Templates, fill, set_length
from supervisor.serve.faults import ClientDisconnectedError, complain
from supervisor.serve.pool import Pool
from supervisor.serve.trace import Trace
from supervisor.serve.upload import Gathered, Upload

if TYPE_CHECKING:
    from _thread import LockType

    from supervisor.serve.http1 import Connection
    from supervisor.serve.service import Service

Write = Callable[[bytes], None]
App = Callable[[Environ, Callable[..., Write]], Iterable[bytes]]


class WsgiBridge:
    """What all requests to one WSGI app share."""

    def __init__(self, app: App, service: Service) -> None:
        settings = service.settings
        self.app = app
        self.service = service
        self.inline = settings.threads == 1
        self.pool = Pool(settings.threads, service.loop, settings.name)
        self.draining = threading.Event()  # the worker leaves: long answers had better come to an end
        self.environs = Templates(sys.stderr, settings, self.draining)
        self.live: set[WsgiExchange] = set()  # submitted and not over
        self.open = functools.partial(WsgiExchange, self)

    def submit(self, exchange: WsgiExchange) -> None:
        """Run the app for `exchange`."""
        self.live.add(exchange)
        if self.inline:
            exchange.run()
        else:
            self.pool.submit(exchange)

    def is_running(self) -> bool:
        """Whether app code is running or waits for a thread."""
        return bool(self.live)

    def cut(self) -> None:
        """Threads can't be stopped; they are daemons and end with the process."""
        self.live.clear()

    def close(self) -> None:
        """Let the threads end."""
        self.pool.close()


class WsgiExchange(Answer):
    """One request, from its head to the result's `close()`."""

    __slots__ = (
        "_bridge",
        "_complete",
        "_connection",
        "_ended",
        "_gathered",
        "_gone",
        "_iterator",
        "_left",
        "_lines",
        "_put_bytes",
        "_result",
        "_room",
        "_submitted",
        "_taken",
        "_target",
        "_upload",
        "_written",
        "environ",
        "holds_body",
        "method",
        "request",
        "since",
    )

    def __init__(
        self,
        bridge: WsgiBridge,
        connection: Connection,
        request: Request,
        path: bytes,
        query: bytes,
        method: str,
        keep: bool,
    ) -> None:
        self.method = method
        super().__init__(self.method, request.http_version == b"1.0", keep)
        self.request = request
        self.trace = Trace(request, connection.origin is not None, bridge.draining)
        self.since = monotonic()
        self.holds_body = request.expect_continue and not self.legacy
        self._bridge = bridge
        self._connection = connection
        self._target = (path, query)
        self._lines: Lines | None = None
        self._complete = False  # the last byte of the answer was rendered
        self._gone = False
        self._ended = True  # no app code is running or will
        self._left = False
        self._submitted = False
        self._result: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._gathered: Gathered | None = None
        self._upload: Upload | None = None
        self._room: LockType | None = None
        self._put_bytes = self._written = self._taken = 0

    # In the loop: what the connection calls.

    def start(self) -> None:
        body = self._connection.body
        if body is None:
            if not self._submitted:
                self._submit()
        elif self.holds_body and self._may_stream():
            self._stream_body()
        elif self.holds_body:
            self.holds_body = False
            self._connection.send_continue()

    def feed(self, data: bytes, done: bool) -> None:
        self.holds_body = False
        if self._upload is not None:
            self._upload.feed(data, done)
            return
        limits = self._connection.service.limits
        if self._gathered is None:
            self._gathered = Gathered(limits.memory_body)
        if done:
            self._gathered.add(data)
            self._submit()
        elif self._gathered.size + len(data) > limits.read_ahead and self._may_stream():
            self._stream_body().feed(data, False)
        else:
            self._gathered.add(data)

    def writable(self) -> None:
        self._taken = self._written
        self._wake()
        if self._iterator is not None and self._bridge.inline:
            self._go_on()

    def half_closed(self) -> None:
        """The answer may still reach the client, and WSGI has no way to tell the app."""

    def lost(self) -> None:
        self._gone = True
        if self._upload is not None:
            self._upload.lost()
        self._wake()
        if self._iterator is not None and self._bridge.inline:
            self._over()
        if self._ended:
            self._leave()
            if self._gathered is not None:
                self._gathered.close()

    def posted(self, data: bytes | None, last: bool) -> None:
        """What the app has rendered. None: it has given up in the middle of its answer, or, with `last`, is over."""
        connection = self._connection
        if data is None and last:
            if self._gone:
                self._leave()
            if connection.service.draining:
                connection.service.check_empty()
            return
        if self._gone:
            return
        if data is None:
            connection.cut()
            return
        if last:
            if self._upload is not None:
                self._upload.lost()
            connection.finish(data)
            return
        connection.stream(data)
        self._written += len(data)
        if not connection.write_paused:
            self._taken = self._written
            self._wake()

    def _may_stream(self) -> bool:
        return not self._bridge.inline and isinstance(self._connection.body, SizedBody)

    def _stream_body(self) -> Upload:
        ask = self._connection.send_continue if self.holds_body else None
        upload = self._upload = Upload(self._connection, self._connection.service.limits.read_ahead, ask)
        if self._gathered is not None:
            with self._gathered.open() as gathered:
                upload.feed(gathered.read(), False)
            self._gathered = None
        self._submit()
        return upload

    def _submit(self) -> None:
        self._submitted = True
        self._ended = False
        self._bridge.submit(self)

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._connection.tally.leave()

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.release()

    # In the thread, or in the loop when inline.

    def run(self) -> None:
        """Call the app and send what it gives, in a context of its own. Raises nothing."""
        self._bridge.service.context.copy().run(self._run)

    def _run(self) -> None:
        if not self._gone:
            try:
                self._result = self._bridge.app(self._environ(), self._start_response)
                self._iterator = self._answer()
            except BaseException as error:
                self._fail(error)
        if self._iterator is not None:
            self._go_on()
        else:
            self._over()

    def _go_on(self) -> None:
        """Send the rest of the result; inline, only as far as the client takes it."""
        iterator = self._iterator
        assert iterator is not None
        try:
            for chunk in iterator:
                self._write(chunk)
                if self._complete and self.bodyless:
                    break  # the rest, of which there may be no end, is for nobody
                if self._bridge.inline and self._connection.write_paused and not self._complete:
                    return
            self._finish()
        except BaseException as error:
            self._fail(error)
        self._over()

    def _over(self) -> None:
        """The app's code ends here, with the result's close()."""
        self._iterator = None
        close = getattr(self._result, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                complain(self.method, self.request.target, "the result's close() raised an exception", error)
        self._result = ()
        if self._gathered is not None:
            self._gathered.close()
        bridge = self._bridge
        bridge.live.discard(self)
        self._ended = True
        if bridge.inline:
            self.posted(None, True)
        elif self._gone or bridge.service.draining:
            bridge.pool.post(self, None, True)

    def _environ(self) -> Environ:
        connection = self._connection
        environ = self.environ = self._bridge.environs.at(connection.server)  # kept for the access log
        fill(environ, self, self._target, connection)
        if self._upload is not None:
            environ["wsgi.input"] = io.BufferedReader(self._upload, 65536)
        elif self._gathered is not None:
            environ["wsgi.input"] = self._gathered.open()
            set_length(environ, self._gathered.size)
        else:
            environ["wsgi.input"] = io.BytesIO()
        return environ

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Write:
        if exc_info is not None:
            try:
                if self.status:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circular reference
        elif self._lines is not None:
            raise AnswerError("the app called start_response twice")
        self._lines = render_text(status, headers)
        return self._write

    def _answer(self) -> Iterator[bytes] | None:
        """Send a result that is complete, or return the iterator of one that is not."""
        result = self._result
        if isinstance(result, (list, tuple)):
            body = result[0] if len(result) == 1 else b"".join(result)
            if not self.status:
                self._whole(body)
                return None
            return iter((body,))
        return iter(result)

    def _whole(self, body: bytes) -> None:
        first, second = self.whole(self._started(), body, self._connection.service.stamps)
        self._complete = True
        if second:
            self._put(first, False)
        self._put(second or first, True)

    def _started(self) -> Lines:
        """Status and headers, and the last moment to decide whether the connection lives on."""
        if self._lines is None:
            raise AnswerError("the app answered without calling start_response")
        connection = self._connection
        if (connection.service.draining or connection.body is not None) and connection.must_close(self):
            self.keep = False
        return self._lines

    def _write(self, chunk: bytes) -> None:
        """Send a piece of the body; also the `write` of `start_response`."""
        if not chunk:
            return
        if self.status:
            data = self.more(chunk)
        else:
            data = self.begin(self._started(), self._connection.service.stamps) + self.more(chunk)
        if not self._complete:
            self._complete = self.bodyless or self.remaining == 0
            self._put(data, self._complete)

    def _finish(self) -> None:
        if not self.status:
            self._whole(b"")
        elif not self._complete:
            data = self.end()
            self._complete = True
            self._put(data, True)

    def _put(self, data: bytes, last: bool) -> None:
        """Hand bytes to the loop, and wait while it has too many of ours that the client does not take."""
        if self._gone:
            raise ClientDisconnectedError("the client has gone")
        if self._bridge.inline:
            self.posted(data, last)
            return
        self._bridge.pool.post(self, data, last)
        self._put_bytes += len(data)
        bound = self._connection.service.limits.read_ahead
        while not last and self._put_bytes - self._taken > bound and not self._gone:
            room = allocate_lock()
            room.acquire()
            self._room = room
            if self._put_bytes - self._taken > bound and not self._gone:
                room.acquire()

    def _fail(self, error: BaseException) -> None:
        if self._gone:
            if not isinstance(error, ClientDisconnectedError):
                complain(self.method, self.request.target, "the app raised an exception", error)
            return
        if isinstance(error, AnswerError):
            complain(self.method, self.request.target, str(error))
        else:
            complain(self.method, self.request.target, "the app raised an exception", error)
        if self._complete:
            return
        self._complete = True
        if self._put_bytes or self._written:
            self._cut()
            return
        self.status = 500
        connection = self._connection
        self.keep = self.keep and connection.body is None and not connection.must_close(self)
        data = plain(500, "", connection.service.stamps, keep=self.keep, head_only=self.method == "HEAD")
        self._put(data, True)

    def _cut(self) -> None:
        if self._bridge.inline:
            self.posted(None, False)
        else:
            self._bridge.pool.post(self, None, False)
