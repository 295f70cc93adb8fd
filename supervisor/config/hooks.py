"""Options for what is run when something happens: at rolls, and in the life of each worker."""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.option import Option

HOOKS_GROUP = "Hooks (module:function; at rolls also a command, in the file: a list of strings)"


def _roll_hook(key: str, text: str) -> Option:
    return Option(
        key=key,
        flags=(f"--{key.replace('_', '-')}",),
        section="app",
        group=HOOKS_GROUP,
        parse=values.parse_hook,
        metavar="HOOK",
        default="none",
        help=text,
    )


def _worker_hook(key: str, text: str) -> Option:
    return Option(
        key=key,
        flags=(f"--{key.replace('_', '-')}",),
        section="app",
        group=HOOKS_GROUP,
        parse=values.parse_function,
        metavar="FUNC",
        default="none",
        help=text,
    )


HOOKS: tuple[Option, ...] = (
    _roll_hook("before_roll", "run before a new release is imported, for migrations; when it fails there is no roll"),
    _roll_hook("after_commit", "run when a release has been committed"),
    _roll_hook("after_rollback", "run when a release has been given up"),
    Option(
        key="hook_timeout",
        flags=("--hook-timeout",),
        section="app",
        group=HOOKS_GROUP,
        parse=values.seconds(positive=True),
        metavar="S",
        default="300",
        help="what is run at rolls is killed after so long, and has failed",
    ),
    _worker_hook("before_fork", "called in the spawner before each fork, if the release is preloaded"),
    _worker_hook("after_fork", "called in each new worker, first of all"),
    _worker_hook("on_worker_start", "called in each worker once the app is imported, before its lifespan starts"),
    _worker_hook("on_worker_exit", "called in each worker at its end, after its lifespan"),
)
