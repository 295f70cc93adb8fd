"""Supervision from Python: the cluster of `holdfast run`, started by a program of one's own.

    from supervisor import App, Supervisor

    if __name__ == "__main__":
        raise SystemExit(Supervisor(App("myproject.asgi:app", workers=4)).run())

Invariant: keywords are the settings' keys of the TOML file and are checked by the same table, when the object is made.
"""

from __future__ import annotations

from supervisor.config import load
from supervisor.config.settings import Settings
from supervisor.errors import SettingsError


class App:
    """One `[app.NAME]` table: `target` is `module:attribute` or `module:factory()`.

    Raises `supervisor.errors.SettingsError` that names every wrong keyword.
    """

    def __init__(self, target: str, *, name: str = "web", **settings: object) -> None:
        self.settings = load.app_settings(f"App({target!r})", name, {"app": target} | settings)


class Supervisor:
    """A cluster of one or more apps; keywords are those of the `[supervisor]` table.

    Raises `supervisor.errors.SettingsError` that names every wrong keyword, and two apps with one name or address.
    """

    def __init__(self, *apps: App, **settings: object) -> None:
        where = "Supervisor()"
        if not apps:
            raise SettingsError(where, "", "at least one App")
        supervisor = load.supervisor_settings(where, settings)
        self.settings: Settings = load.assemble(where, [app.settings for app in apps], supervisor)

    def run(self) -> int:
        """Serve until told to stop, this process being the master; returns the exit code.

        Call it from the main thread. Rolls take new code, and the settings given here.
        """
        from supervisor.master import boot  # the master's machinery is only needed once something runs

        return boot.run_master(self.settings, None)
