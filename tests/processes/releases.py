"""Releases of a small app for tests to serve and to roll, and their folder.

Invariant: two releases differ in their text, and no bytecode of an older one is ever taken for the newer: Python
compares only size and second of a file, and tests write faster than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster, free_port

SOURCE = Path(__file__).with_name("release_app.py").read_text()
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}

HANGS = "import time\ntime.sleep(600)"  # for `before`
SLOW_START = "async def on_startup(state):\n    await asyncio.sleep(0.4)\n"  # for `after`


def release(name: str, *, before: str = "", after: str = "") -> str:
    """The app's source as release `name`; `before` runs first of all at its import, `after` last."""
    future, rest = SOURCE.split("from __future__ import annotations\n", 1)
    source = f"{future}from __future__ import annotations\n{before}\n{rest}\n{after}\n"
    return source.replace('RELEASE = "first"', f"RELEASE = {name!r}")


def web_settings(bind: str = "{bind}", **more: object) -> str:
    """A settings file with two workers of the app, unless `more` says otherwise."""
    lines = [f"{key} = {value!r}" for key, value in {"workers": 2, "bake": 0.1, **more}.items()]
    return "\n".join(["[app.web]", 'app = "app:app"', f'bind = ["{bind}"]', *lines])


class Site:
    """A project's folder: `app.py`, and `holdfast.toml` when a test wants one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.write("first")

    def write(self, name: str, *, before: str = "", after: str = "") -> None:
        """Put a release into the folder; a roll takes it."""
        (self.folder / "app.py").write_text(release(name, before=before, after=after))

    def settings(self, text: str) -> None:
        """Write `holdfast.toml`."""
        (self.folder / "holdfast.toml").write_text(text)

    def cluster(self, *arguments: str, env: Mapping[str, str] | None = None, **more: Any) -> Cluster:
        """A cluster of `app:app`, not yet started."""
        return Cluster(self.folder, "app:app", *arguments, env={**NO_BYTECODE, **(env or {})}, **more)

    def configured(self, text: str, *arguments: str, env: Mapping[str, str] | None = None) -> Cluster:
        """A cluster of what `text` says in `holdfast.toml`, where `{bind}` is a free address."""
        bind = f"127.0.0.1:{free_port()}"
        self.settings(text.replace("{bind}", bind))
        cluster = Cluster(self.folder, *arguments, bind="", env={**NO_BYTECODE, **(env or {})})
        cluster.bind = bind
        return cluster

    def imports(self, name: str | None = None) -> list[int]:
        """The processes that have imported the app (that release of it), in order."""
        path = self.folder / "imported"
        lines = [line.split(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []
        return [int(pid) for pid, imported in lines if name in (None, imported)]
