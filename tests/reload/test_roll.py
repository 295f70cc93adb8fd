"""Every cell of the roll's table, and whole rolls from request to verdict."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.reload.records import (
    EVENTS,
    Abort,
    Bake,
    Baked,
    Command,
    Committed,
    Event,
    Failed,
    Joined,
    Move,
    Phase,
    Preload,
    Preloaded,
    PreloadFailed,
    Reload,
    Roll,
    RolledBack,
    Settled,
    SlotsChanged,
    SpawnerLost,
    Started,
    Stepped,
    Superseded,
    Try,
)
from supervisor.reload.roll import TABLE, settle_time, step

IDLE = Roll(1, 1)
PRELOADING = Roll(1, 2, Phase.PRELOADING, 1, 2.0, (1, 2, 3), began=10.0)
CANARY = Roll(1, 2, Phase.CANARY, 1, 2.0, (2, 3), frozenset({1}), began=10.0)
ROLLING = Roll(1, 2, Phase.ROLLING, 1, 2.0, (3,), frozenset({2}), frozenset({1}), began=10.0)
SETTLING = Roll(1, 2, Phase.SETTLING, 1, 2.0, (), frozenset(), frozenset({1, 2}), began=10.0)
ROLLING_BACK = Roll(1, 2, Phase.ROLLING_BACK, 1, 2.0, (), frozenset({1, 2}), reason="it broke", began=10.0)

NOW = 15.0


def rolled(roll: Roll, *events: Event) -> tuple[Roll, list[Command]]:
    """The end of a row of events, and all commands on the way."""
    commands: list[Command] = []
    for event in events:
        roll, told = step(roll, event, NOW)
        commands += told
    return roll, commands


def test_the_table_has_a_cell_for_every_phase_and_event() -> None:
    assert set(TABLE) == set(itertools.product(Phase, EVENTS))


# One row for each cell: the phase before, the event, the phase after, the commands.
CELLS: list[tuple[Roll, Event, Phase, list[Command]]] = [
    (IDLE, Reload(2, (1, 2), 1), Phase.PRELOADING, [Started(1, 2), Preload(2)]),
    (IDLE, Preloaded(1), Phase.IDLE, []),
    (IDLE, PreloadFailed(1, "no"), Phase.IDLE, []),
    (IDLE, Joined(1, 1), Phase.IDLE, []),
    (IDLE, Baked(1, 1), Phase.IDLE, []),
    (IDLE, Settled(1, 1), Phase.IDLE, []),
    (IDLE, Failed(1, 1, "no"), Phase.IDLE, []),
    (IDLE, SpawnerLost(1, "no"), Phase.IDLE, []),
    (IDLE, SlotsChanged((1, 2)), Phase.IDLE, []),
    (IDLE, Abort("stop"), Phase.IDLE, []),
    (PRELOADING, Reload(3, (1,), 1), Phase.PRELOADING, [Superseded(1, 2, 3, 5.0), Started(1, 3), Preload(3)]),
    (PRELOADING, Preloaded(2), Phase.CANARY, [Try(1, 2)]),
    (PRELOADING, PreloadFailed(2, "no"), Phase.IDLE, [RolledBack(1, 2, 5.0, "no")]),
    (PRELOADING, Joined(1, 2), Phase.PRELOADING, []),
    (PRELOADING, Baked(2, 1), Phase.PRELOADING, []),
    (PRELOADING, Settled(1, 1), Phase.PRELOADING, []),
    (PRELOADING, Failed(1, 1, "no"), Phase.PRELOADING, []),
    (PRELOADING, SpawnerLost(2, "no"), Phase.IDLE, [RolledBack(1, 2, 5.0, "no")]),
    (PRELOADING, SlotsChanged((1,)), Phase.PRELOADING, []),
    (PRELOADING, Abort("stop"), Phase.IDLE, [RolledBack(1, 2, 5.0, "stop")]),
    (
        CANARY,
        Reload(3, (1, 2, 3), 1),
        Phase.PRELOADING,
        [Move(1, 1), Superseded(1, 2, 3, 5.0), Started(1, 3), Preload(3)],
    ),
    (CANARY, Preloaded(2), Phase.CANARY, []),
    (CANARY, PreloadFailed(2, "no"), Phase.ROLLING_BACK, [Move(1, 1)]),
    (CANARY, Joined(1, 2), Phase.CANARY, [Bake(2, 1, 2.0)]),
    (CANARY, Baked(2, 1), Phase.ROLLING, [Move(1, 2)]),
    (CANARY, Settled(1, 1), Phase.CANARY, []),
    (CANARY, Failed(1, 2, "no"), Phase.ROLLING_BACK, [Move(1, 1)]),
    (CANARY, SpawnerLost(2, "no"), Phase.ROLLING_BACK, [Move(1, 1)]),
    (CANARY, SlotsChanged((2, 3)), Phase.CANARY, [Try(2, 2)]),
    (CANARY, Abort("stop"), Phase.IDLE, [RolledBack(1, 2, 5.0, "stop")]),
    (
        ROLLING,
        Reload(3, (1, 2, 3), 1),
        Phase.PRELOADING,
        [Move(2, 1), Superseded(1, 2, 3, 5.0), Started(1, 3), Preload(3)],
    ),
    (ROLLING, Preloaded(2), Phase.ROLLING, []),
    (ROLLING, PreloadFailed(2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (ROLLING, Joined(2, 2), Phase.ROLLING, []),
    (ROLLING, Baked(2, 2), Phase.ROLLING, []),
    (ROLLING, Settled(2, 2), Phase.ROLLING, [Stepped(2, 2, 3), Move(3, 2)]),
    (ROLLING, Failed(1, 2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (ROLLING, SpawnerLost(2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (ROLLING, SlotsChanged((1, 2)), Phase.ROLLING, []),
    (ROLLING, Abort("stop"), Phase.IDLE, [RolledBack(1, 2, 5.0, "stop")]),
    (
        SETTLING,
        Reload(3, (1, 2), 1),
        Phase.PRELOADING,
        [Superseded(1, 2, 3, 5.0), Started(1, 3), Preload(3)],
    ),
    (SETTLING, Preloaded(2), Phase.SETTLING, []),
    (SETTLING, PreloadFailed(2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (SETTLING, Joined(1, 2), Phase.SETTLING, []),
    (SETTLING, Baked(2, None), Phase.IDLE, [Committed(1, 2, 5.0)]),
    (SETTLING, Settled(1, 2), Phase.SETTLING, []),
    (SETTLING, Failed(1, 2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (SETTLING, SpawnerLost(2, "no"), Phase.ROLLING_BACK, [Move(1, 1), Move(2, 1)]),
    (SETTLING, SlotsChanged((1, 2, 3)), Phase.ROLLING, [Move(3, 2)]),
    (SETTLING, Abort("stop"), Phase.IDLE, [RolledBack(1, 2, 5.0, "stop")]),
    (ROLLING_BACK, Reload(3, (1, 2), 1), Phase.PRELOADING, [Superseded(1, 2, 3, 5.0), Started(1, 3), Preload(3)]),
    (ROLLING_BACK, Preloaded(2), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, PreloadFailed(2, "no"), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, Joined(1, 2), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, Baked(2, 1), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, Settled(1, 1), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, Failed(1, 1, "base died"), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, SpawnerLost(2, "no"), Phase.ROLLING_BACK, []),
    (ROLLING_BACK, SlotsChanged((3,)), Phase.IDLE, [RolledBack(1, 2, 5.0, "it broke")]),
    (ROLLING_BACK, Abort("stop"), Phase.IDLE, [RolledBack(1, 2, 5.0, "it broke")]),
]


def test_the_cells_below_are_all_there_are() -> None:
    assert {(before.phase, type(event)) for before, event, _after, _commands in CELLS} == set(TABLE)


@pytest.mark.parametrize(
    ("before", "event", "after", "commands"),
    CELLS,
    ids=[f"{before.phase.name}-{type(event).__name__}" for before, event, _after, _commands in CELLS],
)
def test_each_cell_does_what_its_row_says(before: Roll, event: Event, after: Phase, commands: list[Command]) -> None:
    roll, told = step(before, event, NOW)
    assert (roll.phase, told) == (after, commands)


@pytest.mark.parametrize(
    "news",
    [
        Preloaded(9),
        PreloadFailed(9, "no"),
        Joined(2, 9),
        Baked(9, None),
        Baked(9, 1),
        Settled(2, 9),
        Failed(2, 9, "no"),
        SpawnerLost(9, "no"),
    ],
    ids=lambda news: type(news).__name__,
)
@pytest.mark.parametrize(
    "before", [IDLE, PRELOADING, CANARY, ROLLING, SETTLING, ROLLING_BACK], ids=lambda roll: roll.phase.name
)
def test_news_of_another_generation_changes_nothing(before: Roll, news: Event) -> None:
    assert step(before, news, NOW) == (before, [])


TRIED: list[Event] = [Preloaded(2), Joined(1, 2), Baked(2, 1)]


def test_a_whole_roll_tries_one_worker_moves_slot_after_slot_settles_and_commits() -> None:
    roll, commands = rolled(IDLE, Reload(2, (1, 2), 1, 3.0), *TRIED, Settled(1, 2), Settled(2, 2), Baked(2, None))
    assert commands == [
        Started(1, 2),
        Preload(2),
        Try(1, 2),
        Bake(2, 1, 3.0),
        Move(1, 2),
        Stepped(1, 1, 2),
        Move(2, 2),
        Stepped(2, 2, 2),
        Bake(2, None, 1.0),
        Committed(1, 2, 0.0),
    ]
    assert roll == Roll(2, 2)


def test_the_first_slot_moves_alone_whatever_the_surge() -> None:
    roll, commands = rolled(IDLE, Reload(2, (1, 2, 3, 4), 3), *TRIED)
    assert commands[-1] == Move(1, 2)
    _roll, commands = step(roll, Settled(1, 2), NOW)
    assert commands == [Stepped(1, 1, 4), Move(2, 2), Move(3, 2), Move(4, 2)]


def test_a_failure_sends_moved_and_moving_slots_back_and_leaves_the_waiting_alone() -> None:
    roll, commands = step(ROLLING, Failed(2, 2, "killed by SIGSEGV"), NOW)
    assert commands == [Move(1, 1), Move(2, 1)]
    roll, commands = rolled(roll, Settled(2, 1), Settled(1, 1))
    assert (roll, commands) == (Roll(1, 1), [RolledBack(1, 2, 5.0, "killed by SIGSEGV")])


def test_going_back_does_not_wait_for_a_base_worker_that_dies() -> None:
    roll, commands = rolled(ROLLING_BACK, Failed(1, 1, "unlucky"), Settled(2, 1))
    assert (roll, commands) == (Roll(1, 1), [RolledBack(1, 2, 5.0, "it broke")])


def test_slots_left_on_a_superseded_release_go_back_when_the_newest_fails_too() -> None:
    roll, _commands = step(ROLLING, Reload(3, (1, 2, 3), 1), NOW)
    assert roll.strays == frozenset({1})
    roll, commands = step(roll, PreloadFailed(3, "broken too"), NOW)
    assert commands == [Move(1, 1)]
    _roll, commands = step(roll, Settled(1, 1), NOW)
    assert commands == [RolledBack(1, 3, 0.0, "broken too")]


def test_a_slot_added_during_a_roll_is_moved_and_a_removed_one_is_not_waited_for() -> None:
    roll, commands = step(ROLLING, SlotsChanged((1, 3, 4)), NOW)
    assert commands == [Move(3, 2)]
    _roll, commands = rolled(roll, Settled(3, 2), Settled(4, 2), Baked(2, None))
    assert commands[-1] == Committed(1, 2, 5.0)


def test_a_roll_without_slots_commits_as_soon_as_the_release_is_preloaded() -> None:
    _roll, commands = rolled(IDLE, Reload(2, (), 1), Preloaded(2))
    assert commands[-1] == Committed(1, 2, 0.0)


def test_a_canary_whose_slot_goes_away_is_followed_by_one_in_another_slot() -> None:
    roll, commands = rolled(CANARY, SlotsChanged((2, 3)), Baked(2, 1), Joined(2, 2))
    assert commands == [Try(2, 2), Bake(2, 2, 2.0)], "what was seen of the first canary does not speak for the second"
    assert roll.phase is Phase.CANARY


def test_the_bake_of_the_whole_begins_anew_when_a_slot_is_added_meanwhile() -> None:
    roll, commands = rolled(SETTLING, SlotsChanged((1, 2, 3)), Baked(2, None), Settled(3, 2))
    assert commands == [Move(3, 2), Stepped(3, 3, 3), Bake(2, None, 1.0)]
    assert rolled(roll, Baked(2, None))[1] == [Committed(1, 2, 5.0)]


def test_slots_taken_away_while_the_whole_settles_are_not_waited_for() -> None:
    assert rolled(SETTLING, SlotsChanged((1,)))[1] == []
    assert rolled(SETTLING, SlotsChanged(()))[1] == [Committed(1, 2, 5.0)]


def test_a_stray_slot_on_trial_goes_back_to_the_base_when_its_roll_is_superseded() -> None:
    stray = Roll(1, 3, Phase.CANARY, 1, 2.0, (2,), frozenset({1}), strays=frozenset({1, 2}), began=10.0)
    roll, commands = rolled(stray, Reload(4, (1, 2), 1), PreloadFailed(4, "no"))
    assert commands[0] == Move(1, 1)
    assert commands[-1] == Move(2, 1), "the other stray still has to"
    assert roll.moving == {2}


def test_a_canary_that_dies_while_its_slot_has_lost_its_own_worker_leaves_the_slot_to_the_base() -> None:
    roll, commands = rolled(CANARY, Failed(1, 1, "the base died"), Failed(1, 2, "so did the canary"))
    assert (roll.phase, commands) == (Phase.ROLLING_BACK, [Move(1, 1)])
    assert rolled(roll, Settled(1, 1))[1] == [RolledBack(1, 2, 5.0, "so did the canary")]


@given(st.floats(0, 1e6))
def test_the_whole_settles_for_half_the_bake_but_never_long(bake: float) -> None:
    assert settle_time(bake) == min(bake / 2, 1.0)


def events(generations: Iterable[int], slots: Iterable[int]) -> st.SearchStrategy[Event]:
    generation, slot = st.sampled_from(list(generations)), st.sampled_from(list(slots))
    some_slots = st.sets(slot).map(lambda found: tuple(sorted(found)))
    return st.one_of(
        st.builds(Reload, generation, some_slots, st.integers(1, 3), st.sampled_from([0.0, 2.0])),
        st.builds(Preloaded, generation),
        st.builds(PreloadFailed, generation, st.just("no")),
        st.builds(Joined, slot, generation),
        st.builds(Baked, generation, st.none() | slot),
        st.builds(Settled, slot, generation),
        st.builds(Failed, slot, generation, st.just("no")),
        st.builds(SpawnerLost, generation, st.just("no")),
        st.builds(SlotsChanged, some_slots),
        st.builds(Abort, st.just("stop")),
    )


@given(st.lists(events(range(1, 5), range(1, 5)), max_size=40))
def test_every_roll_that_starts_ends_in_one_verdict_before_the_next_starts(story: list[Event]) -> None:
    roll = Roll(0, 0)
    open_rolls = 0
    for event in story:
        roll, commands = step(roll, event, NOW)
        for command in commands:
            open_rolls += isinstance(command, Started)
            open_rolls -= isinstance(command, Committed | RolledBack | Superseded)
            assert open_rolls in (0, 1)
        assert open_rolls == roll.is_under_way
        assert not (set(roll.waiting) & roll.moving)
        assert not (roll.moving & roll.moved)


@given(st.lists(events(range(1, 5), range(1, 5)), max_size=40))
def test_no_more_slots_move_at_once_than_the_surge_allows(story: list[Event]) -> None:
    roll = Roll(0, 0)
    for event in story:
        roll, _commands = step(roll, event, NOW)
        if roll.phase is Phase.ROLLING:
            assert len(roll.moving) <= roll.surge
        if roll.phase is Phase.CANARY:
            assert len(roll.moving) == 1
            assert not roll.moved


@given(st.lists(events(range(1, 5), range(1, 5)), max_size=60))
def test_nothing_is_moved_to_a_release_that_was_not_baked_nor_committed_before_it_has_settled(
    story: list[Event],
) -> None:
    roll = Roll(0, 0)
    baked = settled = False
    for event in story:
        before = roll
        roll, commands = step(roll, event, NOW)
        if isinstance(event, Reload):
            baked = settled = False
        if before.phase is Phase.CANARY and roll.phase is Phase.ROLLING:
            assert isinstance(event, Baked)
            baked = True
        settled = settled or (before.phase is Phase.SETTLING and isinstance(event, Baked))
        for command in commands:
            if isinstance(command, Move) and command.generation == roll.target != roll.base:
                assert baked
            if isinstance(command, Committed):
                has_lost_all = isinstance(event, SlotsChanged) and not before.moved & set(event.slots)
                assert settled or not before.moved or has_lost_all
