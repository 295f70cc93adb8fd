"""Options about more load than a worker can serve."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option

GROUP = "Under overload"

OVERLOAD: tuple[Option, ...] = (
    Option(
        key="lag_limit",
        flags=("--lag-limit",),
        section="app",
        group=GROUP,
        parse=values.seconds(),
        metavar="S",
        default="0.25",
        help="a worker whose event loop turns this late leaves new connections to the others until it has recovered; "
        "0 = never",
    ),
    Option(
        key="queue_timeout",
        flags=("--queue-timeout",),
        section="app",
        group=GROUP,
        parse=values.seconds(),
        metavar="S",
        default="1",
        help="a request that no worker has room for waits at most this long, and then gets 503; 0 = without limit",
    ),
    Option(
        key="exempt_paths",
        flags=("--exempt-paths",),
        section="app",
        group=GROUP,
        parse=values.parse_exempt_paths,
        metavar="PATH",
        default="none",
        help="health checks: requests for this path wait for nobody, and are never turned away",
        repeatable=True,
    ),
)
