"""What of newly read settings a roll can't bring in."""

from __future__ import annotations

from supervisor.config.settings import Settings


def needing_new_master(ours: Settings, theirs: Settings) -> list[str]:
    """The tables and keys that differ and take effect only with another master, as the file writes them."""
    mine, other = ours.supervisor, theirs.supervisor
    keys = [key for key in mine.__struct_fields__ if getattr(mine, key) != getattr(other, key)]
    names, new = {app.name for app in ours.apps}, [app.name for app in theirs.apps]
    changed = [f"[supervisor] {key}" for key in keys]
    changed += [f"[app.{name}]" for name in new if name not in names]
    return changed + sorted(f"[app.{name}]" for name in names - set(new))
