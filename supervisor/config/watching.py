"""Options about what the watch may do with an app's workers."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option

_WATCH = "Watch"
MAX_RESTARTS = 1024

WATCHING: tuple[Option, ...] = (
    Option(
        key="grow_after",
        flags=("--grow-after",),
        section="app",
        group=_WATCH,
        parse=values.seconds(positive=True),
        metavar="S",
        default="5",
        help="with a range of --workers: busy for so long, they get one more",
    ),
    Option(
        key="shrink_after",
        flags=("--shrink-after",),
        section="app",
        group=_WATCH,
        parse=values.seconds(positive=True),
        metavar="S",
        default="60",
        help="with a range of --workers: idle for so long, they are one less",
    ),
    Option(
        key="stall_warn",
        flags=("--stall-warn",),
        section="app",
        group=_WATCH,
        parse=values.seconds(),
        metavar="S",
        default="0.5",
        help="an event loop blocked this long: its stack goes to the log, while it lasts; 0 = never",
    ),
    Option(
        key="stall_timeout",
        flags=("--stall-timeout",),
        section="app",
        group=_WATCH,
        parse=values.seconds(),
        metavar="S",
        default="30",
        help="a worker whose loop is blocked, or threads all stuck, this long is replaced and killed; 0 = never",
    ),
    Option(
        key="request_warn",
        flags=("--request-warn",),
        section="app",
        group=_WATCH,
        parse=values.seconds(),
        metavar="S",
        default="10",
        help="WSGI: a thread at a request this long, of which nothing comes: its stack goes to the log; 0 = never",
    ),
    Option(
        key="max_restarts",
        flags=("--max-restarts",),
        section="app",
        group=_WATCH,
        parse=values.count(0, MAX_RESTARTS),
        metavar="N",
        default="5",
        help="workers killed for stalling within a minute; past it the app is degraded and the watch only warns",
    ),
)
