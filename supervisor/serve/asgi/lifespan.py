"""ASGI lifespan: one task that is told when the worker starts and ends.

Invariant: an app that does not know lifespan is served all the same. It is taken not to know it when it raises, or
returns, before it has said whether its startup is complete; an app that says its startup failed, or exits, has failed.
What it raises is told once, with its traceback: only an app that never asked what it is to do raises in silence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from supervisor.errors import AppError
from supervisor.serve.faults import complain

if TYPE_CHECKING:
    from supervisor.serve.asgi.interface import App, Message


class Lifespan:
    """Runs the app's lifespan. `state` is filled by the app and copied into every request's scope."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._phase = b"startup"  # then b"serving", then b"shutdown": where the app is, as the log calls it
        self._asked = False  # the app has called `receive`, and so it knows lifespan
        self._said = asyncio.Event()  # the app has answered what it was told last, or has ended
        self._failure: str | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        """Raises `AppError` when the app says that it can't start."""
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = self._loop.create_task(self._run(), name="lifespan")
        await self._said.wait()
        if self._failure is not None:
            await asyncio.wait([self._task], timeout=1.0)
            self._task.cancel()
            lines = self._failure.strip().splitlines()
            raise AppError(f"lifespan startup failed: {lines[-1] if lines else 'the app gave no reason'}")
        if isinstance(self._error, SystemExit):
            raise AppError(f"the app called exit({self._error.code!r}) in its lifespan startup")

    async def shutdown(self) -> None:
        """Tell the app that the worker ends, and wait until it has done with it. What it raises goes to the log."""
        if self._task is None or self._task.done():
            return
        self._said.clear()
        self._phase = b"shutdown"
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await self._said.wait()
        if self._failure is not None:
            complain("lifespan", self._phase, self._failure or "failed")
        elif self._error is not None:
            complain("lifespan", self._phase, "the app raised an exception", self._error)
        self._task.cancel()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            self._tell(error)
        finally:
            self._said.set()

    def _tell(self, error: BaseException) -> None:
        """Say what the app has raised, where `startup` and `shutdown` do not: while it serves, or before it does so."""
        if self._phase == b"serving":
            complain("lifespan", self._phase, "the app raised an exception", error)
        elif self._phase == b"startup" and self._asked and self._failure is None and not isinstance(error, SystemExit):
            complain("lifespan", self._phase, "the app raised an exception, and is served without lifespan", error)

    async def _receive(self) -> Message:
        self._asked = True
        return await self._inbox.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._failure = message.get("message") or ""
        elif kind not in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            raise RuntimeError(f"the app sent {kind!r} in its lifespan")
        elif kind == "lifespan.startup.complete":
            self._phase = b"serving"
        self._said.set()
