"""Whether the app is ready, as it says itself at its `ready_path`, asked through the whole stack.

Invariant: an app that can't be asked is not ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.messages.wire import Waiting
from supervisor.serve.service import Service

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two questions, while it starts
QUESTIONS = 3  # to one that serves, before it counts as not ready


def is_good(status: int) -> bool:
    """Whether this answer to `ready_path` says yes; 0 is no answer."""
    return 0 < status < 400


async def wait_until_ready(
    service: Service, path: str, is_wanted: Callable[[], bool], tell: Callable[[Waiting], None]
) -> None:
    """Ask until the app says yes or is not wanted any more, and tell each new reason to wait. The master bounds the
    time."""
    pause, told = FIRST_PAUSE, ""
    while is_wanted() and not is_good(status := await service.probe(path)):
        reason = f"ready_path {path} answers {status}" if status else f"ready_path {path} does not answer"
        if reason != told:
            tell(Waiting(reason))
            told = reason
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)


async def ask_again(service: Service, path: str | None) -> int | None:
    """The status that a worker which serves gives, None without a `path`. One bad answer among good ones decides
    nothing."""
    status = None
    for _ in range(QUESTIONS if path is not None else 0):
        status = await service.probe(path or "")
        if is_good(status):
            break
        await asyncio.sleep(FIRST_PAUSE)
    return status
