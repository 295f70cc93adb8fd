"""What the service manager hears: how the service is, that its master turns, and that what takes long is no hang.

Invariants:
- READY is told once every slot of every app is served, and RELOADING and READY around each roll.
- WATCHDOG=1 is told by the reactor's own timers and by nothing else: a master that no longer turns is found out.
- A timeout of the manager's is put off only while something is under way that has an end of its own.

Sources: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

from __future__ import annotations

from enum import Enum

from supervisor.kernel.notify import Notifier
from supervisor.kernel.reactor import Reactor, Timer

EXTEND_EVERY = 5.0  # seconds
EXTEND_BY = 15.0  # seconds; two words of ours may get lost or come late


class Stage(Enum):
    BOOTING = "booting"
    SERVING = "serving"
    ROLLING = "rolling"
    STOPPING = "stopping"


class Herald:
    """Says each thing once. Without a service manager it does nothing."""

    def __init__(self, notifier: Notifier, reactor: Reactor) -> None:
        self._notifier = notifier
        self._reactor = reactor
        self._stage = Stage.BOOTING
        self._line = ""
        self._gives_up_at = 0.0
        self._timers: dict[str, Timer] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What tells our next life, in this process, whom to tell."""
        return self._notifier.environment

    def begin(self, patience: float) -> None:
        """The loop is about to turn. With nothing ready after `patience` seconds the manager's own timeout counts."""
        self._gives_up_at = self._reactor.now() + patience
        if self._notifier.watchdog_s is not None:
            self._beat(self._notifier.watchdog_s / 2)
        self._extend()

    def tell(self, line: str, *, is_ready: bool, is_rolling: bool) -> None:
        """How the service is now, in one line."""
        before, self._stage = self._stage, _stage(is_ready, is_rolling)
        if self._stage is Stage.ROLLING and before is not Stage.ROLLING:
            self._notifier.reloading(line)
            self._extend()
        elif self._stage is Stage.SERVING and before is not Stage.SERVING:
            self._notifier.ready(line)
        elif line != self._line:
            self._notifier.status(line)
        self._line = line

    def stopping(self, line: str) -> None:
        """On the way out."""
        if self._stage is not Stage.STOPPING:
            self._stage = Stage.STOPPING
            self._notifier.stopping(line)
            self._extend()
        elif line != self._line:
            self._notifier.status(line)
        self._line = line

    def close(self) -> None:
        """Say nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._notifier.close()

    def _beat(self, interval: float) -> None:
        self._notifier.watchdog()
        self._timers["beat"] = self._reactor.call_later(interval, lambda: self._beat(interval))

    def _extend(self) -> None:
        """Go on until the stage has passed; workers' own deadlines see to it that rolls and stops have an end."""
        if (timer := self._timers.pop("extend", None)) is not None:
            timer.cancel()
        is_late = self._stage is Stage.BOOTING and self._reactor.now() > self._gives_up_at
        if self._notifier.is_active and self._stage is not Stage.SERVING and not is_late:
            self._notifier.extend_timeout(EXTEND_BY)
            self._timers["extend"] = self._reactor.call_later(EXTEND_EVERY, self._extend)


def _stage(is_ready: bool, is_rolling: bool) -> Stage:
    if not is_ready:
        return Stage.BOOTING
    return Stage.ROLLING if is_rolling else Stage.SERVING
