"""The app of the supervision tests: does what it is asked for, to itself, and echoes everything else.

Asked for by path: `/exit?CODE`, `/sys-exit?CODE` (out of a callback), `/interrupt` (KeyboardInterrupt out of a
callback), `/signal?NUMBER`, `/sleep?SECONDS`, `/block?SECONDS`, `/grow?MEGABYTES`, `/print?TEXT`, `/complain?TEXT`,
`/chatter?LINES` (to stdout, as fast as can be). A file called `broken` in the working directory kills each worker as
it starts; `kill-spawner` makes the next fork's intermediate process kill the spawner before it has told the pid,
`kill-between` makes it end itself.
Set in the environment: `IMPORT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from echo_app import answer_lifespan  # type: ignore[import-not-found]  # both are copied into the test's folder
from echo_app import app as echo

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SPAWNER = os.getpid()
HELD: list[bytes] = []


def kill_between_fork_and_answer() -> None:
    if os.getpid() == SPAWNER:
        return
    for name, victim in (("kill-spawner", SPAWNER), ("kill-between", os.getpid())):
        if os.path.exists(name):
            os.unlink(name)
            os.kill(victim, signal.SIGKILL)


os.register_at_fork(after_in_parent=kill_between_fork_and_answer)


def interrupt() -> None:
    raise KeyboardInterrupt


def die(path: str, argument: str) -> None:
    if path == "/exit":
        os._exit(int(argument))
    if path == "/signal":
        os.kill(os.getpid(), int(argument))
    loop = asyncio.get_running_loop()
    if path == "/sys-exit":
        loop.call_soon(sys.exit, int(argument))
    if path == "/interrupt":
        loop.call_soon(interrupt)


def die_if_broken() -> None:
    if os.path.exists("broken"):
        os._exit(7)


async def do(path: str, argument: str) -> None:
    if path == "/sleep":
        await asyncio.sleep(float(argument))
    elif path == "/block":
        time.sleep(float(argument))  # noqa: ASYNC251  # blocking is the point
    elif path == "/grow":
        HELD.append(bytes(1) + os.urandom(1) * (int(argument) * 2**20))
    elif path == "/print":
        print(argument)
    elif path == "/complain":
        print(argument, file=sys.stderr)
    elif path == "/chatter":
        for number in range(int(argument)):
            print(f"line {number} {'x' * 100}")
    else:
        die(path, argument)


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        die_if_broken()
        await answer_lifespan(receive, send)
        return
    if scope["path"] == "/":
        await echo(scope, receive, send)
        return
    await do(scope["path"], scope["query_string"].decode())
    body = b"%d" % os.getpid()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
