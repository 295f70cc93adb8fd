"""A worker's whole life in small, with an app of ours, played in the spawner before it forks.

Code that runs for the first time writes to memory: the interpreter fills its caches and specialises what it has run,
classes lay out their instances, modules make what they keep. What has happened before the fork is shared; after it,
every worker has a copy of its own of each page that was written to. It takes about two milliseconds.

Invariant: nothing else is left of it: no descriptor, thread, event loop or signal handler; and none of the app's code
runs. What goes wrong in it costs memory and nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

import msgspec

from supervisor.config.settings import AppSettings, Interface
from supervisor.kernel.board import ROW_BYTES
from supervisor.kernel.channel import Channel
from supervisor.messages.wire import Drain, Ready, encode, from_worker
from supervisor.serve.edge.tls import Tls
from supervisor.worker.hooks import WorkerHooks, WorkerInfo
from supervisor.worker.output import count_drops
from supervisor.worker.process import Worker
from supervisor.worker.seat import Seat

PATIENCE = 1.0  # seconds; it is stopped where it is then


def rehearse(settings: AppSettings, interface: Interface, tls: Tls | None) -> bool:
    """Play a worker from its start to its end, with one request in between. Whether it went as it should."""
    at_term = signal.getsignal(signal.SIGTERM)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    master = Channel(ours)
    board = os.memfd_create("holdfast-rehearsal", os.MFD_CLOEXEC)
    os.ftruncate(board, ROW_BYTES)
    worker = None
    try:
        worker = _Understudy(_seat(settings, interface, tls, board, theirs.detach(), master))
        return worker.live() == 0
    except Exception:
        return False
    finally:
        with contextlib.suppress(Exception):
            if worker is not None:
                worker.clear()
        master.close()
        count_drops(None)
        asyncio.set_event_loop(None)
        if at_term is not None:  # None: not set from Python, and not to be set again from there
            signal.signal(signal.SIGTERM, at_term)


class _Understudy(Worker):
    """Leaves nothing behind, and is not seen in `ps`."""

    def _title(self, state: str) -> None:
        pass

    def clear(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))  # in which what is cancelled ends
        self._loop.close()
        self._channel.close()


def _seat(
    settings: AppSettings, interface: Interface, tls: Tls | None, board: int, channel: int, master: Channel
) -> Seat:
    def load() -> tuple[object, Interface]:
        loop = asyncio.get_running_loop()
        loop.call_later(PATIENCE, loop.stop)
        loop.add_reader(master.fileno(), _prompt, master)
        return (_asgi if interface == "asgi" else _wsgi), interface

    return Seat(
        settings=msgspec.structs.replace(settings, ready_path="/", threads=1),  # a request, and no thread
        generation=0,
        slot=0,
        row=0,
        board=board,
        listeners=(),
        log_format="text",
        channel=channel,
        stdout=1,
        stderr=2,
        stacks=-1,  # nobody asks
        access_log=None,
        trustee=None,
        tls=tls,
        worker=WorkerInfo(settings.name, 0, 0),
        load=load,
        load_hooks=WorkerHooks,  # none: they are the app's
    )


def _prompt(master: Channel) -> None:
    """The master's part: whoever is ready may go."""
    received = master.receive()
    if received is not None and isinstance(from_worker(received[0]), Ready):
        master.send(encode(Drain(timeout=PATIENCE, linger=0.0)))


async def _asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ready"})


def _wsgi(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ready"]
