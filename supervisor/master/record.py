"""All that a master knows, as one record: for itself across an `execv`, or for its successor. Pure data.

Invariants:
- A descriptor stands here by its number in the process that wrote the record; -1 is none. What the reader has in its
  place it is told beside the record.
- Whoever reads may be newer than who wrote: a field may be added, with a default that means what was true before, and
  is never renamed, removed or given another meaning. `VERSION` grows when an older reader would get something wrong.
- Times are CLOCK_MONOTONIC seconds, which goes on for everybody until the machine is started anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from supervisor.config.load import Source
from supervisor.config.settings import AppSettings, Interface, Span, SupervisorSettings
from supervisor.errors import ProtocolError
from supervisor.fleet.records import Fleet
from supervisor.kernel.board import ROW_BYTES
from supervisor.master.place import Place
from supervisor.messages.events import Event
from supervisor.messages.state import NO_FD, Pipes
from supervisor.messages.status import AppState, RollStatus, UpgradeStatus
from supervisor.messages.wire import BootFailed
from supervisor.reload.records import Roll
from supervisor.watch.budget import Budget
from supervisor.watch.limits import Limits

VERSION = 1

Counters = Mapping[str, int]  # by name; one that the reader does not know it leaves out


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that has been asked for. Without a `pid` its fork is on its way, or its answer was lost."""

    number: int
    slot: int
    generation: int
    row: int
    began: float
    channel: int
    pipes: Pipes
    stacks: int = NO_FD
    pid: int = 0
    started: int = 0  # the process's start, in clock ticks since the machine's: with the pid it names one process
    why: str = ""
    is_doomed: bool = False
    is_dismissed: bool = False
    waiting_for: str = ""
    boot_failure: BootFailed | None = None
    early: tuple[bytes, ...] = ()  # messages that came before its pid was known
    is_leaving: bool = False
    is_admitted: bool = False
    interface: Interface | None = None
    limits: Limits = Limits()
    dropped: tuple[int, int] = (0, 0)


class Spawner(msgspec.Struct, frozen=True, kw_only=True):
    """One spawner's process. `pending` are the workers whose forks it has not answered yet."""

    pid: int
    started: int
    channel: int
    pipes: Pipes
    has_imported: bool = False
    import_failed: bool = False
    is_retired: bool = False
    failure: str = ""
    pending: tuple[int, ...] = ()


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One generation. `waiting` are the workers that are to be forked when its spawner can."""

    generation: int
    settings: AppSettings
    place: Place
    spawner: Spawner | None = None
    waiting: tuple[int, ...] = ()
    is_retired: bool = False
    is_preloaded: bool = False
    starts: int = 0
    failures: int = 0
    ready_at: float = 0.0
    retry_at: float | None = None  # a spawner is started then
    deadline: float | None = None  # by then it is to have imported


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """One listening socket. `address` is what was asked for, `path` the socket file that opening it has made."""

    address: str
    fd: int
    inherited: bool = False
    path: str = ""
    inode: tuple[int, int] | None = None
    terms: dict[str, Any] = {}


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """The hand-over queue's two ends."""

    give: int
    take: int
    toward: int | None = None


class Accounts(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of the workers that have ended."""

    dead: dict[int, Counters] = {}
    forgotten: Counters = {}
    ended: Counters = {}
    restarts: int = 0
    stalls: int = 0
    by_slot: dict[int, int] = {}


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One roll and its ledger."""

    status: RollStatus
    began: Counters
    closed: Counters | None = None
    leaving: dict[int, Counters] = {}


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The last rolls."""

    rolls: tuple[Account, ...] = ()
    began: float = 0.0
    verdicts: Counters = {}
    number: int = 0


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A release of which nothing is left, and that could be imported again."""

    settings: AppSettings
    place: Place


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of the release before."""

    next_count: int
    previous: int | None = None
    why_no_previous: str = ""
    remembered: Remembered | None = None
    returning: int | None = None


class Estate(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to spawners and workers. `tokens` tells under what each descriptor is kept in the vault."""

    give: int
    take: int
    meeting: int
    path: str
    inode: tuple[int, int] | None
    roll_call: int
    tokens: dict[int, int] = {}


class App(msgspec.Struct, frozen=True, kw_only=True):
    """One app."""

    settings: AppSettings
    generation: int
    count: int
    board: int
    relay: Relay
    fleet: Fleet
    roll: Roll
    rollout: Rollout
    book: Book
    accounts: Accounts
    budget: Budget = Budget()
    scaled_by_hand: Span | None = None  # the range that does not scale by itself for now
    state: AppState = "stopped"
    held: tuple[int, ...] = ()
    is_stopping: bool = False
    was_up: bool = False
    starts_again: bool = False
    listeners: tuple[Listener, ...] = ()
    access: dict[str, int] = {}
    releases: tuple[Release, ...] = ()
    workers: tuple[Worker, ...] = ()
    estate: Estate | None = None


class Clients(msgspec.Struct, frozen=True, kw_only=True):
    """The control socket, the lock that owns its path, and connections there that are between two requests."""

    path: str
    listener: int
    lock: int
    inode: tuple[int, int] | None = None
    idle: tuple[int, ...] = ()


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What is of use to the same process alone, in its next life."""

    source: Source
    supervisor: SupervisorSettings
    began: float
    is_ready: bool = False
    clients: Clients | None = None
    pidfile: str | None = None
    events: tuple[Event, ...] = ()
    unwritten: dict[str, bytes] = {}  # by stream: lines that its reader has not taken yet
    passed: tuple[int, ...] = ()  # descriptors that holdfast was started with, and that settings may name
    environment: dict[str, str] = {}  # of the same nature, and taken out of ours
    upgrade: UpgradeStatus | None = None


class Master(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `holdfast` is the version of who wrote it."""

    version: int = VERSION
    holdfast: str
    pid: int
    apps: tuple[App, ...]
    row_bytes: int  # of a worker's row on the board
    own: Own | None = None


class _Head(msgspec.Struct):
    version: int
    holdfast: str = "?"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Master)
_head = msgspec.msgpack.Decoder(_Head)


def encode(record: Master) -> bytes:
    """The record as bytes."""
    return _encoder.encode(record)


def decode(data: bytes) -> Master:
    """The record that `encode`, of this version or an older one, has made. Raises `ProtocolError` with the reason."""
    try:
        head = _head.decode(data)
        if head.version > VERSION:
            raise ProtocolError(
                f"the state is version {head.version}, written by holdfast {head.holdfast}; this one reads up to "
                f"version {VERSION}: it is older, and can't take over from a newer one"
            )
        kept = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the state can't be read: {error}") from None
    if kept.row_bytes != ROW_BYTES:
        raise ProtocolError(
            f"the workers of holdfast {head.holdfast} share their memory with the master in another way"
        )
    return kept


def heritage(record: App) -> Iterator[int]:
    """All that an app's part of the record names, and that another process can be given by the vault."""
    if record.estate is not None:
        yield from (record.estate.give, record.estate.meeting, record.estate.roll_call)
    spawners = [release.spawner for release in record.releases if release.spawner is not None]
    everybody: list[Worker | Spawner] = [*record.workers, *spawners]
    for child in everybody:
        yield from (child.channel, child.pipes.stdout.fd, child.pipes.stderr.fd)
    yield from (worker.stacks for worker in record.workers)
    yield from (listener.fd for listener in record.listeners)
    yield from (record.board, record.relay.give, record.relay.take, *record.access.values())


def all_descriptors(record: Master) -> set[int]:
    """All that the record names."""
    found = {fd for app in record.apps for fd in heritage(app)}
    found.update(app.estate.take for app in record.apps if app.estate is not None)
    if record.own is not None:
        found.update(record.own.passed)
        if (clients := record.own.clients) is not None:
            found.update((clients.listener, clients.lock, *clients.idle))
    return found - {NO_FD}


def translated(record: App, fds: Mapping[int, int], take: int) -> App:
    """The same with other descriptors in place of those of the process that wrote it; NO_FD where there is none.

    `take` is the vault's taking end, which is not in the vault.
    """

    def here(fd: int) -> int:
        return fds.get(fd, NO_FD)

    def pipes(kept: Pipes) -> Pipes:
        out, err = (replace(each, fd=here(each.fd)) for each in (kept.stdout, kept.stderr))
        return Pipes(stdout=out, stderr=err)

    def worker(kept: Worker) -> Worker:
        return replace(kept, channel=here(kept.channel), pipes=pipes(kept.pipes), stacks=here(kept.stacks))

    def release(kept: Release) -> Release:
        if kept.spawner is None:
            return kept
        spawner = replace(kept.spawner, channel=here(kept.spawner.channel), pipes=pipes(kept.spawner.pipes))
        return replace(kept, spawner=spawner)

    assert record.estate is not None
    estate = replace(
        record.estate,
        give=here(record.estate.give),
        take=take,
        meeting=here(record.estate.meeting),
        roll_call=here(record.estate.roll_call),
        tokens={here(fd): token for fd, token in record.estate.tokens.items() if fd in fds},
    )
    return replace(
        record,
        board=here(record.board),
        relay=replace(record.relay, give=here(record.relay.give), take=here(record.relay.take)),
        listeners=tuple(replace(each, fd=here(each.fd)) for each in record.listeners),
        access={path: here(fd) for path, fd in record.access.items()},
        releases=tuple(map(release, record.releases)),
        workers=tuple(map(worker, record.workers)),
        estate=estate,
    )


def without_secrets(record: App) -> App:
    """The same without what `env_file` and credentials hold, which is read again by who needs it."""

    def bare(place: Place) -> Place:
        return replace(place, secrets={})

    rollout = record.rollout
    if (remembered := rollout.remembered) is not None:
        rollout = replace(rollout, remembered=replace(remembered, place=bare(remembered.place)))
    releases = tuple(replace(each, place=bare(each.place)) for each in record.releases)
    return replace(record, releases=releases, rollout=rollout)
