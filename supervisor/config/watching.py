"""Options about what the watch may do with an app's workers."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option

_WATCH = "Watch"

WATCHING: tuple[Option, ...] = (
    Option(
        key="max_restarts",
        flags=("--max-restarts",),
        section="app",
        group=_WATCH,
        parse=values.count(0, values.MAX_RESTARTS),
        metavar="N",
        default="5",
        help="workers killed for stalling within a minute; past it the app is degraded and the watch only warns",
    ),
)
