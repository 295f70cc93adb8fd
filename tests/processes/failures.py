"""Releases that go wrong, each in its way: what a roll to one ends in, and what clients see of it.

All are tried in one cluster under one load, one after another: whatever a release does, the next roll finds the old one
serving as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster, until
from tests.processes.load import Load, Report
from tests.processes.releases import HANGS, Site, web_settings

WORKERS = 4
SETTINGS: dict[str, Any] = {
    "workers": WORKERS,
    "bake": 2.0,
    "boot_timeout": 2.0,
    "drain_timeout": 1.0,
    "ready_path": "/health",
    "max_memory": "150M",
}


def startup(line: str) -> str:
    return f"async def on_startup(state):\n    {line}\n"


def later(deed: str) -> str:
    """A second after its start, the release does this."""
    return startup(f"asyncio.get_running_loop().call_later(1.0, lambda: {deed})")


def fails_if(condition: str) -> str:
    """Requests that meet the condition end in an exception of the app's."""
    return f"""
import random
good = app
async def app(scope, receive, send):
    if scope["type"] != "lifespan" and ({condition}):
        raise RuntimeError("no such table: users")
    await good(scope, receive, send)
"""


@dataclass(frozen=True)
class Kind:
    """How a release goes wrong, and a part of the reason that is to be told. `settings` replaces the file's text."""

    name: str
    reason: str
    before: str = ""
    after: str = ""
    settings: str = ""


KINDS = (
    Kind("syntax error", "SyntaxError: '(' was never closed", before="x = ("),
    Kind("import error", "No module named 'no_such_module'", before="import no_such_module"),
    Kind("exit at import", "exit code 3", before="import os\nos._exit(3)"),
    Kind("hang at import", "not imported within boot_timeout, 2 s", before=HANGS),
    Kind("lifespan failure", "lifespan startup failed: no database", after=startup("raise OSError('no database')")),
    Kind("never ready", "ready_path /health answers 500", after=fails_if("scope['path'] == '/health'")),
    Kind("500s only", "of its answers were errors", after=fails_if("scope['path'] != '/health'")),
    Kind(
        "10 % 500s",
        "of its answers were errors",
        after=fails_if("scope['path'] != '/health' and random.random() < 0.1"),
    ),
    Kind("crash after 1 s", "killed by SIGSEGV", after=later("os.kill(os.getpid(), 11)")),
    Kind("stall after 1 s", "stalled: its event loop is blocked", after=later("__import__('time').sleep(60)")),
    Kind("memory explosion", "past max_memory 150 MB", after=later("globals().update(held=b'x' * 300_000_000)")),
    Kind(
        "bad settings file",
        "workers: auto, 1 to 1024, or a range such as 2..8, not 0",
        settings='[app.web]\napp = "app:app"\nworkers = 0\n',
    ),
)


@dataclass
class Outcome:
    """What became of a roll to one kind of bad release. `load` is what clients saw, from its begin to its end."""

    kind: Kind
    verdict: str
    reason: str
    seconds: float
    load: Report
    app: dict[str, Any]  # of `status`, right after the verdict

    @property
    def share(self) -> float:
        """The bad release's part of all answers, its errors included."""
        bad = self.load.releases.get(self.kind.name, 0) + self.load.lost
        return bad / max(1, self.load.requests)


def failures(folder: Path, kinds: tuple[Kind, ...] = KINDS, connections: int = 24) -> Iterator[Outcome]:
    """Roll to each in turn, under load."""
    site = Site(folder)
    with (
        site.configured(web_settings(**SETTINGS)) as cluster,
        Load(cluster.bind, connections=connections, fresh=0.7, timeout_s=10.0) as load,
    ):
        for kind in kinds:
            yield _failure(site, cluster, load, kind)


def _failure(site: Site, cluster: Cluster, load: Load, kind: Kind) -> Outcome:
    site.settings(kind.settings or web_settings(cluster.bind, **SETTINGS))
    site.write(kind.name, before=kind.before, after=kind.after)
    until("answers", lambda: load.snapshot().requests)
    load.window()
    before = cluster.app()["last_roll"]
    done = cluster.ctl("reload")
    app = cluster.app()
    if app["last_roll"] == before:
        verdict, reason, seconds = "refused", done.stderr.strip(), 0.0
    else:
        roll = app["last_roll"]
        verdict, reason, seconds = roll["verdict"], roll["reason"], roll["seconds"]
    until("nobody leaves any more", lambda: len(cluster.app()["workers"]) == WORKERS)
    return Outcome(kind, verdict, reason, seconds, load.window(), app)
