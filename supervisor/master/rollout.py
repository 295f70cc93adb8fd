"""An app's rolls, carried out: begun, watched, written into the book; and what is kept of the release before.

Invariant: the committed settings change with `Committed` and nothing else. The release that was served until then is
kept at hand only if going back to it would bring back just that: its spawner holds the app itself, and every socket it
listens on is still open. Else it can be imported again if it has a directory or an interpreter of its own.
"""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from supervisor.config.settings import AppSettings
from supervisor.fleet import records as seats
from supervisor.kernel.reactor import Reactor
from supervisor.master import record
from supervisor.master.book import Book
from supervisor.master.generations import Releases
from supervisor.master.hooks import HookName, Hooks, Job, Then, facts
from supervisor.master.releases import Release, wanted_workers
from supervisor.master.trial import Trial, TrialOwner
from supervisor.messages.status import Begun
from supervisor.reload import records as rolls

NONE_BEFORE = "there was no release before this one"


class RolloutOwner(TrialOwner, Protocol):
    """The app that is rolled."""

    name: str
    generation: int
    settings: AppSettings
    count: int
    held: set[int]
    is_stopping: bool
    hooks: Hooks
    releases: Releases

    def open(self, settings: AppSettings) -> None: ...
    def slots(self) -> tuple[int, ...]: ...
    def surplus(self) -> seats.Remove: ...


class Rollout:
    """`do` carries out what the roll decides."""

    def __init__(self, owner: RolloutOwner, reactor: Reactor) -> None:
        self._owner = owner
        self._why_no_previous = NONE_BEFORE
        self.book = Book(owner.accounts)
        self.trial = Trial(owner, reactor)
        self.next_count = 0  # of slots: what a roll under way is going to make of it
        self.previous: int | None = None  # the generation at hand that a rollback returns to
        self._recorded: record.Remembered | None = None  # else what it imports again, which has a place of its own
        self._returning: int | None = None  # a generation that has served before, under another number

    def begin(self, generation: int, settings: AppSettings, bake: float) -> Begun:
        """Roll to this release, for whose settings `open` has been called."""
        owner = self._owner
        is_same = settings.workers == owner.settings.workers
        self.next_count = owner.count if is_same else wanted_workers(settings, owner.count)
        slots = tuple(number for number in range(1, self.next_count + 1) if number not in owner.held)
        owner.engine.post(
            seats.Terms(settings.boot_timeout, settings.drain_timeout),
            rolls.Reload(generation, slots, settings.surge, bake),
        )
        return Begun(generation, self.book.number)

    def refusal(self) -> str | None:
        """Why there is no going back to the release before the committed one, or None."""
        roll, name = self._owner.engine.roll, self._owner.name
        if roll.is_under_way:
            return f"{name} is rolling to generation {roll.target}; wait for its verdict"
        return None if self.can_go_back else f"{name}: {self._why_no_previous}"

    @property
    def can_go_back(self) -> bool:
        """There is a release to return to."""
        return self.previous is not None or self._recorded is not None

    def back(self) -> Begun:
        """Roll to the release before the committed one, unless there is a `refusal`. Raises `SurroundingsError`.

        It is not baked: it has served before. But one that has to be imported again is a release like any other.
        """
        owner = self._owner
        if self.previous is not None:
            settings = owner.releases[self.previous].settings
            owner.open(settings)
            return self.begin(self.previous, settings, 0.0)
        assert self._recorded is not None
        settings, place = self._recorded.settings, self._recorded.place
        owner.open(settings)
        owner.generation += 1
        self._returning = owner.generation
        owner.releases.add(owner.generation, settings, place)
        return self.begin(owner.generation, settings, settings.bake)

    def state(self) -> record.Rollout:
        """All that a master which goes on with it has to know."""
        return record.Rollout(
            next_count=self.next_count,
            previous=self.previous,
            why_no_previous=self._why_no_previous,
            remembered=self._recorded,
            returning=self._returning,
        )

    def resume(self, kept: record.Rollout) -> None:
        """Go on with an earlier master's."""
        self.next_count, self.previous, self._returning = kept.next_count, kept.previous, kept.returning
        self._why_no_previous, self._recorded = kept.why_no_previous, kept.remembered

    def do(self, command: rolls.Command) -> None:
        """Carry out one command, or tell it."""
        engine, workers = self._owner.engine, list(self._owner.workers.values())
        if isinstance(command, rolls.Preload):
            self._prepare(self._owner.releases[command.generation])
        elif isinstance(command, rolls.Try):
            engine.post(seats.Try(command.slot, command.generation))
        elif isinstance(command, rolls.Move):
            self._move(command)
        elif isinstance(command, rolls.Started):
            self.book.begin(command, workers)
        elif isinstance(command, rolls.Bake):
            self.trial.begin(command, engine.roll.base, self._owner.releases[command.generation].settings)
        elif isinstance(command, rolls.Committed | rolls.RolledBack | rolls.Superseded):
            self.trial.end()
            self.book.end(command, workers)
            self._end(command)
        self._owner.news.rolled(command, self.book.last(workers))
        if isinstance(command, rolls.Committed):
            self._run("after_commit", command.target, command.target)
        elif isinstance(command, rolls.RolledBack | rolls.Superseded) and not self._owner.is_stopping:
            self._run("after_rollback", command.base, command.target)

    def _prepare(self, release: Release) -> None:
        """Have it imported; one that never was has its `before_roll` first."""
        if release.spawner is None and not release.is_retired and release.generation != self._returning:
            self._run("before_roll", release.generation, release.generation, lambda *end: self._prepared(release, *end))
        else:
            self._prepared(release, "", [])

    def _prepared(self, release: Release, failure: str, lines: list[str]) -> None:
        if failure:
            self._owner.news.failure_output = lines
            self._owner.engine.post(rolls.PreloadFailed(release.generation, f"before_roll failed: {failure}"))
        elif release.start():
            self._owner.engine.post(rolls.Preloaded(release.generation))

    def _run(self, name: HookName, generation: int, target: int, then: Then = lambda *_: None) -> None:
        """Run this generation's hook, if it has one, about the roll to `target`; `then` hears of its end."""
        owner, roll = self._owner, self.book.last(list(self._owner.workers.values()))
        release = owner.releases[generation]
        if getattr(release.settings, name) is None or roll is None:
            then("", [])
            return
        told = facts(name, owner.name, roll, owner.releases[target].place.home)
        job = Job(name, release.settings, release.place, generation, told, then)
        if name == "before_roll":
            job = replace(job, is_wanted=lambda: not release.is_retired)
        owner.hooks.run(job)

    def spawner_lost(self, generation: int, reason: str) -> None:
        """A spawner has died; the kept release is nothing without its own."""
        if generation == self.previous:
            self.forget_previous(f"generation {generation} is not at hand any more: {reason}")

    def forget_previous(self, why: str = NONE_BEFORE) -> None:
        """There is nothing to roll back to, and `why` says why."""
        self.previous, self._why_no_previous = None, why
        if why == NONE_BEFORE:
            self._recorded = None

    def _move(self, command: rolls.Move) -> None:
        engine = self._owner.engine
        if command.slot > self._owner.count and command.generation == engine.roll.base:
            # A slot that only the failed release would have had: there is nothing to go back to.
            engine.post(seats.Remove(frozenset({command.slot})), rolls.SlotsChanged(self._owner.slots()))
        else:
            engine.post(seats.Want({command.slot: command.generation}))

    def _end(self, command: rolls.Committed | rolls.RolledBack | rolls.Superseded) -> None:
        owner = self._owner
        if isinstance(command, rolls.Committed):
            owner.settings = owner.releases[command.target].settings
            owner.count = self.next_count
            self._keep(owner.releases[command.base], owner.releases[command.target])
            owner.engine.post(owner.surplus())
        elif isinstance(command, rolls.RolledBack):
            self.next_count = owner.count
            terms = seats.Terms(owner.settings.boot_timeout, owner.settings.drain_timeout)
            owner.engine.post(owner.surplus(), terms)

    def _keep(self, release: Release, successor: Release) -> None:
        """It was served until now: keep it at hand, if that can be, or in mind, if its files are still its own."""
        settings = successor.settings
        remembered = record.Remembered(settings=release.settings, place=release.place)
        self._recorded = remembered if release.place != successor.place else None
        closed = sorted(set(release.settings.bind) - set(settings.bind))
        if not settings.keep_previous:
            self.forget_previous("no release is kept at hand (keep_previous = false)")
        elif not release.is_whole:
            why = "it was not preloaded, or its spawner has died since"
            self.forget_previous(f"nothing is left of generation {release.generation}: {why}")
        elif closed:
            self.forget_previous(f"generation {release.generation} listened on {', '.join(closed)}, too")
        else:
            self.previous = release.generation
