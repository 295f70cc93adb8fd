"""What a fleet is made of: slots and their workers, the events that move them, the commands that come of it. Data only.

Invariant: everything here is frozen; `fleet.step` is the only one to make a new state of an old one.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

LEAVE_GRACE = 3.0  # past its own drain timeout a worker gets this long to notice before it is killed


class Worker(Struct, frozen=True):
    """One process. Times are monotonic seconds; `id` is never used twice."""

    id: int
    slot: int
    generation: int
    deadline: float  # starting: to be ready by then; leaving: to be gone by then
    ready_at: float | None = None
    doomed: bool = False  # a kill has been ordered; only its end is awaited

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None and not self.doomed


class Slot(Struct, frozen=True):
    """One seat at the listening socket."""

    number: int
    want: int | None = None
    holder: Worker | None = None
    heir: Worker | None = None
    failures: int = 0
    retry_at: float = 0.0
    replace_why: str = ""  # the holder is to be replaced although its generation is the wanted one
    trial: int | None = None  # the heir is of this generation, and serves beside the holder until more is decided
    removed: bool = False  # wanted by nobody any more, not even as a stopped one

    @property
    def is_settled(self) -> bool:
        """Served by a ready worker of the wanted generation, with nobody on the way in."""
        holder = self.holder
        if holder is None or self.heir is not None or self.replace_why or self.trial is not None:
            return False
        return holder.is_ready and holder.generation == self.want

    @property
    def is_ready(self) -> bool:
        return self.holder is not None and self.holder.is_ready

    @property
    def lacks_worker(self) -> bool:
        """A worker of the wanted generation has to be spawned, now or once `retry_at` has come."""
        if self.want is None:
            return False
        if self.trial is not None:
            return self.holder is None
        if self.heir is not None:
            return False
        return self.holder is None or self.holder.generation != self.want or bool(self.replace_why)


class Fleet(Struct, frozen=True):
    """The whole state. `slots` by number; `leaving` by worker id."""

    boot_timeout: float
    drain_timeout: float
    slots: Mapping[int, Slot] = {}
    leaving: Mapping[int, Worker] = {}
    rests_until: float = 0.0  # nobody is recycled before
    next_id: int = 1


# Events


class Want(Struct, frozen=True):
    """Each of these slots shall be served by that generation, or (None) by nobody. Unknown numbers are added."""

    slots: Mapping[int, int | None]


class Try(Struct, frozen=True):
    """Have a worker of this generation serve beside the slot's holder until the next `Want`: it is on trial.

    `Want` of its generation makes it the holder; of any other ends the trial, as does its own end, once and for all.
    """

    slot: int
    generation: int


class Remove(Struct, frozen=True):
    """These slots shall not exist any more; their workers are drained."""

    slots: frozenset[int]


class Terms(Struct, frozen=True):
    """New timeouts, in seconds, for all that starts or leaves from now on."""

    boot_timeout: float
    drain_timeout: float


class BecameReady(Struct, frozen=True):
    """The worker takes connections."""

    worker: int


class Gone(Struct, frozen=True):
    """The worker's process has ended (or never came to be). `chance` in [0, 1) jitters the next attempt."""

    worker: int
    reason: str
    chance: float


class Recycle(Struct, frozen=True):
    """Replace the slot's holder, new one first. Unless `insist`, only while nobody comes or goes, nor has just gone."""

    slot: int
    why: str
    insist: bool = False


class Tick(Struct, frozen=True):
    """Time has passed."""


Event = Want | Try | Remove | Terms | BecameReady | Gone | Recycle | Tick

# Commands


class Spawn(Struct, frozen=True):
    """Fork this worker from the generation's spawner."""

    worker: int
    slot: int
    generation: int


class Drain(Struct, frozen=True):
    """Have the worker finish what it has and leave."""

    worker: int
    why: str


class Kill(Struct, frozen=True):
    """End the worker now; `is_fault`: because it did not do what it should have, and not because nobody wants it."""

    worker: int
    why: str
    is_fault: bool = False


class Recycling(Struct, frozen=True):
    """Tell: this worker is being replaced although its generation is the wanted one."""

    worker: int
    slot: int
    why: str


class Settled(Struct, frozen=True):
    """Tell: the slot is where it was wanted."""

    slot: int
    generation: int


class Joined(Struct, frozen=True):
    """Tell: the worker on trial is ready and serves beside the slot's holder."""

    slot: int
    generation: int


class Died(Struct, frozen=True):
    """Tell: a worker that was to serve is gone; the slot tries again in `retry_in` seconds, or (None) does not."""

    worker: int
    slot: int
    generation: int
    reason: str
    was_ready: bool
    failures: int
    retry_in: float | None


Command = Spawn | Drain | Kill | Recycling | Settled | Joined | Died
Outcome = tuple[Fleet, list[Command]]
