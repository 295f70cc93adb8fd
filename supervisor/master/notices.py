"""What the master says of itself at its start, and of settings that it can't take while it runs."""

from __future__ import annotations

import os
from collections.abc import Collection

from supervisor import __version__
from supervisor.config.differences import needing_new_master
from supervisor.config.settings import Settings
from supervisor.master.app import App
from supervisor.master.confinement import warn_of_root
from supervisor.master.listeners import warn_of_short_queues
from supervisor.observe.journal import Journal


def tell_started(journal: Journal, control: str | None, apps: Collection[App]) -> None:
    """Who we are, where everything listens, and what the surroundings make of the settings."""
    text = f"holdfast {__version__} started; control socket {control or 'none'}"
    journal.event("master.started", text, pid=os.getpid(), version=__version__, control=control)
    for app in apps:
        where = ", ".join(listener.bound for listener in app.listeners.of(app.settings.bind))
        journal.event("log", f"listening on {where}", app=app.name)
    settings = tuple(app.settings for app in apps)
    warn_of_root(settings, journal)
    warn_of_short_queues(settings, journal)


def warn_of_what_needs_a_new_master(journal: Journal, ours: Settings, theirs: Settings) -> None:
    """What has changed in the settings, and is not an app's."""
    if changed := needing_new_master(ours, theirs):
        text = f"changed, and takes effect only when holdfast is started anew: {', '.join(changed)}"
        journal.event("log", text, level="warning")
