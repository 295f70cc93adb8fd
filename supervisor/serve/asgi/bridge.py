"""What all requests to one ASGI 3 app (spec 2.5) share."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisor.kernel.recorder import Recorder
from supervisor.serve.asgi.exchange import AsgiExchange
from supervisor.serve.asgi.interface import App, Scope
from supervisor.serve.asgi.lifespan import Lifespan
from supervisor.serve.asgi.turns import Turns
from supervisor.serve.line import Line
from supervisor.serve.websocket.upgrade import Upgrade

if TYPE_CHECKING:
    from supervisor.serve.service import Service

# A name of its own for each task would have to be rendered; and an eager task needs no turn of the loop to begin.
_TASK: dict[str, Any] = {"name": "request"} | ({"eager_start": True} if sys.version_info >= (3, 12) else {})


class AsgiBridge:
    """One app, and how its requests begin."""

    owns_loop = True

    def __init__(self, app: App, service: Service) -> None:
        self.app = app
        self.service = service
        self.pool = None  # of threads: the loop runs the app
        self.loop = service.loop
        self.version = {"version": "3.0", "spec_version": "2.5"}
        self.state: dict[str, Any] = {}
        self.root_path = service.settings.root_path or ""
        self.scope: Scope = {"type": "http", "asgi": self.version, "http_version": "1.1", "method": "", "scheme": ""}
        self.scope |= {"path": "", "raw_path": b"", "query_string": b"", "root_path": self.root_path, "headers": []}
        self.scope |= {"client": None, "server": None, "state": {}, "extensions": {}}  # what all scopes begin as
        self.recorder: Recorder = service.recorder
        self.current = service.recorder.current
        self.client = b""  # of the current request, as far as `recorder` has heard of no other and of no name
        self.draining = asyncio.Event()  # the worker leaves: long answers had better come to an end
        self.live: set[AsgiExchange | Upgrade] = set()  # whose app code has a task, also after its answer
        self.spawn: Callable[..., asyncio.Task[None]] = functools.partial(asyncio.Task, loop=self.loop, **_TASK)
        self.turns: Turns = Turns(self, Line(service.patience))
        self.open = functools.partial(AsgiExchange, self)
        self.open_websocket = functools.partial(Upgrade, self)
        self._lifespan = Lifespan(app, self.loop)

    async def startup(self) -> None:
        """Raises `AppError` when the app's lifespan says that it can't start."""
        await self._lifespan.startup()
        self.state = self._lifespan.state

    async def shutdown(self) -> None:
        """Have the app told, and wait for it; tasks end with the loop."""
        await self._lifespan.shutdown()

    @property
    def load(self) -> int:
        """Requests in flight: each may go on at any time."""
        return self.service.inflight

    @property
    def has_line(self) -> bool:
        """Whether requests wait for their turn."""
        return self.turns.has_line

    def is_full(self) -> bool:
        """Never by itself: how many may be in flight is the service's to say."""
        return False

    def keeps_up(self) -> bool:
        """Whoever finds no room waits for others to finish, however long that takes."""
        return False

    def feel(self, lag: float) -> None:
        """The loop has come so many seconds late."""
        self.turns.feel(lag)

    def has_room(self) -> None:
        """There may be room for one in line."""
        self.turns.resume()

    def is_running(self) -> bool:
        """Whether app code is running, be it after its answer."""
        return bool(self.live) or self.turns.is_running()

    def named(self, name: str) -> None:
        """The app has asked for the id of a request of its own."""
        if self.recorder.named(name):
            self.client = bytes(1)  # nobody's: the next request is introduced, whoever sends it

    def cut(self) -> None:
        """Cancel what still runs."""
        self.turns.cancel()
        for exchange in tuple(self.live):
            exchange.cancel()
