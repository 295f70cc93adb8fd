"""What master, spawner and worker say to each other over their channels, as msgpack with a tag a type.

Invariant: every message is one of these frozen structs; an unknown tag or a wrong field is a `ProtocolError`, never a
guess. Descriptors travel beside a message in the order its docstring names.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from supervisor.config.settings import AppSettings, Interface, LogFormat
from supervisor.errors import ProtocolError
from supervisor.messages.heap import Heap
from supervisor.messages.stacks import Serving

Host = Annotated[str, msgspec.Meta(max_length=256)]
"""An IP address with its zone, or the path of a Unix socket (unix(7) allows 108 bytes)."""
MAX_UNREAD = 16 * 1024  # bytes read of a request that another worker is to begin


class Estate(msgspec.Struct, frozen=True):
    """What a master leaves to its spawners and workers, should it be killed: for the next master, or to be cleared.

    Descriptors: the taking end of its vault, the rendezvous's socket, the roll call, its stderr.
    """

    pid: int
    started: int  # with the pid it names one process (`procfs.start_ticks`)
    uid: int
    grace: float  # seconds that the next one has to come
    control: str  # the control path
    files: tuple[tuple[str, int], ...]  # socket files that the master has made, and their inodes


class Launch(msgspec.Struct, frozen=True, tag=True):
    """Master to a new spawner.

    Descriptors: the board, one listening socket for each of `listeners`, then those of the estate, if there is one.
    """

    settings: AppSettings
    home: str  # the release's directory, resolved: where the app runs and is imported from
    generation: int
    listeners: tuple[str, ...]  # the address each listening socket is bound to, as people write it
    log_format: LogFormat
    estate: Estate | None = None


class Adopted(msgspec.Struct, frozen=True, tag=True):
    """A new master to a spawner or worker of one that was killed: we are this process."""

    pid: int
    started: int


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Master to spawner.

    Descriptors: the worker's channel, its stdout, its stderr, its record of stacks, the access log if there is one.
    """

    worker: int
    slot: int
    row: int
    access_log: bool


class Imported(msgspec.Struct, frozen=True, tag=True):
    """Spawner to master: ready to fork. `interface` is None when the import is left to the workers."""

    preloaded: bool
    interface: Interface | None
    threads: tuple[str, ...]  # names of the threads that the import left running
    seconds: float


class ImportFailed(msgspec.Struct, frozen=True, tag=True):
    """Spawner to master: `reason` is one line; the traceback went to the spawner's stderr before."""

    reason: str


class Forked(msgspec.Struct, frozen=True, tag=True):
    """Spawner to master: the worker is (or was) this pid, which nobody but the master can reap."""

    worker: int
    pid: int


class ForkFailed(msgspec.Struct, frozen=True, tag=True):
    """Spawner to master: the kernel refused."""

    worker: int
    reason: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: lifespan is up, `ready_path` answered; it waits for `Admit` to take connections."""

    interface: Interface


class BootFailed(msgspec.Struct, frozen=True, tag=True):
    """Worker to master, just before it exits: why it never became ready."""

    kind: Literal["import", "lifespan", "ready_path", "other"]
    reason: str


class Faltered(msgspec.Struct, frozen=True, tag=True):
    """Worker to master, just before it exits: an error nobody caught ended its event loop."""

    reason: str


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: why it is not ready yet; told when the reason changes."""

    reason: str


class Probed(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: the status that `ready_path` has answered with; 0 for no answer, None when there is no path."""

    status: int | None


class Erred(msgspec.Struct, frozen=True, tag=True):
    """Worker on trial to master: it has just answered with an error; worth a look at the board."""


class Saturated(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: it has stopped taking connections, and why."""

    why: str


class Recovered(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: it takes connections again, after so long, and why."""

    seconds: float
    why: str


class TurnedAway(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: so many requests got 503 within so many seconds; for a while now none has."""

    requests: int
    seconds: float


class Stuck(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: this thread of its has been at one request for so long, and nothing comes of it."""

    thread: str
    seconds: float
    serving: Serving


class Unstuck(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: the request that `Stuck` was told of is over, after so many seconds in all."""

    thread: str
    seconds: float
    serving: Serving


class Show(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: write your stacks into your record."""


class Admit(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: take connections. One not admitted yet can be killed without anybody's loss.

    Descriptor: the taking end of the app's hand-over queue.
    """


class Inherit(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: take over connections that leaving workers hand over.

    Up to `share` connections of its own it takes them at once, beyond that only when nobody else does. None: it takes
    none any more.
    """

    share: int | None


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: leave within `timeout` seconds.

    `linger` bounds how long idle connections are kept; None keeps them to their own end. `sweep` asks to take first
    what waits in the accept queue and in the hand-over queue: nobody will be left to do so. Descriptor, if connections
    are to be handed over: the giving end of the app's hand-over queue. Sent again, it ends the handing over.
    """

    timeout: float
    linger: float | None
    sweep: bool = False


class Lend(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: give so many of your connections to another worker, each once it is between requests.

    Descriptor: the giving end of the app's hand-over queue. None with 0, which ends the giving.
    """

    connections: int


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """A worker to any other, by the app's queue: a connection between requests. Descriptor: its socket.

    Scheme, client and server are those of the connection itself, as its worker or a PROXY header has found them, and
    not what a proxy said of its last request. `until` is when it will have been idle for too long, on CLOCK_MONOTONIC,
    and `asked` how many requests it has had, where they are limited. `unread` is what its worker has read of a request
    that no app has seen, and of what came behind it.
    """

    scheme: Literal["http", "https"]
    client: tuple[Host, int] | None
    server: tuple[Host, int | None] | None
    until: float
    asked: Annotated[int, msgspec.Meta(ge=0)] = 0
    unread: Annotated[bytes, msgspec.Meta(max_length=MAX_UNREAD)] = b""


class Allow(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: take so many connections in all since you were made; None: as many as there is room for."""

    connections: int | None


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: ask the app for its `ready_path` once more, and answer with `Probed`."""


class Survey(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: find out what you hold, tracing allocations for so many seconds (0: not at all), and answer
    with `Surveyed`. Not sent again before that. `frames` are traced of each allocation's stack."""

    seconds: float
    frames: int


class Surveyed(msgspec.Struct, frozen=True, tag=True):
    """Worker to master: what it holds."""

    heap: Heap


class ReopenLogs(msgspec.Struct, frozen=True, tag=True):
    """Master to worker: write the access log to the descriptor beside this message from now on."""


ToSpawner = Launch | Fork | Adopted
FromSpawner = Imported | ImportFailed | Forked | ForkFailed
ToWorker = Admit | Inherit | Lend | Drain | Allow | Probe | Show | ReopenLogs | Survey | Adopted
FromWorker = (
    Ready
    | Waiting
    | Probed
    | Erred
    | BootFailed
    | Faltered
    | Saturated
    | Recovered
    | TurnedAway
    | Stuck
    | Unstuck
    | Surveyed
)

_encoder = msgspec.msgpack.Encoder()
_to_spawner: msgspec.msgpack.Decoder[ToSpawner] = msgspec.msgpack.Decoder(ToSpawner)
_from_spawner: msgspec.msgpack.Decoder[FromSpawner] = msgspec.msgpack.Decoder(FromSpawner)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_handed_over = msgspec.msgpack.Decoder(HandOver)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)

T = TypeVar("T")


def encode(message: ToSpawner | FromSpawner | ToWorker | FromWorker | HandOver) -> bytes:
    """One message as bytes for a channel."""
    return _encoder.encode(message)


def to_spawner(data: bytes) -> ToSpawner:
    """Decode what a spawner received. Raises `ProtocolError`."""
    return _decode(_to_spawner, data)


def from_spawner(data: bytes) -> FromSpawner:
    """Decode what a spawner sent. Raises `ProtocolError`."""
    return _decode(_from_spawner, data)


def to_worker(data: bytes) -> ToWorker:
    """Decode what a worker received. Raises `ProtocolError`."""
    return _decode(_to_worker, data)


def from_worker(data: bytes) -> FromWorker:
    """Decode what a worker sent. Raises `ProtocolError`."""
    return _decode(_from_worker, data)


def handed_over(data: bytes) -> HandOver:
    """Decode what a worker took from the hand-over queue. Raises `ProtocolError`."""
    return _decode(_handed_over, data)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a message between holdfast's processes: {error}") from error
