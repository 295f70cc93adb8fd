"""The functions of the app's that are called in the life of a worker.

Invariant: whatever such a function raises ends in an `AppError` that names it, its traceback having gone to stderr.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.errors import AppError


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What they are told: which worker it is."""

    app: str
    slot: int
    generation: int


WorkerHook = Callable[[WorkerInfo], object]


@dataclass(frozen=True, slots=True)
class WorkerHooks:
    """By the names of the settings; None where there is none."""

    before_fork: WorkerHook | None = None
    after_fork: WorkerHook | None = None
    on_worker_start: WorkerHook | None = None
    on_worker_exit: WorkerHook | None = None

    def call(self, name: str, worker: WorkerInfo) -> None:
        """Call one of them, if it is there. Raises `AppError`."""
        hook: WorkerHook | None = getattr(self, name)
        if hook is None:
            return
        try:
            hook(worker)
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # from the app's frame on
            traceback.print_exception(error)
            sys.stderr.flush()
            text = " ".join(f"{type(error).__name__}: {error}".removesuffix(": ").split())
            raise AppError(f"{name} failed: {text}") from None
