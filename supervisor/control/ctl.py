"""holdfastctl: commands for the operator, each a thin layer over the control API.

Invariant: exit 0 done, 1 refused or failed, 2 usage, 3 a named app or worker is not running, 4 no master answers.
Every command waits until what it asked for holds, says so in a line, and speaks JSON with `--json`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import click
import msgspec

from supervisor.control import heap as heaps
from supervisor.control import tables
from supervisor.control.client import ControlClient
from supervisor.control.crashes import list_crashes, show_crash
from supervisor.control.discovery import find_socket
from supervisor.control.routes import MAX_FRAMES, MAX_TRACED
from supervisor.control.shell import Shell
from supervisor.control.targets import are_running, pids, select
from supervisor.control.terminal import Terminal
from supervisor.control.waiting import INTERRUPTED, change, roll, stop_master
from supervisor.control.waiting import events as follow_events
from supervisor.control.waiting import upgrade as upgrade_master
from supervisor.errors import RefusedError, UsageError, UserError
from supervisor.messages.crash import CrashList
from supervisor.messages.events import Event
from supervisor.messages.status import AppStatus, Status
from supervisor.observe.render import render_json, render_stack, render_text
from supervisor.observe.stacks import stacks_text


class Session:
    """What the commands of one command line share."""

    def __init__(self) -> None:
        self.terminal = Terminal()
        self.socket: str | None = None
        self._client: ControlClient | None = None

    @property
    def client(self) -> ControlClient:
        """The instance that is meant; found at the first use."""
        if self._client is None:
            self._client = ControlClient(self.socket or find_socket())
        return self._client


pass_session = click.make_pass_decorator(Session)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-s", "--socket", metavar="SOCK", help="Control socket; default: $HOLDFAST_CONTROL, or the only one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.version_option(package_name="holdfast", message="holdfastctl %(version)s")
@click.pass_context
def cli(context: click.Context, socket: str | None, as_json: bool) -> int:
    """Look at a running holdfast and steer it. Without a command: an interactive shell.

    A TARGET is APP, APP:SLOT or all. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 a named app or worker is not
    running (status), 4 no master answers.
    """
    session = context.ensure_object(Session)
    session.socket, session.terminal.as_json = socket, as_json
    if context.invoked_subcommand is None:
        return _shell(session)
    return 0


@cli.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@pass_session
def status(session: Session, targets: Sequence[str]) -> int:
    """Show every app and worker, or the named ones."""
    snapshot = session.client.status()
    apps = select(snapshot, targets)
    if session.terminal.as_json:
        session.terminal.json(msgspec.structs.replace(snapshot, apps=apps))
    else:
        _show(session.terminal, snapshot, apps)
    return 0 if are_running(snapshot, targets) else 3


@cli.command()
@click.argument("target")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Stop waiting after so many seconds.")
@pass_session
def start(session: Session, target: str, timeout: float | None) -> int:
    """Start what is stopped, and wait until it serves."""
    return change(session.client, session.terminal, "start", target, timeout)


@cli.command()
@click.argument("target")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Stop waiting after so many seconds.")
@pass_session
def stop(session: Session, target: str, timeout: float | None) -> int:
    """Drain and stop, and wait until it has."""
    return change(session.client, session.terminal, "stop", target, timeout)


@cli.command()
@click.argument("target")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Stop waiting after so many seconds.")
@pass_session
def restart(session: Session, target: str, timeout: float | None) -> int:
    """Stop and start an app, or replace one worker.

    The code is imported anew. `reload` does that without losing a request.
    """
    return change(session.client, session.terminal, "restart", target, timeout)


@cli.command()
@click.argument("app", required=False)
@click.option("--no-wait", is_flag=True, help="Begin the roll and return at once.")
@pass_session
def reload(session: Session, app: str | None, no_wait: bool) -> int:
    """Rolling restart with new code and settings. Exit 0: committed; 1: rolled back."""
    return roll(session.client, session.terminal, session.client.reload, app, no_wait=no_wait)


@cli.command()
@click.argument("app", required=False)
@click.option("--no-wait", is_flag=True, help="Begin the roll and return at once.")
@pass_session
def rollback(session: Session, app: str | None, no_wait: bool) -> int:
    """Return to the release before the last committed one.

    If it is kept at hand (keep_previous), nothing is imported. Exit 0: it serves again.
    """
    return roll(session.client, session.terminal, session.client.rollback, app, no_wait=no_wait)


@cli.command()
@click.argument("app", required=False)
@pass_session
def rolls(session: Session, app: str | None) -> int:
    """Show what became of the last twenty rolls of every app, or of one."""
    found = session.client.rolls()
    if app is not None and app not in found:
        raise RefusedError(f"no app called {app!r}; there is {', '.join(found) or 'none'}")
    chosen = found if app is None else {app: found[app]}
    if session.terminal.as_json:
        session.terminal.json({"apps": chosen})
    else:
        session.terminal.show(tables.roll_table(chosen))
    return 0


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("app")
@click.argument("workers", metavar="N|+N|-N|auto")
@pass_session
def scale(session: Session, app: str, workers: str) -> int:
    """Set an app's number of workers, or change it by +N or -N; auto: scale in its range again."""
    digits = workers.lstrip("+-")
    if workers != "auto" and (not digits.isdigit() or len(workers) - len(digits) > 1):
        raise UsageError(f"{workers!r} is no number of workers: expected N, +N, -N or auto, as in `scale web +1`")
    count = session.client.scale(app, workers)
    if session.terminal.as_json:
        session.terminal.json({"app": app, "workers": count})
    else:
        session.terminal.say(f"{app}: to have {count} worker{'s' if count != 1 else ''} from now on")
    return 0


@cli.command()
@click.argument("target", required=False)
@pass_session
def pid(session: Session, target: str | None) -> int:
    """Print the master's pid, or the target's pids, one a line."""
    snapshot = session.client.status()
    if target is None:
        found = [snapshot.pid]
    else:
        found = [pid for app in select(snapshot, [target]).values() for pid in pids(app)]
    if session.terminal.as_json:
        session.terminal.json({"pid": snapshot.pid} if target is None else {"pids": found})
    else:
        for number in found:
            session.terminal.say(str(number))
    if not found:
        raise RefusedError(f"{target} is not running; `holdfastctl start {target}` starts it")
    return 0


@cli.command()
@click.argument("signal", metavar="SIGNAL")
@click.argument("target")
@pass_session
def signal(session: Session, signal: str, target: str) -> int:
    """Send a signal to a worker, or to all of an app's.

    SIGNAL is a name or a number: USR1, SIGUSR1 or 10.
    """
    sent = session.client.signal(signal, target)
    if session.terminal.as_json:
        session.terminal.json({"pids": sent})
    else:
        session.terminal.say(f"{target}: {signal} sent to pid {', '.join(map(str, sent)) or 'nobody: none is running'}")
    return 0


@cli.command()
@click.option("-f", "--follow", "onwards", is_flag=True, help="Go on with every event as it happens.")
@pass_session
def events(session: Session, onwards: bool) -> int:
    """Show what happened lately."""
    if not onwards:
        for event in session.client.recent_events():
            _show_event(session.terminal, event)
        return 0
    for event in follow_events(session.client):
        _show_event(session.terminal, event)
    return 0


@cli.command()
@click.argument("report", metavar="[ID]", required=False)
@pass_session
def crashes(session: Session, report: str | None) -> int:
    """Show which workers have crashed, and at what; with an ID, or the end of one, all that is known of it."""
    if session.terminal.as_json:
        session.terminal.json(session.client.crash(report) if report else CrashList(session.client.crashes()))
    elif report:
        show_crash(session.terminal, session.client.crash(report))
    else:
        list_crashes(session.terminal, session.client.crashes())
    return 0


@cli.command()
@click.argument("target", metavar="APP:SLOT")
@click.option(
    "--diff",
    type=click.FloatRange(0, MAX_TRACED),
    default=heaps.DEFAULT_DIFF,
    metavar="S",
    help="Trace allocations for so many seconds (default 10); 0: none.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, MAX_FRAMES),
    default=1,
    metavar="N",
    help="Look so deep into the stack for the app's own line (default 1). It is slower with each.",
)
@pass_session
def heap(session: Session, target: str, diff: float, frames: int) -> int:
    """Show what a worker holds, and what of it grew.

    What was allocated meanwhile and not freed, by line; objects by type; the largest containers.
    """
    if not session.terminal.as_json:
        session.terminal.note(heaps.cost(target, diff, frames))
    with session.terminal.progress(f"{target}: looking"):
        found = session.client.heap(target, diff, frames)
    if session.terminal.as_json:
        session.terminal.json(found)
    else:
        for picture in heaps.pictures(found):
            session.terminal.show(picture)
    return 0


@cli.command()
@click.argument("target", metavar="APP:SLOT")
@pass_session
def stack(session: Session, target: str) -> int:
    """Show what a worker does now: every thread's and every task's stack.

    Also of one whose event loop is blocked. Of C code that keeps the interpreter only the threads can be shown.
    """
    found = session.client.stack(target)
    if session.terminal.as_json:
        session.terminal.json({"target": target, "workers": found})
    else:
        for worker in found:
            for line in stacks_text(worker):
                session.terminal.say(line)
    return 0


@cli.command()
@pass_session
def shutdown(session: Session) -> int:
    """Stop everything and wait until the master is gone.

    Requests under way are finished first.
    """
    began = time.monotonic()
    client = session.client
    master = client.status().pid
    try:
        stop_master(client, session.terminal)
    except KeyboardInterrupt:
        session.terminal.complain(f"the master (pid {master}) goes on stopping without you")
        return INTERRUPTED
    seconds = time.monotonic() - began
    if session.terminal.as_json:
        session.terminal.json({"pid": master, "seconds": round(seconds, 3)})
    else:
        session.terminal.say(f"holdfast (pid {master}) has stopped after {seconds:.1f} s")
    return 0


@cli.command()
@pass_session
def upgrade(session: Session) -> int:
    """Have the master become the holdfast that is installed now: same pid, same workers, no request lost.

    If the new code can't run or can't read the state it is refused, with the reason, and all goes on. Waits for the
    end of a roll.
    """
    try:
        done = upgrade_master(session.client, session.terminal)
    except KeyboardInterrupt:
        session.terminal.complain("the upgrade goes on without you; `holdfastctl version` tells how it went")
        return INTERRUPTED
    if session.terminal.as_json:
        session.terminal.json(done)
    elif done.verdict == "done":
        session.terminal.say(f"holdfast {done.from_} -> {done.to}, in {done.seconds:.1f} s")
    else:
        session.terminal.complain(f"not upgraded, all goes on as before: {done.reason}")
    return 0 if done.verdict == "done" else 1


@cli.command()
@pass_session
def version(session: Session) -> int:
    """Print the running master's version."""
    answer = session.client.version()
    if session.terminal.as_json:
        session.terminal.json(answer)
    else:
        session.terminal.say(answer.version)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    session = Session()
    try:
        code = cli.main(args=argv, prog_name="holdfastctl", standalone_mode=False, obj=session)
    except click.ClickException as error:
        session.terminal.complain(f"{error.format_message()} ({_remedy(error)})")
        return 2
    except UserError as error:
        session.terminal.complain(str(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _remedy(error: click.ClickException) -> str:
    """What to do instead: most often an option of ours was put behind the command."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        for option in cli.params:
            if error.option_name in option.opts:
                words = [error.option_name, option.metavar, error.ctx.info_name]
                return f"it stands before the command: `holdfastctl {' '.join(filter(None, words))}`"
    return "`holdfastctl --help` lists what there is"


def _show(terminal: Terminal, snapshot: Status, apps: dict[str, AppStatus]) -> None:
    terminal.show(tables.master_line(snapshot))
    for name, app in apps.items():
        terminal.show(tables.app_line(name, snapshot.apps[name]))
        if app.workers:
            terminal.show(tables.worker_table(name, app.workers, terminal.width))


def _show_event(terminal: Terminal, event: Event) -> None:
    text = render_text(event, colour=terminal.has_colour) + render_stack(event)
    terminal.raw(render_json(event).decode() if terminal.as_json else text)


def _shell(session: Session) -> int:
    options = ["-s", session.socket] if session.socket else []
    options += ["--json"] if session.terminal.as_json else []
    shell = Shell(lambda words: main([*options, *words]), sorted(cli.commands), lambda: _targets(session))
    if shell.is_interactive:
        main([*options, "status"])
    return shell.loop()


def _targets(session: Session) -> list[str]:
    """Every target there is now, for completion; none when no master answers."""
    try:
        client = ControlClient(session.socket or find_socket(), timeout=1.0)
        apps = client.status().apps
    except UserError:
        return []
    return ["all", *apps, *(f"{name}:{worker.slot}" for name, app in apps.items() for worker in app.workers)]
