"""How a master comes to be: by exec from the `holdfast` command, or inside a program that embeds it.

The command hands over by exec so that nothing it needed (click, help texts) stays in memory for the master's life.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

import msgspec

from supervisor import __version__
from supervisor.config.load import Source, load
from supervisor.config.settings import Settings
from supervisor.errors import ProtocolError, UserError
from supervisor.kernel.files import read_settings
from supervisor.kernel.notify import listen_fds
from supervisor.kernel.process import become_subreaper
from supervisor.kernel.reactor import Reactor
from supervisor.kernel.title import current_title, restore_title, set_title
from supervisor.master import record
from supervisor.master.master import Master
from supervisor.master.preflight import Answer, read_memory
from supervisor.observe.journal import Journal
from supervisor.observe.sink import Sink


def exec_master(source: Source) -> NoReturn:
    """Become the master: same pid, fresh interpreter, `source` in a memfd that crosses the exec."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)  # until the master can take them, which most would not survive
    become_subreaper()  # it outlasts the exec, so the master is spared the means to it
    record = os.memfd_create("holdfast-source", 0)
    os.write(record, msgspec.msgpack.encode(source))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "supervisor.master", str(record)])  # noqa: S606  # no shell on purpose


def resume(record: int) -> int:
    """What `exec_master` began: read the source, then run. Returns the exit code."""
    try:
        source = msgspec.msgpack.decode(os.pread(record, os.fstat(record).st_size, 0), type=Source)
    except (OSError, msgspec.DecodeError) as error:
        raise ProtocolError(f"python -m supervisor.master is started by `holdfast run`, not by hand: {error}") from None
    os.close(record)
    return _run(load(source, read_settings(source.path)), source)


def preflight(memory: int) -> int:
    """Whether we could go on with the state in this memory: says who we are, or raises `ProtocolError`."""
    record.decode(read_memory(memory))
    print(msgspec.json.encode(Answer(__version__)).decode())
    return 0


def resume_upgraded(memory: int) -> int:
    """Go on with the state that this process has left in this memory before its `execv`. Returns the exit code."""
    kept = record.decode(read_memory(memory))
    if kept.own is None:
        raise ProtocolError("the state is another master's")
    settings = Settings(apps=tuple(app.settings for app in kept.apps), supervisor=kept.own.supervisor)
    return _run(settings, kept.own.source, kept)


def _keep_descriptors_to_ourselves() -> None:
    """What we were handed, by intent or by accident, crosses no further exec unless it is named there."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def run_master(settings: Settings, source: Source | None) -> int:
    """Run a master in this process, on this (the main) thread, until it is told to stop. Returns the exit code."""
    become_subreaper()
    return _run(settings, source)


def _run(settings: Settings, source: Source | None, kept: record.Master | None = None) -> int:
    listen_fds()  # systemd's variables are for us alone, whether the settings name its sockets or not
    _keep_descriptors_to_ourselves()
    title = current_title()
    set_title("master")
    reactor = Reactor(lambda error: _tell_error(journal, error))
    stdout, stderr = Sink(reactor, 1, "stdout"), Sink(reactor, 2, "stderr")
    journal = Journal(stdout, stderr, log_format=settings.supervisor.log_format)
    if kept is not None and kept.own is not None:
        journal.resume(kept.own.events, kept.own.unwritten)
    try:
        return Master(settings, source, reactor, journal).run(kept)
    except UserError as error:
        journal.event("log", str(error), level="error")
        return error.exit_code
    finally:
        journal.close()
        reactor.close()
        restore_title(title)


def _tell_error(journal: Journal, error: Exception) -> None:
    """An error of the master's own: told with its traceback, one line for each of the traceback's."""
    import traceback  # and the tokenizer with it: 0.2 MB that a healthy master never needs

    for line in "".join(traceback.format_exception(error)).splitlines():
        journal.event("log", line, level="error")
