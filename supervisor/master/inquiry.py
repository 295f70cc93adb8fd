"""Asking a worker for its stacks: by whoever in it can still answer, and within two seconds in any case.

Invariant: one inquiry at a time for a worker; who asks meanwhile gets the same answer. Nothing waits: the record is
looked at every `LOOK_EVERY` seconds.

    LOOP       the message `Show`, for a loop that turns: all threads and tasks              within LOOP_TIME
    SIGNAL     the signal `SHOW`, for Python code that blocks, sleeps or waits: the same     within SIGNAL_TIME
    NATIVE     the signal `DUMP`, for C code, which lets no Python run: the threads, from the
               flight recorder the requests under way, and the tasks as they last waited     within NATIVE_TIME

What comes first is first tried, because faulthandler reads the frames of other threads while they may run.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from supervisor.kernel import procfs
from supervisor.kernel.reactor import Reactor
from supervisor.kernel.source import Sources
from supervisor.kernel.stacks import DUMP, SHOW, StackRecord
from supervisor.messages.stacks import Stacks
from supervisor.observe.flight import Flight
from supervisor.observe.stacks import (
    PICTURE,
    parse_answer,
    parse_dump,
    parse_picture,
    with_picture,
    with_requests,
    with_sources,
)

LOOK_EVERY = 0.01  # seconds
LOOP_TIME = 0.25
SIGNAL_TIME = 0.15
NATIVE_TIME = 1.5
STILL = 0.05  # seconds without a further byte, after which faulthandler has said all

WITHOUT_PYTHON = (
    "only Python code could walk through them now, and its main thread is in C code, which lets no Python run meanwhile"
)

OnAnswer = Callable[[Stacks], None]


class Step(enum.Enum):
    """Who is asked; see the module's docstring."""

    LOOP = LOOP_TIME
    SIGNAL = SIGNAL_TIME
    NATIVE = NATIVE_TIME


class Asked(Protocol):
    """The worker, as far as it is asked."""

    @property
    def pid(self) -> int: ...
    def signal(self, number: int) -> bool: ...
    def show(self) -> None: ...
    def flight(self) -> Flight: ...


class Inquiry:
    """For one worker's life. `ask` as often as one likes; `end` once the worker has ended."""

    def __init__(self, worker: Asked, record: StackRecord, reactor: Reactor) -> None:
        self._worker = worker
        self._record = record
        self._reactor = reactor
        self._waiting: list[OnAnswer] = []
        self._before = b""  # the last record in which the worker's loop may have left its tasks
        self._step = Step.LOOP
        self._until = 0.0
        self._size = 0
        self._grew = 0.0
        self._before_dump = 0  # the record's size then

    def ask(self, on_answer: OnAnswer, *, is_blocked: bool) -> None:
        """Call `on_answer`, later, with what there is to be had. A loop that is blocked is not asked."""
        self._waiting.append(on_answer)
        if len(self._waiting) == 1:
            if (record := self._record.read()).startswith(PICTURE):
                self._before = record
            self._record.clear()
            self._size = 0
            self._begin(Step.SIGNAL if is_blocked else Step.LOOP)
            self._reactor.call_later(LOOK_EVERY, self._look)

    def end(self) -> None:
        """There is nobody any more who could answer."""
        self._answer(Stacks(how="none", note="the worker has ended"))

    def _begin(self, step: Step) -> None:
        self._step = step
        self._until = self._reactor.now() + step.value
        if step is Step.LOOP:
            self._worker.show()
        else:
            self._before_dump = self._record.size
            self._worker.signal(SHOW if step is Step.SIGNAL else DUMP)

    def _look(self) -> None:
        if not self._waiting:
            return
        now, size = self._reactor.now(), self._record.size
        if size != self._size:
            self._size, self._grew = size, now
            if (stacks := parse_answer(self._record.read())) is not None:
                self._answer(stacks)
                return
        is_said = self._step is Step.NATIVE and size > self._before_dump and now - self._grew >= STILL
        if is_said or (self._step is Step.NATIVE and now >= self._until):
            self._answer(self._native())
            return
        if now >= self._until:
            self._begin(Step.SIGNAL if self._step is Step.LOOP else Step.NATIVE)
        self._reactor.call_later(LOOK_EVERY, self._look)

    def _native(self) -> Stacks:
        record = self._record.read()
        if record.startswith(PICTURE):
            self._before = record
        threads = parse_dump(record.decode("utf-8", "backslashreplace"))
        if threads:
            stacks = Stacks(how="native", threads=threads, note=WITHOUT_PYTHON)
        else:
            state = procfs.state(self._worker.pid)
            stacks = Stacks(how="none", note=f"it does not answer{f': {state}' if state else ''}")
        stacks = with_picture(stacks, parse_picture(self._before), self._reactor.now())
        return with_requests(stacks, self._worker.flight())

    def _answer(self, stacks: Stacks) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            stacks = with_sources(stacks, Sources())
        for on_answer in waiting:
            on_answer(stacks)
