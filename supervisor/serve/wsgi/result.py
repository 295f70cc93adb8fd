"""What a WSGI app answers with when it is not one piece of bytes: gone through, sent by the kernel, written, closed.

Invariant: whatever happens, the result's `close()` is called, once, in the thread and the context that the app ran in.
An answer that was begun ends whole, or with its connection.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from supervisor.serve.faults import ClientDisconnectedError
from supervisor.serve.http1.answer import JOINED, AnswerError, frozen
from supervisor.serve.http1.sendfile import FilePart
from supervisor.serve.wsgi.filewrapper import FileWrapper
from supervisor.serve.wsgi.upload import Gathered, Upload
from supervisor.serve.wsgi.window import Window

if TYPE_CHECKING:
    from supervisor.serve.wsgi.exchange import WsgiExchange


class Result:
    """The rest of one exchange: from the app's return, or its first `write`, to the end of its code."""

    __slots__ = ("_begun", "_context", "_exchange", "_given", "_iterator", "_pool", "_whole", "_window", "ended")

    def __init__(self, exchange: WsgiExchange) -> None:
        self._exchange = exchange
        self._pool = exchange.bridge.pool
        self._begun = False  # something of the answer was handed over
        self._whole = False  # all of it was
        self.ended = False  # no app code is running or will
        self._context: contextvars.Context
        self._given: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._window: Window | None = None

    @property
    def waits_for_client(self) -> bool:
        """The thread can go on only when the client has taken more."""
        return self._window is not None and self._window.is_shut

    # In the thread, or in the loop when inline.

    def run(self, given: Iterable[bytes], failure: BaseException | None, context: contextvars.Context) -> None:
        """Go through what the app has `given`, in its `context`; or end with its failure. Raises nothing."""
        self._given = given
        self._context = context
        if failure is None:
            try:
                self._iterator = self._iterated()
            except BaseException as error:
                failure = error
        if failure is not None:
            self._fail(failure)
        if self._iterator is None:
            self._over()
        else:
            self._go_on()

    def write(self, chunk: bytes) -> None:
        """Send a piece of the body."""
        if not chunk:
            return
        exchange = self._exchange
        if exchange.status:
            data = exchange.more(chunk)
        else:
            chunk = frozen(chunk)
            data = exchange.begin(exchange.said(), exchange.bridge.service.stamps) + exchange.more(chunk)
        if self._whole:
            return
        if exchange.bodyless:
            self._finish(data)
        else:
            self._put(data)

    def _iterated(self) -> Iterator[bytes] | None:
        """None when the answer was sent whole."""
        given = self._given
        if isinstance(given, FileWrapper):
            if self._send_file(given):
                return None
            declared = self._exchange.said().declared
            return iter(given) if declared is None else given.first(declared)
        if isinstance(given, (list, tuple)) and not self._exchange.status:
            self._send_whole(given[0] if len(given) == 1 else b"".join(given))
            return None
        return iter(given)

    def _send_whole(self, body: bytes) -> None:
        exchange = self._exchange
        data, apart = exchange.whole(exchange.said(), body, exchange.bridge.service.stamps)
        self._finish(data, apart)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Whether the kernel sends it. A small file is an answer like any other."""
        exchange = self._exchange
        lines = exchange.said()
        part = None if exchange.status else wrapper.part()
        if part is None:
            return False
        if lines.declared is not None:
            part.size = min(part.size, lines.declared)
        try:
            if part.size < JOINED:
                self._send_whole(part.read())
                return True
            head = exchange.begin(lines, exchange.bridge.service.stamps, part.size)
        except BaseException:
            part.close()
            raise
        if exchange.bodyless:
            part.close()
            self._finish(head)
        else:
            exchange.sent = part.size
            self._begun = self._whole = True
            self._hand(self._finish_with_file, (head, part))
        return True

    def _go_on(self) -> None:
        """Send the rest; inline, only as far as the client takes it."""
        iterator = self._iterator
        assert iterator is not None
        connection = self._exchange.connection
        inline = self._pool is None
        try:
            for chunk in iterator:
                self.write(chunk)
                if self._whole and self._exchange.bodyless:
                    break  # the rest, of which there may be no end, is for nobody
                if inline and connection.write_paused and not self._whole:
                    return
            if self._whole:
                pass
            elif self._exchange.status:
                self._finish(self._exchange.end())
            else:
                self._send_whole(b"")
        except BaseException as error:
            self._fail(error)
        self._over()

    def _put(self, data: bytes) -> None:
        """Hand bytes to the loop, and wait while it has too many of ours that the client does not take."""
        exchange = self._exchange
        if self._window is None and self._pool is not None:
            self._window = Window(exchange.bridge.service.limits.read_ahead)
        if self._is_lost():  # asked after the window is there for `lost` to close
            raise ClientDisconnectedError("the client has gone")
        self._begun = True
        self._hand(self._stream, data)
        if self._window is not None:
            self._window.give(len(data))

    def _finish(self, data: bytes, apart: bytes = b"") -> None:
        self._begun = self._whole = True
        self._hand(self._finish_apart if apart else self._finish_with, (data, apart) if apart else data)

    def _hand(self, call: Callable[[Any], None], given: Any) -> None:
        if self._pool is None:
            call(given)
        else:
            self._pool.post(self._exchange, given, call)

    def _is_lost(self) -> bool:
        """Whether the client has gone. Inline the loop has had no turn to say so."""
        exchange = self._exchange
        return exchange.gone or (self._pool is None and exchange.connection.transport.is_closing())

    def _fail(self, error: BaseException) -> None:
        self._iterator = None
        exchange = self._exchange
        at_odds = isinstance(error, AnswerError)
        if self._is_lost():
            if not isinstance(error, ClientDisconnectedError):
                exchange.complain("the app raised an exception", error)
            return
        if at_odds:
            exchange.complain(str(error))
        else:
            exchange.complain("the app raised an exception", error)
        if self._begun:
            if not self._whole:
                self._whole = True
                self._hand(self._cut, None)
            return
        connection = exchange.connection
        must_close = at_odds or connection.body is not None or connection.must_close(exchange)
        self._finish(exchange.own(500, exchange.bridge.service.stamps, keep=exchange.keep and not must_close))

    def _over(self) -> None:
        """The app's code ends here, with the result's close()."""
        self._iterator = None
        exchange = self._exchange
        close = getattr(self._given, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                exchange.complain("the result's close() raised an exception", error)
        self._given = ()
        if type(exchange.body) is Gathered:
            exchange.body.close()
        self.ended = True
        if exchange.gone:
            self._hand(exchange.leave, None)

    # In the loop.

    def writable(self) -> None:
        """The kernel has all that was written."""
        if self._window is not None:
            self._window.opened()
        elif self._pool is None and self._iterator is not None:
            self._context.run(self._go_on)

    def lost(self) -> None:
        """The client has gone."""
        if self._window is not None:
            self._window.close()
        elif self._pool is None and self._iterator is not None:
            self._context.run(self._over)

    def _stream(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange.gone:
            return
        connection = exchange.connection
        if self._window is None:
            connection.stream_now(data)  # PEP 3333: not held back while the app makes the next block
            return
        connection.stream(data)
        self._window.wrote(len(data))
        if not connection.write_paused:
            self._window.opened()

    def _finish_with(self, data: bytes) -> None:
        if self._can_finish():
            self._exchange.connection.finish(data)

    def _finish_apart(self, pieces: tuple[bytes, bytes]) -> None:
        if self._can_finish():
            self._exchange.connection.transport.writelines(pieces)
            self._exchange.connection.finish()

    def _finish_with_file(self, answer: tuple[bytes, FilePart]) -> None:
        if self._can_finish():
            self._exchange.connection.finish_with_file(*answer)
        else:
            answer[1].close()

    def _can_finish(self) -> bool:
        """The answer is complete. Whether there is still somebody to have it."""
        exchange = self._exchange
        if type(exchange.body) is Upload:
            exchange.body.lost()
        if exchange.gone:
            exchange.leave()
        return not exchange.gone

    def _cut(self, _: None) -> None:
        """The app has given up in the middle of its answer."""
        if not self._exchange.gone:
            self._exchange.connection.cut()
