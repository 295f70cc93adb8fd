"""Targets as people write them, `APP`, `APP:SLOT` or `all`, looked up in a status. Pure.

Invariant: a name that doesn't exist is answered with the names that do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from supervisor.errors import RefusedError
from supervisor.messages.status import AppStatus, Status, WorkerStatus

_RUNNING_APP = {"running", "rolling", "degraded"}
_RUNNING_WORKER = {"ready", "saturated", "stalled"}


def split(target: str) -> tuple[str, int | None]:
    """`web:2` is ("web", 2), `web` is ("web", None). Raises `RefusedError` when the slot is no number."""
    app, colon, slot = target.partition(":")
    if not colon:
        return app, None
    if not (slot.isascii() and slot.isdigit()):
        raise RefusedError(f"{target!r} is no target: expected APP, APP:SLOT (as in {app or 'web'}:1) or all")
    return app, int(slot)


def select(status: Status, targets: Sequence[str]) -> dict[str, AppStatus]:
    """The apps that `targets` name, each with only the named workers; no targets, or `all`, means everything."""
    if not targets or "all" in targets:
        return dict(status.apps)
    slots: dict[str, set[int] | None] = {}
    for name, slot in map(split, targets):
        if name not in status.apps:
            raise RefusedError(f"no app called {name!r}; there is {', '.join(status.apps) or 'none'}")
        _known(name, status.apps[name], slot)
        named = slots.setdefault(name, set())
        if slot is None:
            slots[name] = None
        elif named is not None:
            named.add(slot)
    return {name: narrow(status.apps[name], wanted) for name, wanted in slots.items()}


def are_running(status: Status, targets: Sequence[str]) -> bool:
    """True when every named app serves and every named worker takes requests."""
    for name, slot in map(split, [target for target in targets if target != "all"]):
        app = status.apps[name]
        if slot is None and app.state not in _RUNNING_APP:
            return False
        if slot is not None and not any(is_running(worker) for worker in app.workers if worker.slot == slot):
            return False
    return "all" not in targets or all(app.state in _RUNNING_APP for app in status.apps.values())


def is_running(worker: WorkerStatus) -> bool:
    """True when the worker takes requests (a starting or draining one doesn't)."""
    return worker.state in _RUNNING_WORKER


def ready(app: AppStatus) -> tuple[int, int]:
    """How many slots take requests, of how many there are."""
    slots = {worker.slot for worker in app.workers}
    return len({worker.slot for worker in app.workers if is_running(worker)}), len(slots)


def pids(app: AppStatus) -> list[int]:
    """The app's living workers."""
    return [worker.pid for worker in app.workers if worker.pid]


def narrow(app: AppStatus, slots: Collection[int] | None) -> AppStatus:
    """The app with only these slots' workers; None means all."""
    if slots is None:
        return app
    return replace(app, workers=tuple(worker for worker in app.workers if worker.slot in slots))


def _known(name: str, app: AppStatus, slot: int | None) -> None:
    there = sorted({worker.slot for worker in app.workers})
    if slot is not None and slot not in there:
        raise RefusedError(f"{name} has no worker {slot}; it has {', '.join(map(str, there)) or 'none'}")
