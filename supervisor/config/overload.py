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
)
