"""All torments: blocks, memory, deaths, load."""

from __future__ import annotations

from torments.trial import Sign, Torment, Trial

LEAST_KEPT = 0.85  # of the peak's answers; it is 95 % where the clients have a core of their own
FEW = ("--max-inflight", "4", "--queue-timeout", "5", "--grow-after", "1", "--shrink-after", "2")


def end_crowd(trial: Trial) -> None:
    """What it has lost counts as lost."""
    seen = trial.disperse()
    trial.remarks.append(f"the crowd: {seen.ok:,} answers, {seen.lost or 'none'} lost")
    if seen.lost:
        trial.failures.append(f"the crowd has lost {seen.lost}: {seen.lost_by}")


def overload(trial: Trial) -> None:
    """Ten times the clients that the cluster is at its peak with."""
    peak = trial.impatient("/work?5", 16, 4)
    trial.begin()
    crowd = trial.impatient("/work?5", 160, 4)
    kept = crowd["ok_per_s"] / peak["ok_per_s"]
    trial.remarks.append(
        f"impatient clients: 16 had {peak['ok_per_s']:.0f} answers/s within 1 s, 160 had {crowd['ok_per_s']:.0f} "
        f"({kept:.0%}; {crowd['shed_per_s']:.0f}/s turned away, {crowd['late_per_s']:.0f}/s late)"
    )
    if kept < LEAST_KEPT:
        trial.failures.append(f"only {kept:.0%} of the peak's answers in time")


BLOCKED = "its event loop is blocked"
DOOMED = ("--stall-warn", "0.5", "--stall-timeout", "2")

TORMENTS = (
    Torment(
        "a coroutine that sleeps for 2 s",
        lambda trial: trial.ask("/block?2"),
        (Sign("worker.stalled", BLOCKED), Sign("worker.recovered", "turns again")),
    ),
    Torment(
        "C code that keeps the interpreter, some 2 s",
        lambda trial: trial.ask("/seize?2"),
        (Sign("worker.stalled", "in seize"), Sign("worker.recovered", "turns again")),
    ),
    Torment(
        "an event loop blocked for good",
        lambda trial: trial.ask("/block?60"),
        (
            Sign("worker.stalled", BLOCKED),
            Sign("worker.stalled", "to be killed: its event loop"),
            Sign("worker.exited", "stall_timeout, 2 s"),
        ),
        options=DOOMED,
        may_lose=4,
    ),
    Torment(
        "a WSGI thread stuck for 3 s",
        lambda trial: trial.ask("/block?3"),
        (Sign("worker.stalled", "thread "), Sign("worker.recovered", "is done with")),
        options=("--request-warn", "1"),
        app="wsgi",
    ),
    Torment(
        "all threads of a WSGI worker stuck for good",
        lambda trial: trial.ask("/block?60", times=2),
        (Sign("worker.stalled", "to be killed: all its 2 threads"), Sign("worker.exited", "stall_timeout, 2 s")),
        options=(*DOOMED, "--threads", "2", "--queue-timeout", "10"),
        app="wsgi",
        workers="1",
        may_lose=4,
    ),
    Torment(
        "more workers to kill than max_restarts, 1",
        lambda trial: trial.ask("/block?5"),
        (
            Sign("worker.stalled", BLOCKED),
            lambda trial: trial.ask("/block?5"),
            Sign("worker.stalled", BLOCKED),
            Sign("worker.stalled", "to be killed"),
            Sign("log", "not killed although"),
            Sign("app.degraded", "1 worker killed within 60 s"),
        ),
        options=(*DOOMED, "--max-restarts", "1"),
        may_lose=8,
        ends="degraded",
    ),
    Torment(
        "an event loop late for a second",
        lambda trial: trial.ask("/block?1"),
        (Sign("worker.saturated", "its event loop was"), Sign("worker.recovered")),
    ),
    Torment(
        "memory explosion, 200 MB at once",
        lambda trial: trial.ask("/grow?200"),
        (Sign("worker.recycled", "memory: "),),
        options=("--max-memory", "150M"),
    ),
    Torment(
        "a crash in C code (SIGSEGV)",
        lambda trial: trial.ask("/poison"),
        (Sign("worker.exited", "SIGSEGV"),),
        may_lose=4,
    ),
    Torment(
        "a request that kills whoever serves it",
        lambda trial: trial.ask("/poison"),
        (
            Sign("worker.exited", "GET /poison"),
            lambda trial: trial.ask("/poison"),
            Sign("worker.exited", "GET /poison"),
            lambda trial: trial.ask("/poison"),
            Sign("app.poisoned", "GET /poison"),
        ),
        may_lose=12,
    ),
    Torment(
        "a leak, 0.4 MB a second",
        lambda trial: trial.drip("/leak?40", 0.1),
        (Sign("worker.leaking", "MB more an hour"),),
        options=("--max-memory", "250M"),
        workers="1",
        within_s=240.0,
        connections=1,
        fresh=0.0,
        pause_s=0.1,
        is_slow=True,
    ),
    Torment(
        "a kill from outside (SIGKILL)",
        lambda trial: trial.ask("/signal?9"),
        (Sign("worker.exited", "SIGKILL"),),
        may_lose=4,
    ),
    Torment(
        "a crowd that comes, and goes again",
        lambda trial: trial.crowd("/wait?0.05", 24),
        (
            *(Sign("app.scaled", f"{count} workers instead of {count - 1}: busy") for count in (2, 3)),
            end_crowd,
            *(Sign("app.scaled", f"instead of {count}: idle") for count in (3, 2)),
        ),
        options=FEW,
        workers="1..3",
        connections=1,
    ),
    Torment(
        "ten times the load, of clients that give up after 1 s",
        overload,
        (Sign("log", "turned away with 503"),),
        connections=1,
        fresh=0.0,
        pause_s=0.1,
        may_lose=100,
    ),
)
