"""What all requests to one WSGI app (PEP 3333) share, in threads or inline on the event loop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from supervisor.kernel.recorder import Recorder
from supervisor.serve.wsgi.environ import Environ, Environs
from supervisor.serve.wsgi.exchange import Write, WsgiExchange
from supervisor.serve.wsgi.inline import Inline
from supervisor.serve.wsgi.pool import Pool

if TYPE_CHECKING:
    from supervisor.serve.exchange import Exchange
    from supervisor.serve.service import Service

App = Callable[[Environ, Callable[..., Write]], Iterable[bytes]]


class WsgiBridge:
    """One app, and who runs it. `on_room` is called when `is_full` was true and may be so no more."""

    open_websocket = None  # PEP 3333 has none

    def __init__(self, app: App, service: Service, on_room: Callable[[], None]) -> None:
        settings = service.settings
        self.app = app
        self.service = service
        self.context = service.context
        self.recorder: Recorder = service.recorder
        self.current = service.recorder.current
        self.client = b""  # of the current request, as far as `recorder` has heard of no other and of no name
        self.draining = threading.Event()  # the worker leaves: long answers had better come to an end
        self.environs = Environs(sys.stderr, settings, self.draining)
        self.pool: Pool | None = None
        if settings.threads > 1:
            self.pool = Pool(
                settings.threads, service.loop, settings.name, self.recorder, self._on_idle, service.patience
            )
            self.pool.on_crowd = service.crowded
        self.inline = Inline(service.loop, service.patience)
        self.lets_wait = service.lets_wait
        self.open = WsgiExchange
        self.owns_loop = self.pool is not None
        self._on_room = on_room
        self._was_full = False
        self._given_up = False

    async def startup(self) -> None:
        """A WSGI app is not told."""

    async def shutdown(self) -> None:
        """Let the threads end."""
        if self.pool is not None:
            self.pool.close()

    @property
    def live(self) -> Sequence[Exchange]:
        """Those whose app code is running, or waits for a thread."""
        return [] if self.pool is None else self.pool.live()  # type: ignore[return-value]

    @property
    def load(self) -> int:
        """Threads that are held. Inline, whoever asks finds none."""
        return 0 if self.pool is None else self.pool.load

    def named(self, name: str) -> None:
        """The app has asked for the id of the request that this thread runs."""
        if self.pool is None:
            if self.recorder.named(name):
                self.client = bytes(1)  # nobody's: the next request is introduced, whoever sends it
        else:
            self.recorder.named_in_thread(threading.get_ident(), name)

    def is_full(self) -> bool:
        """Whether all threads are held."""
        self._was_full = self.pool is not None and self.pool.load >= self.service.settings.threads
        return self._was_full

    def keeps_up(self) -> bool:
        """Whether requests that wait for a thread get one soon."""
        return self.pool is None or self.pool.keeps_up()

    def is_running(self) -> bool:
        """Whether app code is running, or waits for a thread."""
        if self.pool is None:
            return self.inline.has_line
        return not self._given_up and self.pool.is_running()

    @property
    def has_line(self) -> bool:
        """Whether requests wait for the event loop to have time for them."""
        return self.inline.has_line

    def feel(self, lag: float) -> None:
        """The loop has come so many seconds late."""
        if self.pool is None and self.lets_wait:
            self.inline.feel(lag)

    def has_room(self) -> None:
        """Who waits here waits for a thread or for time, and is told of those."""

    def cut(self) -> None:
        """Threads can't be stopped; they are daemons and end with the process."""
        self._given_up = True
        self.inline.clear()

    def _on_idle(self) -> None:
        """In a thread."""
        if self._was_full or self.service.draining:
            self._was_full = False
            try:
                self.service.loop.call_soon_threadsafe(self._has_room)
            except RuntimeError:
                return  # the loop has ended

    def _has_room(self) -> None:
        self._on_room()
        if self.service.draining:
            self.service.check_empty()
