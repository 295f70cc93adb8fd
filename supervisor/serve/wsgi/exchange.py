"""One request to a WSGI app (PEP 3333), in a thread or inline on the event loop, and its answer back to the connection.

Invariant: an app's thread touches no socket. It renders bytes and hands them over; the loop writes. A body is gathered
before the app is called when it is small or chunked (a slow client then holds no thread), streamed from `read_ahead`
bytes on when it is large, and, inline, gathered whole, in a temporary file above `memory_body`.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from supervisor.kernel.recorder import fitting
from supervisor.serve.access.trace import Trace
from supervisor.serve.faults import ClientDisconnectedError, complain
from supervisor.serve.http1.answer import Answer, AnswerError, Lines, render_text
from supervisor.serve.http1.body import SizedBody
from supervisor.serve.http1.familiar import Head
from supervisor.serve.patience import arrival
from supervisor.serve.wsgi.environ import Environ, set_length
from supervisor.serve.wsgi.result import Result
from supervisor.serve.wsgi.upload import Gathered, Upload

if TYPE_CHECKING:
    from supervisor.serve.http1.connection import Connection
    from supervisor.serve.http1.ending import Ending
    from supervisor.serve.wsgi.bridge import WsgiBridge

Write = Callable[[bytes], None]


class WsgiExchange(Answer):
    """One request, from its head to the end of the app's code. What is not in one piece, `result` goes on with."""

    __slots__ = (
        "_left",
        "_submitted",
        "body",
        "bridge",
        "connection",
        "environ",
        "gone",
        "holds_body",
        "result",
        "since",
    )

    head: Head

    def __init__(self, connection: Connection, head: Head, keep: bool) -> None:
        # What Answer.__init__ does is written out: one call more is felt here.
        self.head = head
        self.keep = keep
        self.status = 0
        self.sent = 0
        self.connection = connection
        self.bridge: WsgiBridge = connection.service.bridge  # type: ignore[assignment]
        self.trace = Trace(head.request, connection.origin is not None, self.bridge)
        self.since = monotonic()
        self.holds_body = connection.body is not None and head.request.expect_continue and not head.legacy
        self.environ: Environ  # kept for the access log
        self.body: Gathered | Upload | None = None
        self.result: Result | None = None
        self.gone = False
        self._lines: Lines | None = None
        self._submitted = False
        self._left = False

    def complain(self, what: str, error: BaseException | None = None) -> None:
        """Tell of what the app has done."""
        complain(self.head.method, self.head.request.target, what, error)

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def progress(self) -> int:
        """Bytes that the app has sent and, of a streamed body, taken."""
        return self.sent + (self.body.taken if isinstance(self.body, Upload) else 0)

    @property
    def waits_for_client(self) -> bool:
        """The app's thread is not the one that is slow."""
        if isinstance(self.body, Upload) and self.body.is_hungry:
            return True
        return self.result is not None and self.result.waits_for_client

    # In the loop.

    def start(self) -> None:
        if self.connection.body is None:
            if not self._submitted:
                self._submitted = True  # `_submit`, written out
                pool = self.bridge.pool
                if pool is None and not self.bridge.inline.is_careful:
                    self.run_inline()
                elif pool is None:
                    self.bridge.inline.run(self)
                else:
                    pool.jobs.append(self)
                    if not pool.is_waking:
                        pool.wake_soon()
        elif self.holds_body and self._may_stream():
            self._stream_body()
        elif self.holds_body:
            self.holds_body = False
            self.connection.send_continue()

    def feed(self, data: bytes, done: bool) -> None:
        self.holds_body = False
        body = self.body
        if isinstance(body, Upload):
            body.feed(data, done)
            return
        if self._submitted:  # it is answered, and its body given up
            return
        limits = self.connection.service.limits
        if body is None:
            body = self.body = Gathered(limits.memory_body)
        if not done and body.size + len(data) > limits.read_ahead and self._may_stream():
            self._stream_body().feed(data, False)
            return
        try:
            body.add(data, done=done)
        except OSError as error:
            self._cannot_keep(body, error)
            return
        if done:
            self._submit()

    def _cannot_keep(self, body: Gathered, error: OSError) -> None:
        """The temporary file takes no more."""
        self.complain(f"the request's body can't be kept in {tempfile.gettempdir()}: {error.strerror}")
        body.close()
        self._submitted = True
        self.connection.finish(self.own(500, self.connection.service.stamps))

    def writable(self) -> None:
        if self.result is not None:
            self.result.writable()

    def half_closed(self) -> None:
        """The answer may still reach the client, and WSGI has no way to tell the app."""

    def lost(self) -> None:
        self.gone = True
        if isinstance(self.body, Upload):
            self.body.lost()
        result = self.result
        if result is not None:
            result.lost()
        if not self._submitted:
            self.leave()
            if isinstance(self.body, Gathered):
                self.body.close()
        elif result is not None and result.ended:
            self.leave()

    def leave(self, _: None = None) -> None:
        """The client has gone, and the app's code has ended."""
        if not self._left:
            self._left = True
            self.connection.tally.leave()

    @property
    def is_ending(self) -> bool:
        """See `Line`."""
        return self.connection.eof

    def queue(self) -> None:
        """It stands in line for the event loop."""
        self._submitted = False
        self.since = arrival(self.connection, self.since)

    def unqueue(self) -> None:
        """Its turn has come."""
        self._submitted = True

    def turn_away(self) -> None:
        """No thread was free for too long, nor the event loop."""
        if isinstance(self.body, Gathered):
            self.body.close()
        self.leave()
        self.connection.turn_away()

    def pass_on(self, give: Callable[[Ending, bytes], bool]) -> bool:
        """Another worker has a thread for it, if `give` gives it there; whether it does."""
        if not self.connection.pass_on(give):
            return False
        self.leave()
        return True

    def _may_stream(self) -> bool:
        return self.bridge.pool is not None and isinstance(self.connection.body, SizedBody)

    def _stream_body(self) -> Upload:
        ask = self.connection.send_continue if self.holds_body else None
        upload = Upload(self.connection, self.connection.service.limits.read_ahead, ask)
        if isinstance(self.body, Gathered):
            with self.body.open() as gathered:
                upload.feed(gathered.read(), False)
        self.body = upload
        self._submit()
        return upload

    def _submit(self) -> None:
        self._submitted = True
        pool = self.bridge.pool
        if pool is None:
            self.bridge.inline.run(self)
        else:
            pool.jobs.append(self)
            if not pool.is_waking:
                pool.wake_soon()

    def run_inline(self) -> None:
        """Now, in the event loop."""
        bridge, label = self.bridge, self.connection.label
        if label is not bridge.client:  # the recorder's `enter`, written out
            bridge.client = label
            bridge.recorder.introduce(label)
        try:
            bridge.current.value = self.head.raw
        except ValueError:
            bridge.current.value = fitting(self.head.raw)
        self.run()
        bridge.current.value = b""

    # In the thread, or in the loop when inline.

    def run(self) -> None:
        """Call the app and send what it gives, in a context of its own. Raises nothing."""
        bridge = self.bridge
        context = bridge.context.copy()
        given: Iterable[bytes] = ()
        failure: BaseException | None = None
        try:
            if self.gone:
                raise ClientDisconnectedError("the client has gone")
            environ = self.environ = bridge.environs.of(self, self.connection)
            if self.body is not None:
                self._give_body(environ, self.body)
            given = context.run(bridge.app, environ, self._start_response)
            if type(given) is list and len(given) == 1 and self._answer(given[0]):
                return
        except BaseException as error:
            failure = error
        if self.result is None:
            self.result = Result(self)
        context.run(self.result.run, given, failure, context)

    def _give_body(self, environ: Environ, body: Gathered | Upload) -> None:
        if isinstance(body, Upload):
            environ["wsgi.input"] = io.BufferedReader(body, 65536)
        else:
            environ["wsgi.input"] = body.open()
            set_length(environ, body.size)

    def _start_response(self, status: str, headers: list[tuple[str, str]], /, exc_info: Any = None) -> Write:
        if exc_info is not None:
            try:
                if self.status:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circular reference
        elif self._lines is not None:
            raise AnswerError("the app called start_response twice")
        head = self.head
        lines = head.lines
        if lines is None or lines.fields != headers or lines.said != status:
            lines = render_text(status, headers)
            head.answered(lines)
        self._lines = lines
        return self._write

    def _write(self, chunk: bytes) -> None:
        """What `start_response` returns."""
        if self.result is None:
            self.result = Result(self)
        self.result.write(chunk)

    def _answer(self, body: bytes) -> bool:
        """Head and whole body at once: the common answer, which is `whole`, written out. False for any other."""
        lines = self._lines
        connection = self.connection
        service = connection.service
        size = len(body)
        if (
            self.result is not None
            or self.body is not None
            or lines is None
            or not lines.simple
            or size != lines.declared
            or type(body) is not bytes
            or not self.head.is_plain
            or service.draining
        ):
            return False
        stamp = service.stamps.last if self.keep else service.stamps.farewell
        data = (lines.head if lines.stamp is stamp else lines.stamped(stamp)) + body
        self.status = lines.status
        self.sent = size
        pool = self.bridge.pool
        if pool is None:
            service.gathering.finish(connection, data)
        else:
            pool.outbox.append((self, data, None))
        return True

    def said(self) -> Lines:
        """What the app has said in `start_response`, and the last moment to decide whether the connection lives on."""
        lines = self._lines
        if lines is None:
            raise AnswerError("the app answered without calling start_response")
        connection = self.connection
        if (connection.service.draining or connection.body is not None) and connection.must_close(self):
            self.keep = False
        return lines
