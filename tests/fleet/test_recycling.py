"""Workers that have all used themselves up at the same moment: taken one at a time, and not in step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.backoff import REST, REST_JITTER
from supervisor.fleet.fleet import step
from supervisor.fleet.records import BecameReady, Command, Drain, Event, Fleet, Gone, Recycle, Recycling, Spawn, Want

WORKERS = 8
BOOT, LEAVE = 0.3, 0.7  # seconds


class Scene:
    """A fleet whose workers are all worn: asked each second to replace every one of them, as the watch does."""

    def __init__(self, chances: Iterator[float]) -> None:
        self.fleet = Fleet(boot_timeout=60.0, drain_timeout=30.0)
        self.now = 0.0
        self.worn: dict[int, int] = {}  # by worker, its slot
        self.begun: list[float] = []
        self.due: list[tuple[float, Event]] = []
        self._chances = chances
        self.post(Want(dict.fromkeys(range(1, WORKERS + 1), 1)))
        for number in range(1, WORKERS + 1):
            self.post(BecameReady(number))
            self.worn[number] = number
        self.due.clear()

    def post(self, event: Event) -> None:
        self.fleet, commands = step(self.fleet, event, self.now)
        for command in commands:
            self.carry_out(command)
        self.check()

    def carry_out(self, command: Command) -> None:
        if isinstance(command, Recycling):
            self.begun.append(self.now)
        elif isinstance(command, Spawn):
            self.due.append((self.now + BOOT, BecameReady(command.worker)))
        elif isinstance(command, Drain):
            self.worn.pop(command.worker)
            self.due.append((self.now + LEAVE, Gone(command.worker, "", next(self._chances))))

    def check(self) -> None:
        slots = self.fleet.slots.values()
        in_motion = sum(slot.heir is not None or bool(slot.replace_why) for slot in slots) + len(self.fleet.leaving)
        assert in_motion <= 1
        assert not self.begun or all(slot.is_ready for slot in slots)

    def run(self, seconds: float) -> None:
        for tick in range(round(seconds * 10)):
            self.now = tick / 10
            for when, event in sorted(self.due, key=lambda each: each[0]):
                if when <= self.now:
                    self.due.remove((when, event))
                    self.post(event)
            if tick % 10 == 0:
                for slot in list(self.worn.values()):
                    self.post(Recycle(slot, "memory"))


def chances(seed: int) -> Iterator[float]:
    random = Random(seed)
    while True:
        yield random.random()


@given(st.integers(0, 10**6))
def test_of_eight_past_their_limit_at_once_never_two_are_in_motion(seed: int) -> None:
    scene = Scene(chances(seed))
    scene.run(60)
    assert scene.worn == {}
    assert len(scene.begun) == WORKERS
    assert all(later - earlier >= BOOT + LEAVE + REST * (1 - REST_JITTER) for earlier, later in pairwise(scene.begun))


def test_jitter_spreads_them() -> None:
    gaps = set()
    for seed in range(5):
        scene = Scene(chances(seed))
        scene.run(60)
        gaps |= {round(later - earlier, 3) for earlier, later in pairwise(scene.begun)}
    assert len(gaps) > 1


def test_an_operator_waits_for_no_rest() -> None:
    scene = Scene(chances(1))
    scene.post(Recycle(1, "memory"))
    assert len(scene.begun) == 1
    fleet, commands = step(scene.fleet, Recycle(2, "restarted by hand", insist=True), 0.0)
    assert any(isinstance(command, Recycling) for command in commands)
    assert sum(slot.replace_why != "" for slot in fleet.slots.values()) == 2
