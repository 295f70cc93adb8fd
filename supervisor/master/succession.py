"""How an app goes on under another master, or under the same one after an `execv`.

Invariant: what was asked for and not yet done when the record was written is done afterwards, and what was done is not
done again: each worker of the record is watched, waits for its fork, or is looked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from supervisor.config.load import Source
from supervisor.config.settings import AppSettings, Settings
from supervisor.kernel.address import Fd, parse_address
from supervisor.kernel.notify import listen_fds
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.app import App
from supervisor.master.children import Children
from supervisor.master.estate import Estate
from supervisor.master.worker import Worker
from supervisor.observe.journal import Journal


def instance_key(source: Source | None, settings: Settings) -> str:
    """The same for the same command in the same directory, so that a successor finds the same control path again."""
    parts = [os.getcwd(), source.path or "" if source else ""]
    for app in settings.apps:
        parts += [app.name, app.app, *(() if source else app.bind)]
    if source is not None:  # what stands in the file may change from one start to the next
        parts += source.flags.get("bind", ())
    return "\0".join(parts)


def passed_descriptors(settings: Iterable[AppSettings]) -> tuple[int, ...]:
    """What holdfast was started with and these settings may name again: they are to cross an `execv`, too."""
    addresses = [parse_address(each) for app in settings for each in app.bind]
    numbers = {address.number for address in addresses if isinstance(address, Fd)}
    return tuple(sorted(numbers | {fd for fd, _name in listen_fds()}))


def state_of(app: App) -> record.App:
    """All that a master which goes on with this app has to know."""
    return record.App(
        settings=app.settings,
        generation=app.generation,
        count=app.count,
        board=app.board.fd,
        relay=app.relay.state(),
        fleet=app.engine.fleet,
        roll=app.engine.roll,
        rollout=app.rollout.state(),
        book=app.rollout.book.state(),
        accounts=app.accounts.state(),
        budget=app.watch.restraint.budget,
        scaled_by_hand=app.watch.scaler.held_for,
        state=app.told_state,
        held=tuple(sorted(app.held)),
        is_stopping=app.is_stopping,
        was_up=app.was_up,
        starts_again=app.starts_again,
        listeners=app.listeners.state(),
        access=app.access.state(),
        releases=app.releases.state(),
        workers=tuple(worker.state() for worker in app.workers.values()),
        estate=app.estate.state() if app.estate is not None else None,
    )


class Successor:
    """Makes a new `App` go on with one of a record. `take` first for all apps, then `go_on` for each."""

    def __init__(
        self, reactor: Reactor, children: Children, journal: Journal, *, control: str = "", grace: float = 0.0
    ) -> None:
        self._reactor = reactor
        self._children = children
        self._journal = journal
        self._control = control
        self._grace = grace

    def take(self, app: App, kept: record.App) -> None:
        """Take over what it has and knows; nothing is asked of anybody."""
        waiting = _waiting(kept)
        app.generation, app.count, app.held = kept.generation, kept.count, set(kept.held)
        app.is_stopping, app.was_up, app.starts_again = kept.is_stopping, kept.was_up, kept.starts_again
        app.told_state = kept.state
        app.board.resume(kept.board, [each.row for each in kept.workers if each.number not in waiting])
        app.relay.resume(kept.relay)
        if kept.estate is not None:
            app.estate = Estate.resumed(self._control, self._grace, kept.estate)
        app.access.resume(kept.access)
        app.accounts.resume(kept.accounts)
        app.watch.restraint.budget = kept.budget
        app.watch.scaler.held_for = kept.scaled_by_hand
        for listener in kept.listeners:
            app.listeners.resume(listener)
        for worker in kept.workers:
            app.workers[worker.number] = self._worker(app, worker, is_forked=worker.number not in waiting)
        app.engine.fleet, app.engine.roll = kept.fleet, kept.roll
        app.rollout.resume(kept.rollout)
        app.rollout.book.resume(kept.book, app.workers)
        for release in kept.releases:
            app.releases.resume(release)

    def go_on(self, app: App, kept: record.App) -> None:
        """Watch who runs, look for who may, ask again for who waits; then let the machines go on."""
        waiting = _waiting(kept)
        expected = {number for each in kept.releases if each.spawner is not None for number in each.spawner.pending}
        for each in kept.workers:
            worker = app.workers[each.number]
            if each.pid:
                worker.find(self._children, each.pid)
            elif each.number in waiting:
                app.releases[each.generation].fork(worker)
            elif each.number not in expected:
                self._children.fork_begins()
                worker.fork_lost(self._children, "its fork was not answered")
        app.watch.stalls.begin()
        app.engine.post()

    def _worker(self, app: App, kept: record.Worker, *, is_forked: bool) -> Worker:
        who = kept.generation, kept.slot, kept.number
        worker = Worker(app, self._reactor, self._journal, app.board, app.name, *who)
        worker.began, worker.limits = kept.began, kept.limits
        if is_forked:
            worker.resume(kept)
        return worker


def _waiting(kept: record.App) -> set[int]:
    """The workers that no spawner was asked for yet."""
    return {number for release in kept.releases for number in release.waiting}
