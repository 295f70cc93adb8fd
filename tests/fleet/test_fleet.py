"""The fleet of slots: who is spawned, drained and killed, event by event, and what holds in every story."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisor.fleet.backoff import STABLE_AFTER
from supervisor.fleet.fleet import generations, next_wake, standing, step
from supervisor.fleet.records import (
    LEAVE_GRACE,
    BecameReady,
    Command,
    Died,
    Drain,
    Event,
    Fleet,
    Gone,
    Joined,
    Kill,
    Recycle,
    Recycling,
    Remove,
    Settled,
    Spawn,
    Terms,
    Tick,
    Try,
    Want,
)


def told(fleet: Fleet, *events: Event, now: float = 0.0) -> tuple[Fleet, list[Command]]:
    """The end of a row of events, and the commands of the last one."""
    commands: list[Command] = []
    for event in events:
        fleet, commands = step(fleet, event, now)
    return fleet, commands


EMPTY = Fleet(boot_timeout=60.0, drain_timeout=30.0)
STARTING, _ = told(EMPTY, Want({1: 1, 2: 1}))
SERVING, _ = told(STARTING, BecameReady(1), BecameReady(2))


def test_a_wanted_slot_is_filled() -> None:
    _fleet, commands = told(EMPTY, Want({1: 1, 2: 1}))
    assert commands == [Spawn(1, 1, 1), Spawn(2, 2, 1)]


def test_a_slot_is_settled_when_its_worker_is_ready() -> None:
    _fleet, commands = told(STARTING, BecameReady(1))
    assert commands == [Settled(1, 1)]


def test_whoever_wants_what_already_is_hears_so() -> None:
    _fleet, commands = told(SERVING, Want({1: 1}))
    assert commands == [Settled(1, 1)]


def test_a_new_generation_is_ready_before_the_old_one_drains() -> None:
    fleet, commands = told(SERVING, Want({1: 2}))
    assert commands == [Spawn(3, 1, 2)]
    fleet, commands = told(fleet, BecameReady(3))
    assert commands == [Drain(1, "replaced by generation 2"), Settled(1, 2)]
    fleet, commands = told(fleet, Gone(1, "", 0.5))
    assert (commands, dict(fleet.leaving)) == ([], {})


def test_moving_back_before_the_new_one_is_ready_only_kills_the_new_one() -> None:
    fleet, _commands = told(SERVING, Want({1: 2}))
    fleet, commands = told(fleet, Want({1: 1}))
    assert commands == [Kill(3, "no longer wanted"), Settled(1, 1)]
    _fleet, commands = told(fleet, Gone(3, "killed", 0.5))
    assert commands == []


def test_a_first_worker_of_a_superseded_generation_is_not_waited_for() -> None:
    _fleet, commands = told(STARTING, Want({1: 2}))
    assert commands == [Kill(1, "no longer wanted"), Spawn(3, 1, 2)]


def test_a_crashed_worker_is_replaced_at_once() -> None:
    _fleet, commands = told(SERVING, Gone(1, "killed by SIGKILL", 0.5))
    assert commands == [Died(1, 1, 1, "killed by SIGKILL", True, 1, 0.0), Spawn(3, 1, 1)]


def test_the_second_death_in_a_row_waits_and_the_tick_tries_again() -> None:
    fleet, commands = told(SERVING, Gone(1, "x", 0.5), Gone(3, "x", 0.5), now=100.0)
    assert commands == [Died(3, 1, 1, "x", False, 2, 0.25)]
    assert next_wake(fleet) == 100.25
    assert told(fleet, Tick(), now=100.2)[1] == []
    assert told(fleet, Tick(), now=100.25)[1] == [Spawn(4, 1, 1)]


def test_a_worker_that_served_long_enough_clears_its_slots_record() -> None:
    fleet, _commands = told(SERVING, Gone(1, "x", 0.5))
    fleet, _commands = told(fleet, BecameReady(3), now=1.0)
    _fleet, commands = told(fleet, Gone(3, "x", 0.5), now=1.0 + STABLE_AFTER)
    assert isinstance(commands[0], Died)
    assert (commands[0].failures, commands[0].retry_in) == (1, 0.0)


def test_another_generation_starts_with_a_clean_record() -> None:
    fleet, _commands = told(SERVING, Gone(1, "x", 0.5), Gone(3, "x", 0.5))
    _fleet, commands = told(fleet, Want({1: 2}))
    assert commands == [Spawn(4, 1, 2)]


def test_the_heir_takes_the_place_of_a_holder_that_dies_while_it_boots() -> None:
    fleet, _commands = told(SERVING, Want({1: 2}))
    fleet, commands = told(fleet, Gone(1, "x", 0.5))
    assert commands == [Died(1, 1, 1, "x", True, 1, 0.0)]
    assert next_wake(fleet) == 60.0  # the heir's deadline, and no retry that nobody waits for
    _fleet, commands = told(fleet, BecameReady(3))
    assert commands == [Settled(1, 2)]


def test_a_worker_that_is_not_ready_in_time_is_killed_once() -> None:
    assert next_wake(STARTING) == 60.0
    fleet, commands = told(STARTING, Tick(), now=60.0)
    assert commands == [Kill(number, "not ready within 60 s", is_fault=True) for number in (1, 2)]
    fleet, commands = told(fleet, Tick(), now=61.0)
    assert (commands, next_wake(fleet)) == ([], None)


def test_a_ready_message_from_a_doomed_worker_does_not_save_it() -> None:
    fleet, _commands = told(STARTING, Tick(), now=60.0)
    fleet, commands = told(fleet, BecameReady(1), now=60.1)
    assert commands == []
    assert standing(fleet) == "starting"


def test_a_worker_still_there_after_its_drain_is_killed() -> None:
    fleet, _commands = told(SERVING, Want({1: None}), now=5.0)
    assert next_wake(fleet) == 5.0 + 30.0 + LEAVE_GRACE
    _fleet, commands = told(fleet, Tick(), now=5.0 + 30.0 + LEAVE_GRACE)
    assert commands == [Kill(1, "still there 3 s after its drain timeout", is_fault=True)]


def test_new_terms_hold_for_what_starts_from_now_on() -> None:
    fleet, _commands = told(SERVING, Terms(5.0, 1.0), Want({3: 1}), now=10.0)
    assert next_wake(fleet) == 15.0


def test_a_stopped_slot_stays_known_and_a_removed_one_is_forgotten() -> None:
    fleet, commands = told(SERVING, Want({1: None}), Remove(frozenset({2})))
    assert commands == [Drain(2, "stopped")]
    assert set(fleet.slots) == {1}
    assert set(fleet.leaving) == {1, 2}


def test_a_worker_stopped_before_it_was_ready_is_killed_and_not_called_a_crash() -> None:
    fleet, commands = told(STARTING, Want({1: None}))
    assert commands == [Kill(1, "stopped before it was ready")]
    assert told(fleet, Gone(1, "killed", 0.5))[1] == []


def test_recycling_replaces_new_first_and_says_why() -> None:
    fleet, commands = told(SERVING, Recycle(1, "memory"))
    assert commands == [Recycling(1, 1, "memory"), Spawn(3, 1, 1)]
    _fleet, commands = told(fleet, BecameReady(3))
    assert commands == [Drain(1, "memory"), Settled(1, 1)]


TRYING, _ = told(SERVING, Try(1, 2))
TRIED, _ = told(TRYING, BecameReady(3))


def test_a_worker_on_trial_serves_beside_the_slots_holder() -> None:
    fleet, commands = told(SERVING, Try(1, 2))
    assert commands == [Spawn(3, 1, 2)]
    fleet, commands = told(fleet, BecameReady(3))
    assert commands == [Joined(1, 2)]
    assert not fleet.leaving


def test_a_trial_that_ended_well_makes_the_worker_the_holder() -> None:
    _fleet, commands = told(TRIED, Want({1: 2}))
    assert commands == [Drain(1, "replaced by generation 2"), Settled(1, 2)]


def test_a_trial_that_ended_badly_drains_the_worker_and_touches_nobody_else() -> None:
    _fleet, commands = told(TRIED, Want({1: 1}))
    assert commands == [Drain(3, "its release is given up"), Settled(1, 1)]


def test_a_trial_that_ends_before_the_worker_is_ready_kills_it() -> None:
    assert told(TRYING, Want({1: 1}))[1] == [Kill(3, "no longer wanted"), Settled(1, 1)]


def test_a_worker_that_dies_on_trial_is_not_replaced_and_not_held_against_its_slot() -> None:
    fleet, commands = told(TRIED, Gone(3, "x", 0.5))
    assert commands == [Died(3, 1, 2, "x", True, 1, None), Settled(1, 1)]
    assert told(fleet, Gone(1, "y", 0.5))[1] == [Died(1, 1, 1, "y", True, 1, 0.0), Spawn(4, 1, 1)]


def test_a_holder_that_dies_during_a_trial_is_replaced_by_its_own_generation() -> None:
    fleet, commands = told(TRIED, Gone(1, "x", 0.5))
    assert commands == [Died(1, 1, 1, "x", True, 1, 0.0), Spawn(4, 1, 1)]
    assert told(fleet, BecameReady(4))[1] == [], "the trial goes on beside it"
    assert told(fleet, Want({1: 2}))[1] == [Kill(4, "no longer wanted"), Settled(1, 2)]


def test_a_worker_on_trial_does_not_wait_for_the_next_attempt_of_a_holder_that_keeps_dying() -> None:
    fleet, _commands = told(SERVING, Gone(1, "x", 0.5), Gone(3, "x", 0.5), now=100.0)
    fleet, commands = told(fleet, Try(1, 2), now=100.0)
    assert commands == [Spawn(4, 1, 2)]
    assert next_wake(fleet) == 100.25, "which is not forgotten"


def test_a_slot_that_nobody_wants_yet_may_be_tried() -> None:
    fleet, commands = told(SERVING, Try(3, 2))
    assert commands == [Spawn(3, 3, 2)]
    fleet, commands = told(fleet, BecameReady(3), Want({3: 2}))
    assert commands == [Settled(3, 2)]


def test_a_slot_that_is_stopped_during_a_trial_loses_both_its_workers() -> None:
    assert told(TRIED, Want({1: None}))[1] == [Drain(3, "stopped"), Drain(1, "stopped")]
    assert told(TRIED, Remove(frozenset({1})))[1] == [Drain(3, "stopped"), Drain(1, "stopped")]


def test_a_slot_on_trial_is_not_recycled() -> None:
    assert told(TRIED, Recycle(1, "memory", insist=True))[1] == []


def test_another_trial_takes_the_place_of_the_first() -> None:
    assert told(TRIED, Try(1, 3))[1] == [Drain(3, "its release is given up"), Spawn(4, 1, 3)]


def test_a_worker_on_trial_that_is_not_ready_in_time_is_killed() -> None:
    assert told(TRYING, Tick(), now=60.0)[1] == [Kill(3, "not ready within 60 s", is_fault=True)]


def test_two_slots_are_never_recycled_at_once() -> None:
    fleet, _commands = told(SERVING, Recycle(1, "memory"))
    assert told(fleet, Recycle(2, "memory"))[1] == []
    assert told(fleet, Recycle(1, "memory"))[1] == []


def test_an_operator_may_insist() -> None:
    fleet, _commands = told(SERVING, Recycle(1, "memory"))
    assert told(fleet, Recycle(2, "by hand", insist=True))[1] == [Recycling(2, 2, "by hand"), Spawn(4, 2, 1)]


def test_nobody_is_recycled_while_a_slot_is_empty() -> None:
    fleet, _commands = told(SERVING, Gone(1, "x", 0.5))
    assert told(fleet, Recycle(2, "memory"))[1] == []


def test_an_app_is_failed_when_all_slots_keep_dying_and_recovers_when_one_serves() -> None:
    fleet = STARTING
    for worker in (1, 2, 3, 4, 5, 6):
        fleet, _commands = told(fleet, Gone(worker, "x", 0.5), Tick(), now=worker * 100.0)
    assert standing(fleet) == "failed"
    fleet, _commands = told(fleet, BecameReady(7), now=700.0)
    assert standing(fleet) == "degraded"
    fleet, _commands = told(fleet, BecameReady(8), now=700.0)
    assert standing(fleet) == "running"


def test_an_app_is_stopped_when_nobody_is_wanted() -> None:
    assert standing(EMPTY) == "stopped"
    assert standing(told(SERVING, Want({1: None, 2: None}))[0]) == "stopped"


def test_the_generations_that_slots_want_are_known() -> None:
    assert generations(told(SERVING, Want({1: 2, 3: None}))[0]) == {1, 2}
    assert generations(TRYING) == {1, 2}


class Story(RuleBasedStateMachine):
    """Any order of events that a real fleet could report, with the processes that would exist."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = EMPTY
        self.now = 0.0
        self.alive: set[int] = set()
        self.ready: set[int] = set()
        self.drained: set[int] = set()

    def post(self, event: Event) -> None:
        self.fleet, commands = step(self.fleet, event, self.now)
        for command in commands:
            if isinstance(command, Spawn):
                assert command.worker not in self.alive
                self.alive.add(command.worker)
            elif isinstance(command, Drain | Kill):
                assert command.worker in self.alive
            if isinstance(command, Drain):
                self.drained.add(command.worker)

    @rule(slot=st.integers(1, 4), want=st.none() | st.integers(1, 3))
    def want(self, slot: int, want: int | None) -> None:
        self.post(Want({slot: want}))

    @rule(slot=st.integers(1, 4), generation=st.integers(1, 3))
    def try_(self, slot: int, generation: int) -> None:
        self.post(Try(slot, generation))

    @rule(slot=st.integers(1, 4))
    def remove(self, slot: int) -> None:
        self.post(Remove(frozenset({slot})))

    @rule(slot=st.integers(1, 4), insist=st.booleans())
    def recycle(self, slot: int, insist: bool) -> None:
        self.post(Recycle(slot, "why", insist))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.post(Tick())

    @rule(data=st.data())
    def somebody_gets_ready(self, data: Any) -> None:
        if candidates := sorted(self.alive - self.ready - self.drained):
            worker = data.draw(st.sampled_from(candidates))
            self.ready.add(worker)
            self.post(BecameReady(worker))

    @rule(data=st.data(), chance=st.floats(0, 1, exclude_max=True))
    def somebody_ends(self, data: Any, chance: float) -> None:
        if self.alive:
            worker = data.draw(st.sampled_from(sorted(self.alive)))
            self.alive.remove(worker)
            self.post(Gone(worker, "ended", chance))

    @invariant()
    def every_process_is_accounted_for_exactly_once(self) -> None:
        seated = [
            worker.id for slot in self.fleet.slots.values() for worker in (slot.holder, slot.heir) if worker is not None
        ]
        known = [*seated, *self.fleet.leaving]
        assert sorted(known) == sorted(self.alive)

    @invariant()
    def nobody_on_trial_holds_a_slot_of_another_generation(self) -> None:
        for slot in self.fleet.slots.values():
            if slot.trial is not None:
                assert slot.heir is not None
                assert slot.heir.generation == slot.trial
                assert slot.holder is None or slot.holder.ready_at is not None or slot.holder.generation == slot.want

    @invariant()
    def a_slot_that_waits_has_a_time_to_wake_up(self) -> None:
        waiting = [slot for slot in self.fleet.slots.values() if slot.want is not None and slot.holder is None]
        wake = next_wake(self.fleet)
        assert not waiting or (wake is not None and wake > self.now)

    @invariant()
    def nobody_waits_for_a_time_that_has_passed(self) -> None:
        wake = next_wake(self.fleet)
        if wake is not None and wake <= self.now:
            before = self.fleet
            after, _commands = step(before, Tick(), self.now)
            later = next_wake(after)
            assert later is None or later > self.now


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
