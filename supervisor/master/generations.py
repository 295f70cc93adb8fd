"""All of an app's releases that somebody needs, by generation, and what their spawners tell.

Invariant: a release is known as long as it has a spawner or a worker; one that nobody needs is retired at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from supervisor.config.settings import AppSettings
from supervisor.kernel.board import Board
from supervisor.kernel.files import starting_directory
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.access import AccessFiles
from supervisor.master.children import Children
from supervisor.master.estate import Estate
from supervisor.master.listeners import Listeners
from supervisor.master.place import Place, find_place
from supervisor.master.releases import Release, ReleaseOwner
from supervisor.master.secrets import exposed
from supervisor.master.spawner import Spawner
from supervisor.master.worker import Worker
from supervisor.messages.wire import Adopted, Fork, Imported
from supervisor.observe.journal import Journal


class ReleasesOwner(ReleaseOwner, Protocol):
    """The app: what its spawners and workers are given, and who is told how spawners fare."""

    board: Board
    listeners: Listeners
    access: AccessFiles
    estate: Estate | None
    workers: dict[int, Worker]

    def on_last_errors(self, lines: list[str]) -> None: ...
    def on_spawner_left(self) -> None: ...


class Releases:
    """A mapping from generation to `Release`; owner of their spawners."""

    def __init__(self, owner: ReleasesOwner, reactor: Reactor, children: Children, journal: Journal) -> None:
        self._owner = owner
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self._start = starting_directory()
        self._by_generation: dict[int, Release] = {}

    def __getitem__(self, generation: int) -> Release:
        return self._by_generation[generation]

    @property
    def have_spawners(self) -> bool:
        """Some spawner has not ended yet."""
        return any(release.spawner is not None for release in self._by_generation.values())

    def check(self, settings: AppSettings) -> None:
        """Look up what a release with these settings needs. Raises `UserError` when it can't be had."""
        find_place(settings, self._start)
        if warning := exposed(settings, self._start):
            self._journal.event("log", warning, level="warning", app=settings.name)

    def add(self, generation: int, settings: AppSettings, place: Place | None = None) -> Release:
        """A new release, not started; its place is the one that the settings lead to now, unless it is known."""
        place = place or find_place(settings, self._start)
        release = Release(self._owner, self._reactor, settings, place, generation, self._make_spawner, self._send_fork)
        self._by_generation[generation] = release
        return release

    def keep_only(self, generations: Collection[int | None]) -> None:
        """Retire all others, and forget those of which nothing is left."""
        for generation, release in list(self._by_generation.items()):
            if generation not in generations:
                if not release.is_retired:
                    release.retire()
                if release.spawner is None and not any(
                    worker.generation == generation for worker in self._owner.workers.values()
                ):
                    del self._by_generation[generation]

    def kill(self, why: str) -> None:
        """End all spawners now."""
        for release in self._by_generation.values():
            if release.spawner is not None:
                release.spawner.kill(why)

    # What spawners tell

    def on_imported(self, spawner: Spawner, imported: Imported) -> None:
        if (release := self._of(spawner)) is not None:
            release.imported(imported)

    def on_forked(self, _spawner: Spawner, worker: int, pid: int) -> None:
        if (born := self._owner.workers.get(worker)) is not None:
            born.born(self._children, pid)

    def on_fork_lost(self, _spawner: Spawner, worker: int, reason: str) -> None:
        self._owner.workers[worker].fork_lost(self._children, reason)

    def on_spawner_end(self, spawner: Spawner, reason: str) -> None:
        if (release := self._of(spawner)) is None:
            return
        if not release.is_retired:
            self._owner.on_last_errors(spawner.pipes.last_errors())
        for worker in release.spawner_ended(reason):
            worker.not_asked_for(reason)
        if release.is_retired:
            self._owner.on_spawner_left()

    def _of(self, spawner: Spawner) -> Release | None:
        """The release that this is the spawner of, still."""
        release = self._by_generation.get(spawner.generation)
        return release if release is not None and release.spawner is spawner else None

    def state(self) -> tuple[record.Release, ...]:
        """All that a master which goes on with them has to know."""
        return tuple(release.state() for release in self._by_generation.values())

    def resume(self, kept: record.Release) -> None:
        """Go on with a release of an earlier master."""
        self.add(kept.generation, kept.settings, kept.place).resume(kept)

    def adopted(self, master: Adopted) -> None:
        """Tell the spawners who their master is now."""
        for release in self._by_generation.values():
            if release.spawner is not None:
                release.spawner.adopted(master)

    def _make_spawner(self, release: Release, kept: record.Spawner | None) -> Spawner:
        what = release.settings, release.place, release.generation
        spawner = Spawner(self, self._reactor, self._children, self._journal, *what)
        if kept is not None:
            spawner.resume(kept)
            return spawner
        spawner.start()
        spawner.launch(self._owner.board.fd, self._owner.listeners.of(release.settings.bind), self._owner.estate)
        return spawner

    def _send_fork(self, spawner: Spawner, worker: Worker) -> None:
        access = self._owner.access.fd_of(spawner.settings.access_log)
        request = Fork(worker.number, worker.slot, worker.row_number, access is not None)
        fds: Sequence[int] = [access] if access is not None else []
        spawner.fork(request, [*worker.fds_to_pass(), *fds])
        worker.passed()
