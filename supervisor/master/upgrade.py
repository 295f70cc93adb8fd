"""The master's upgrade in place: wait for quiet, ask the new code whether it can go on, then become it.

Invariants:
- Until the `execv` itself nothing is given up: a refusal, whatever its reason, leaves everything as it was.
- The new code reads the very state that it will go on with, in a process of its own, before it is trusted with it.
- One upgrade at a time, and none during a roll: what a roll watches and waits for is not in the record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from supervisor import __version__
from supervisor.control.server import ControlServer
from supervisor.errors import RefusedError
from supervisor.kernel.process import execute_again
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.app import App
from supervisor.master.children import Children
from supervisor.master.preflight import ENTRY, Preflight, write_memory
from supervisor.messages.status import UpgradeStatus
from supervisor.observe.journal import Journal

LOOK_EVERY = 0.05  # seconds between two looks whether all is quiet
CLIENT_PATIENCE = 1.0  # seconds that a client of the control socket has to bring or to take what is under way


class UpgradeOwner(Protocol):
    """The master."""

    @property
    def why_not_upgradable(self) -> str: ...
    @property
    def control(self) -> ControlServer | None: ...
    def state(self) -> record.Master: ...


class Upgrade:
    """`begin` returns at once; `status` tells how it goes."""

    def __init__(
        self, owner: UpgradeOwner, apps: Mapping[str, App], reactor: Reactor, children: Children, journal: Journal
    ) -> None:
        self._owner = owner
        self._apps = apps
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self.status: UpgradeStatus | None = None

    @property
    def is_under_way(self) -> bool:
        return self.status is not None and self.status.verdict == "running"

    def begin(self) -> UpgradeStatus:
        """Begin one. Raises `RefusedError`."""
        if self.is_under_way:
            raise RefusedError("an upgrade is under way already")
        if why := self._owner.why_not_upgradable:
            raise RefusedError(f"not upgraded: {why}")
        number = self.status.number + 1 if self.status is not None else 1
        self.status = UpgradeStatus(number=number, from_=__version__, began=self._reactor.now())
        self._reactor.call_later(0, self._wait)
        return self.status

    def resume(self, status: UpgradeStatus) -> None:
        """We are the new code, and have taken over."""
        seconds = round(self._reactor.now() - status.began, 3)
        self.status = replace(status, to=__version__, verdict="done", reason="", seconds=seconds)
        text = f"holdfast {__version__} goes on in place of {status.from_}, after {seconds:.2f} s"
        ends: dict[str, Any] = {"from": status.from_, "to": __version__, "seconds": seconds}
        self._journal.event("master.upgraded", text, pid=os.getpid(), **ends)

    def refuse(self, reason: str) -> None:
        """It comes to nothing; all goes on."""
        assert self.status is not None
        seconds = round(self._reactor.now() - self.status.began, 3)
        self.status = replace(self.status, verdict="refused", reason=reason, seconds=seconds)
        self._journal.event("log", f"not upgraded, all goes on as before: {reason}", level="error")

    def _wait(self) -> None:
        """For a roll's end."""
        if self._is_quiet():
            Preflight(self._reactor, self._children, self._owner.state(), self._on_answer)
        elif self.is_under_way:
            self._reactor.call_later(LOOK_EVERY, self._wait)

    def _on_answer(self, version: str, failure: str) -> None:
        assert self.status is not None
        if not failure and _numbers(version) < _numbers(__version__):
            failure = f"holdfast {version} is installed, which is older than {__version__}; stop and start to go back"
        if failure:
            self.refuse(failure)
            return
        self.status = replace(self.status, to=version)
        self._go(self._reactor.now() + CLIENT_PATIENCE)

    def _go(self, patience: float) -> None:
        """Become the new code as soon as nobody is in the middle of something."""
        control = self._owner.control
        is_held_up = control is not None and control.is_busy and self._reactor.now() < patience
        if self._is_quiet() and not is_held_up:
            self._become()
        elif self.is_under_way:
            self._reactor.call_later(LOOK_EVERY, lambda: self._go(patience))

    def _become(self) -> None:
        """Become the code that is installed now. Returns only if that can't be, with everything as it was."""
        control = self._owner.control
        idle = control.give_up() if control is not None else []
        kept = self._owner.state()
        assert kept.own is not None
        own = replace(kept.own, upgrade=self.status)
        if own.clients is not None:
            own = replace(own, clients=replace(own.clients, idle=tuple(sock.fileno() for sock in idle)))
        kept = replace(kept, own=own)
        memory = write_memory(record.encode(kept))
        arguments, environment = [*ENTRY, "--resume", str(memory)], {**os.environ, **own.environment}
        try:
            execute_again(arguments, environment, [*record.all_descriptors(kept), memory])
        except OSError as error:
            os.close(memory)
            if control is not None:
                control.take(idle)
            self.refuse(f"the new code can't be run: {error.strerror}")

    def _is_quiet(self) -> bool:
        """Nothing is under way that the record can't tell of. If there never will be a chance, it is refused."""
        assert self.status is not None
        if why := self._owner.why_not_upgradable:
            self.refuse(why)
            return False
        why = next((why for app in self._apps.values() if (why := _what_goes_on(app))), "")
        self.status = replace(self.status, reason=f"waits for {why}" if why else "")
        return not why


def _what_goes_on(app: App) -> str:
    """What of this app's has to end before; empty for nothing."""
    if app.engine.roll.is_under_way:
        return f"the end of the roll of {app.name}"
    return f"a hook of {app.name}" if app.hooks.are_busy else ""


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, for comparing."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
