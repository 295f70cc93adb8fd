"""A worker whose master has been killed: it serves on, waits for another master, and leaves if none comes.

Invariants:
- Whether there is a master changes nothing about how connections and requests are served.
- Without one a worker stays no longer than the estate's `grace`, and then leaves as it would when told to.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from supervisor.messages.wire import Adopted
from supervisor.worker.trustee import Trustee


class Ward(Protocol):
    """The worker."""

    is_leaving: bool

    def forsaken(self) -> None: ...


class Orphan:
    """`watch` from the beginning; it is one from the master's end until `obey`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, trustee: Trustee, slot: int, ward: Ward) -> None:
        self._loop = loop
        self._trustee = trustee
        self._slot = slot
        self._ward = ward
        self._patience: asyncio.TimerHandle | None = None
        self._is_orphaned = False

    def watch(self) -> None:
        """Notice the master's end."""
        self._trustee.be_counted()
        self._watch()

    def obey(self, master: Adopted) -> None:
        """There is a master again."""
        self._stop_waiting()
        self._loop.remove_reader(self._trustee.watched)
        self._trustee.obey(master.pid, master.started)
        self._is_orphaned = False
        self._watch()

    def take_leave(self) -> None:
        """The worker's end."""
        if self._is_orphaned or not self._trustee.has_master:
            self._stop_waiting()
            self._trustee.clean_up()

    def _watch(self) -> None:
        if self._trustee.watched >= 0:
            self._loop.add_reader(self._trustee.watched, self._on_end)
        else:
            self._on_end()

    def _on_end(self) -> None:
        if self._trustee.watched >= 0:
            self._loop.remove_reader(self._trustee.watched)
        self._is_orphaned = True
        self._loop.add_reader(self._trustee.meeting.fileno(), self._trustee.answer)
        if not self._ward.is_leaving:
            grace = self._trustee.estate.grace
            self._trustee.say(f"this worker serves on, and waits {grace:g} s for another", self._slot)
            self._patience = self._loop.call_later(grace, self._give_up)

    def _give_up(self) -> None:
        if not self._ward.is_leaving:
            grace = self._trustee.estate.grace
            self._trustee.say(f"none has come in {grace:g} s; this worker finishes what it has and leaves", self._slot)
            self._ward.forsaken()

    def _stop_waiting(self) -> None:
        if self._is_orphaned:
            self._loop.remove_reader(self._trustee.meeting.fileno())
        if self._patience is not None:
            self._patience.cancel()
