"""All torments: blocks, memory, deaths, load."""

from __future__ import annotations

from torments.trial import Sign, Torment, Trial

FEW = ("--max-inflight", "4", "--grow-after", "1", "--shrink-after", "2")


def end_crowd(trial: Trial) -> None:
    """What it has lost counts as lost."""
    seen = trial.disperse()
    trial.remarks.append(f"the crowd: {seen.ok:,} answers, {seen.lost or 'none'} lost")
    if seen.lost:
        trial.failures.append(f"the crowd has lost {seen.lost}: {seen.lost_by}")


TORMENTS = (
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
)
