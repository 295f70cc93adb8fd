"""What `holdfastctl --json status` prints: the contract's object, as frozen records that the control API is handed.

Invariant: field names, order and meanings here are public; a field may be added, never renamed or removed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

AppState = Literal["starting", "running", "rolling", "degraded", "stopped", "failed"]
SlotState = Literal["starting", "ready", "saturated", "stalled", "draining", "backoff", "stopped"]
Verdict = Literal["committed", "rolled_back", "running"]


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process, or an empty slot (`pid` 0). A slot shows twice while its old worker drains."""

    slot: int
    pid: int
    generation: int
    state: SlotState
    uptime_s: float
    inflight: int
    connections: int
    requests: int
    lag_ms: float
    lag_max_ms: float
    rss_bytes: int
    pss_bytes: int
    cpu_percent: float
    restarts: int
    uss_bytes: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all workers there ever were; never goes backwards."""

    requests: int = 0
    shed: int = 0
    lost: int = 0
    restarts: int = 0
    stalls: int = 0


class RollTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all rolls and all workers there ever were, for the metrics; never goes backwards."""

    committed: int = 0
    rolled_back: int = 0
    handed_over: int = 0  # connections, as the next two
    drained: int = 0
    connections_cut: int = 0


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests during a roll: `accepted` is the sum of the next four. The rest are connections.

    `cut`: given up on with their client there. `reset`: under way in a worker that died.
    """

    accepted: int = 0
    completed: int = 0
    cut: int = 0
    reset: int = 0
    under_way: int = 0  # after the verdict: in workers that are leaving
    handed_over: int = 0
    drained: int = 0
    connections_cut: int = 0


class RollStatus(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One roll of an app. `number` counts them from 1; `at` is when it began, in seconds since the epoch."""

    from_: int
    to: int
    verdict: Verdict
    reason: str
    seconds: float
    ledger: Ledger = Ledger()
    number: int = 0
    at: float = 0.0


class Begun(msgspec.Struct, frozen=True):
    """A roll that was asked for has begun: to which generation, and which of the app's rolls it is."""

    generation: int
    number: int


class UpgradeStatus(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """The last upgrade of the master in place. `number` counts them from 1; versions are holdfast's."""

    number: int
    from_: str
    to: str = ""  # known once the new code has answered
    verdict: Literal["running", "done", "refused"] = "running"
    reason: str = ""  # of a refusal, or what is waited for
    seconds: float = 0.0
    began: float = 0.0  # CLOCK_MONOTONIC seconds


class AppStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One app."""

    state: AppState
    generation: int
    bind: tuple[str, ...]
    workers: tuple[WorkerStatus, ...]
    totals: Totals
    last_roll: RollStatus | None
    max_memory_bytes: int | msgspec.UnsetType = msgspec.UNSET  # of a worker, as the setting resolves now


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    version: str
    pid: int
    uptime_s: float
    state: Literal["running", "stopping"]
    apps: dict[str, AppStatus]
    programs: dict[str, object] = {}
