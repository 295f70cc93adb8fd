"""How whatever runs for an app is started: as whom, with which rights, and with what in its environment.

Invariant: nothing of an app's is started by the master in any other way; and secrets are in the environment that a
process is started with, and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import supervisor
from supervisor.config.settings import AppSettings
from supervisor.master.place import Place
from supervisor.observe.journal import Journal

_CONFINE = os.path.join(os.path.dirname(os.path.abspath(supervisor.__file__)), "spawner", "confine.py")


def confined(settings: AppSettings, place: Place, module: str, command: Sequence[str]) -> list[str]:
    """What runs `command`, which runs this module of ours, with the rights that the settings leave it.

    Between the two there is no process more: `supervisor/spawner/confine.py` becomes the command.
    """
    wanted = [f"oom={settings.oom_score_adj}"]
    if settings.umask is not None:
        wanted.append(f"umask={settings.umask:o}")
    if settings.no_new_privs:
        wanted.append("no_new_privs")
    if place.identity is not None:
        who = place.identity
        wanted += [] if who.uid is None else [f"uid={who.uid}"]
        wanted += [f"gid={who.gid}", f"groups={','.join(map(str, who.groups))}"]
    return [sys.executable, "-I", "-S", _CONFINE, *wanted, "--", module, *command]


def warn_of_root(apps: Sequence[AppSettings], journal: Journal) -> None:
    """Root may be what is wanted, but not by accident."""
    bold = [app.name for app in apps if app.user is None]
    if os.geteuid() == 0 and bold:
        text = f"runs as root, with all that its code imports: {', '.join(bold)}; name a user in the settings"
        journal.event("log", text, level="warning")


def environment(settings: AppSettings, place: Place) -> dict[str, str]:
    """The environment of whatever runs for the app: ours, its user's, then what the settings add."""
    login = place.identity.environment if place.identity is not None else {}
    return {**os.environ, **login, **place.secrets, **settings.env}
