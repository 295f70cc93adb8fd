"""`holdfast check`: every app imported in an interpreter of its own, one line about each.

Invariant: nothing the apps do reaches this process: they are imported in children, one after another, each of which
gets `boot_timeout` seconds.
"""

from __future__ import annotations

import subprocess

import click
import msgspec

from supervisor.config.settings import AppSettings, MemoryShare, Settings
from supervisor.config.values import MAX_WORKERS
from supervisor.errors import UserError
from supervisor.kernel.capacity import available_memory
from supervisor.kernel.files import starting_directory
from supervisor.master.confinement import confined, environment
from supervisor.master.place import CHECK, find_place
from supervisor.master.releases import wanted_workers
from supervisor.spawner.check import CheckResult
from supervisor.watch.limits import max_memory, megabytes


def report(settings: Settings) -> int:
    """Check all apps and print a line for each. Returns 0 when all can be imported, else 1."""
    failed = False
    for app in settings.apps:
        result = _import(app)
        failed = failed or bool(result.reason)
        click.echo(f"{app.name}: {_verdict(app, result)}")
    return 1 if failed else 0


def _import(app: AppSettings) -> CheckResult:
    try:
        place = find_place(app, starting_directory())
    except UserError as error:
        return CheckResult(reason=str(error))
    command = confined(app, place, CHECK, [*place.command(CHECK), place.home])
    try:
        done = subprocess.run(  # noqa: S603  # our own module, by an interpreter that the settings name
            command,
            input=msgspec.json.encode(app),
            stdout=subprocess.PIPE,
            timeout=app.boot_timeout,
            check=False,
            env=environment(app, place),
        )
    except subprocess.TimeoutExpired:
        return CheckResult(reason=f"{app.app} was not imported within boot_timeout ({app.boot_timeout:g} s)")
    try:
        return msgspec.json.decode(done.stdout, type=CheckResult)
    except msgspec.DecodeError:
        how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return CheckResult(reason=f"{app.app} ended its interpreter while it was imported ({how})")


def _verdict(app: AppSettings, result: CheckResult) -> str:
    if result.reason:
        return f"FAILED: {result.reason}"
    found = [f"OK: {result.interface}", f"imported in {result.seconds:.2f} s", _preload(app, result), *app.bind]
    return ", ".join(found + _max_memory(app))


def _preload(app: AppSettings, result: CheckResult) -> str:
    if not result.threads:
        return "preload possible" if app.preload != "off" else "preload possible (but off)"
    threads = f"the import left threads running: {', '.join(result.threads)}"
    return f"preload not possible ({threads})" if app.preload != "on" else f"preload on, a risk ({threads})"


def _max_memory(app: AppSettings) -> list[str]:
    """What a share comes to on this machine."""
    if not isinstance(app.max_memory, MemoryShare):
        return []
    workers, available = wanted_workers(app, MAX_WORKERS), available_memory()  # of a range the most
    each = max_memory(app.max_memory, available, workers) or 0
    of_all = f"{100 * app.max_memory.part:g}% of {megabytes(available)} MB by {workers}"
    return [f"max_memory {megabytes(each)} MB a worker ({of_all})"]
