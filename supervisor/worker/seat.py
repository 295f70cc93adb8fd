"""What a worker is made with: its part of what the master and the spawner have. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.config.settings import AppSettings, Interface, LogFormat
from supervisor.serve.edge.tls import Tls
from supervisor.worker.hooks import WorkerHooks, WorkerInfo
from supervisor.worker.trustee import Trustee


@dataclass(frozen=True, slots=True)
class Seat:
    """What a new worker finds on its chair. Numbers of `board`, `listeners`, ... are descriptors it owns."""

    settings: AppSettings
    generation: int
    slot: int
    row: int
    board: int
    listeners: tuple[int, ...]
    log_format: LogFormat
    channel: int
    stdout: int
    stderr: int
    stacks: int
    access_log: int | None
    trustee: Trustee | None
    tls: Tls | None
    worker: WorkerInfo
    load: Callable[[], tuple[object, Interface]]
    load_hooks: Callable[[], WorkerHooks]
