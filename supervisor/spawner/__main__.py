"""The spawner's life: read its `Launch`, import, then fork on request until the master closes the channel.

Invariants:
- It runs no thread, and no event loop but the rehearsal's, which is closed before the first fork: so a fork copies one
  thread in a known state.
- It handles one request at a time and answers each with exactly one message.
- A worker's parent is never the spawner: an intermediate child forks it and exits, so that the kernel hands it to the
  nearest subreaper, the master, which alone can reap it (prctl(2), PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from supervisor.config.settings import Interface
from supervisor.errors import AppError, SurroundingsError
from supervisor.kernel.channel import Channel
from supervisor.kernel.descriptors import raise_descriptor_limit
from supervisor.kernel.memory import settle
from supervisor.kernel.signalstack import widen_signal_stack
from supervisor.kernel.stacks import DUMP, SHOW
from supervisor.kernel.title import set_title
from supervisor.messages.wire import (
    Adopted,
    Fork,
    Forked,
    ForkFailed,
    FromSpawner,
    Imported,
    ImportFailed,
    Launch,
    encode,
    to_spawner,
)
from supervisor.serve.edge.tls import Tls, load_tls
from supervisor.spawner.importing import LoadedApp, load_app, load_hooks, prepare
from supervisor.worker.hooks import WorkerHooks, WorkerInfo
from supervisor.worker.output import guard_standard_streams
from supervisor.worker.process import run
from supervisor.worker.seat import Seat
from supervisor.worker.trustee import Trustee

CHANNEL_FD = 3


@dataclass(frozen=True, slots=True)
class Release:
    """What this spawner forks from."""

    launch: Launch
    board: int
    listeners: tuple[int, ...]
    loaded: LoadedApp | None
    hooks: WorkerHooks | None  # None: the workers import them, as they do the app
    tls: Tls | None
    trustee: Trustee | None


def main() -> int:
    """Serve the master. Returns in the spawner when it is retired, and in each forked worker when that ends."""
    ignore_terminal_signals()
    guard_standard_streams()
    widen_signal_stack()
    raise_descriptor_limit()
    channel = Channel.from_fd(CHANNEL_FD)
    channel.set_blocking(True)
    if len(sys.argv) > 1:
        launch, fds, threads = _resumed(sys.argv[1:])
    else:
        received = channel.receive()
        if received is None:
            return 0
        message = to_spawner(received[0])
        assert isinstance(message, Launch)
        launch, fds, threads = message, received[1], ()
    _title(launch, "importing")
    try:
        release = _import(launch, fds, threads, channel)
    except (AppError, SurroundingsError) as error:
        _tell(channel, ImportFailed(str(error)))
        os._exit(1)  # a thread that the app has started must not keep a failed release alive
    _title(launch, "spawner")
    seat = _attend(channel, release)
    return run(seat) if seat is not None else 0


def ignore_terminal_signals() -> None:
    """Stray signals meant for the master (`pkill -USR2 holdfast`) end nobody here, nor do those that ask for stacks.

    An empty handler, not SIG_IGN: commands that the app starts must find the defaults.
    """
    stray = signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU
    for number in (*stray, SHOW, DUMP):
        signal.signal(number, lambda *_: None)


def _import(launch: Launch, fds: list[int], threads: tuple[str, ...], channel: Channel) -> Release:
    settings = launch.settings
    start = os.getcwd()
    tls = load_tls(settings)
    trustee = _trustee(launch, fds)
    prepare(settings, launch.home)
    loaded = hooks = None
    if settings.preload != "off" and not threads:
        hooks = load_hooks(settings)
        loaded = load_app(settings)
        if loaded.threads and settings.preload == "auto":
            os.chdir(start)  # what is relative in the settings is so to where holdfast was started
            _start_over(launch, fds, loaded.threads)
        threads = loaded.threads
    _clear_method_cache()
    if loaded is not None:
        from supervisor.worker.rehearsal import rehearse  # now, so that importing is rehearsed as well

        rehearse(settings, loaded.interface, tls)
    gc.collect()
    gc.freeze()
    settle()
    answer = Imported(
        preloaded=loaded is not None,
        interface=loaded.interface if loaded else settings.interface,
        threads=threads,
        seconds=loaded.seconds if loaded else 0.0,
    )
    _tell(channel, answer)
    return Release(launch, fds[0], tuple(fds[1 : 1 + len(launch.listeners)]), loaded, hooks, tls, trustee)


def _clear_method_cache() -> None:
    """What the import has put there is thrown out bit by bit later, and each name that is touched then is a page."""
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # of 3.13 and later; up to 3.12
    clear()


def _start_over(launch: Launch, fds: list[int], threads: tuple[str, ...]) -> NoReturn:
    """Threads can't be forked: exec again, with the same descriptors, and leave the import to the workers."""
    record = os.memfd_create("holdfast-launch", 0)
    os.write(record, encode(launch))
    for fd in (CHANNEL_FD, *fds):
        os.set_inheritable(fd, True)
    arguments = [str(record), ",".join(str(fd) for fd in fds), *threads]
    os.execv(sys.executable, [*sys.orig_argv, *arguments])  # noqa: S606  # no shell on purpose


def _resumed(arguments: list[str]) -> tuple[Launch, list[int], tuple[str, ...]]:
    """What `_start_over` left: the launch record's descriptor, those that belong to it, the threads found."""
    record, numbers, *threads = arguments
    size = os.fstat(int(record)).st_size
    launch = to_spawner(os.pread(int(record), size, 0))
    os.close(int(record))
    assert isinstance(launch, Launch)
    fds = [int(number) for number in numbers.split(",")]
    for fd in fds:
        os.set_inheritable(fd, False)
    return launch, fds, tuple(threads)


def _attend(channel: Channel, release: Release) -> Seat | None:
    """Fork until the master is gone (None). In a worker, returns its seat."""
    while (received := _next(channel, release)) is not None:
        data, fds = received
        request = to_spawner(data)
        if isinstance(request, Adopted) and release.trustee is not None:
            release.trustee.obey(request.pid, request.started)
            continue
        assert isinstance(request, Fork)
        try:
            if release.hooks is not None:
                release.hooks.call("before_fork", _info(release, request))
            pid = _fork_twice()
        except AppError as error:
            _tell(channel, ForkFailed(request.worker, str(error)))
            pid = -1
        except OSError as error:
            _tell(channel, ForkFailed(request.worker, f"fork: {error.strerror}"))
            pid = -1
        if pid == 0:
            channel.close()
            return _seat(release, request, fds)
        if pid > 0:
            _tell(channel, Forked(request.worker, pid))
        for fd in fds:
            os.close(fd)
    return None


def _next(channel: Channel, release: Release) -> tuple[bytes, list[int]] | None:
    """The next message; None when there is no master, or none has come in the place of one that was killed."""
    trustee = release.trustee
    if trustee is not None and _is_forsaken(channel, trustee):
        for fd in release.listeners:
            os.close(fd)
        trustee.clean_up()
        return None
    return channel.receive()


def _is_forsaken(channel: Channel, trustee: Trustee) -> bool:
    """Wait for a message, also of another master. True when there is no master and the time is over."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if trustee.has_master:
        poll.register(trustee.watched, select.POLLIN)
        if any(fd == channel.fileno() for fd, _ready in poll.poll()):
            return False
        poll.unregister(trustee.watched)
    poll.register(trustee.meeting, select.POLLIN)
    deadline = time.monotonic() + trustee.estate.grace
    while (left := deadline - time.monotonic()) > 0:
        ready = [fd for fd, _ready in poll.poll(left * 1000)]
        if channel.fileno() in ready:
            return False
        if ready:
            trustee.answer()
    return True


def _trustee(launch: Launch, fds: list[int]) -> Trustee | None:
    if launch.estate is None:
        return None
    trustee = Trustee(
        launch.estate, fds[1 + len(launch.listeners) :], launch.log_format, launch.settings.name, launch.generation
    )
    trustee.be_counted()
    return trustee


def _tell(channel: Channel, message: FromSpawner) -> None:
    with contextlib.suppress(ConnectionError):  # the master is gone or wants no more of this release: we leave next
        channel.send(encode(message))


def _fork_twice() -> int:
    """0 in the new worker; in the spawner the worker's pid. Raises OSError when the kernel refuses either fork."""
    sys.stdout.flush()  # or each worker would print what still waits in the buffers
    sys.stderr.flush()
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(read)
        _fork_and_leave(write)
        os.close(write)
        return 0
    os.close(write)
    told = b""
    while chunk := os.read(read, 32):
        told += chunk
    os.close(read)
    os.waitpid(middle, 0)
    number = int(told or b"0")
    if number <= 0:
        raise OSError(-number, os.strerror(-number) if number else "the intermediate process died")
    return number


def _fork_and_leave(write: int) -> None:
    """In the intermediate process: fork the worker, tell its pid, exit. Returns in the worker only."""
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid != 0:
        try:
            os.write(write, str(pid).encode())
        finally:  # a spawner killed meanwhile hears nothing any more, and this process must not go on in its place
            os._exit(0)


def _seat(release: Release, request: Fork, fds: list[int]) -> Seat:
    channel, stdout, stderr, stacks, *access = fds
    return Seat(
        settings=release.launch.settings,
        generation=release.launch.generation,
        slot=request.slot,
        row=request.row,
        board=release.board,
        listeners=release.listeners,
        log_format=release.launch.log_format,
        channel=channel,
        stdout=stdout,
        stderr=stderr,
        stacks=stacks,
        access_log=access[0] if access else None,
        trustee=release.trustee,
        tls=release.tls,
        worker=_info(release, request),
        load=lambda: _app_of(release),
        load_hooks=lambda: release.hooks or load_hooks(release.launch.settings),
    )


def _info(release: Release, request: Fork) -> WorkerInfo:
    return WorkerInfo(release.launch.settings.name, request.slot, release.launch.generation)


def _app_of(release: Release) -> tuple[object, Interface]:
    loaded = release.loaded or load_app(release.launch.settings)
    return loaded.app, loaded.interface


def _title(launch: Launch, state: str) -> None:
    set_title(f"{launch.settings.name} g{launch.generation} {state}")


if __name__ == "__main__":
    sys.exit(main())
