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
from supervisor.serve.asgi.turns import Turns
from supervisor.serve.line import Line

if TYPE_CHECKING:
    from supervisor.serve.service import Service
    from supervisor.serve.websocket.upgrade import Upgrade

# A name of its own for each task would have to be rendered; and an eager task needs no turn of the loop to begin.
_TASK: dict[str, Any] = {"name": "request"} | ({"eager_start": True} if sys.version_info >= (3, 12) else {})


class AsgiBridge:
    """One app, and how its requests begin."""

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

    def close(self) -> None:
        """Nothing to release: tasks end with the loop."""
