"""A blocking client of the control API: one connection a call, typed answers, errors for a person.

Invariant: a call ends within its timeout, with the master's answer or with a `UserError`: `NoMasterError` when nobody
(or nobody of ours) answers, `RefusedError` with the master's own words when it declines.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import h11
import msgspec

from supervisor.errors import NoMasterError, RefusedError, UsageError
from supervisor.messages.crash import CrashList, CrashReport, CrashSummary
from supervisor.messages.events import Event, from_object
from supervisor.messages.heap import Heap
from supervisor.messages.stacks import WorkerStacks
from supervisor.messages.status import Begun, RollStatus, Status, UpgradeStatus

TIMEOUT = 10.0  # seconds until a call gives up
SURVEY = 30.0  # that a worker gets to tell what it holds
MAX_ANSWER = 64 * 1024 * 1024
MAX_LINE = 16 * 1024 * 1024

_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds; see socket(7), SO_SNDTIMEO

T = TypeVar("T")


class Version(msgspec.Struct, frozen=True):
    """The answer to `/version`."""

    version: str
    pid: int


class _Error(msgspec.Struct):
    error: str


class _Begun(msgspec.Struct):
    generations: dict[str, int]
    rolls: dict[str, int] = {}

    def by_app(self) -> dict[str, Begun]:
        return {app: Begun(generation, self.rolls.get(app, 0)) for app, generation in self.generations.items()}


class _Rolls(msgspec.Struct):
    apps: dict[str, list[RollStatus]]


class _Upgrade(msgspec.Struct):
    upgrade: UpgradeStatus | None


class _Stacks(msgspec.Struct):
    workers: list[WorkerStacks]


class _Workers(msgspec.Struct):
    workers: int


class _Pids(msgspec.Struct):
    pids: list[int]


class ControlClient:
    """Calls the master behind the unix socket at `path`. `timeout` is in seconds and for a whole call."""

    def __init__(self, path: str, *, timeout: float = TIMEOUT) -> None:
        self.path = path
        self._timeout = timeout

    def status(self) -> Status:
        """A snapshot of everything."""
        return self._get("/status", Status)

    def version(self) -> Version:
        """The master's version and pid."""
        return self._get("/version", Version)

    def metrics(self) -> str:
        """Prometheus text exposition."""
        return self._call("GET", "/metrics").decode()

    def recent_events(self) -> list[Event]:
        """The last events, oldest first."""
        lines = self._call("GET", "/events").splitlines()
        return [from_object(self._decode(line, dict[str, Any])) for line in lines]

    def follow(self, *, recent: bool = False) -> EventStream:
        """Every event from now on; with `recent` the last ones first. Use it as a context manager, or close it."""
        exchange = _Exchange(self.path, time.monotonic() + self._timeout)
        try:
            exchange.send("GET", f"/events?follow=1&recent={recent:d}", b"")
            self._check(exchange)
        except BaseException:
            exchange.close()
            raise
        return EventStream(exchange)

    def reload(self, apps: Sequence[str] = ()) -> dict[str, Begun]:
        """Begin a rolling restart of these apps, or of all."""
        return self._post("/reload", {"apps": list(apps)}, _Begun).by_app()

    def rollback(self, apps: Sequence[str] = ()) -> dict[str, Begun]:
        """Begin to return these apps, or all that can, to the release before the last committed one."""
        return self._post("/rollback", {"apps": list(apps)}, _Begun).by_app()

    def rolls(self) -> dict[str, list[RollStatus]]:
        """The last twenty rolls of each app, oldest first."""
        return self._get("/rolls", _Rolls).apps

    def crashes(self) -> tuple[CrashSummary, ...]:
        """The crash reports there are, the newest last."""
        return self._get("/crashes", CrashList).crashes

    def crash(self, name: str) -> CrashReport:
        """One crash report, by its id or a part of it that is enough."""
        return self._get(f"/crashes/{quote(name, safe='')}", CrashReport)

    def start(self, target: str) -> None:
        """Begin to start what is stopped."""
        self._call("POST", "/start", {"target": target})

    def stop(self, target: str) -> None:
        """Begin to drain and stop."""
        self._call("POST", "/stop", {"target": target})

    def restart(self, target: str) -> None:
        """Begin to restart an app, or to replace a worker."""
        self._call("POST", "/restart", {"target": target})

    def scale(self, app: str, workers: str) -> int:
        """Set an app's number of workers, `N`, `+N`, `-N` or `auto`, and return the number."""
        return self._post("/scale", {"app": app, "workers": workers}, _Workers).workers

    def signal(self, name: str, target: str) -> list[int]:
        """Send a signal and return the pids it went to."""
        return self._post("/signal", {"signal": name, "target": target}, _Pids).pids

    def upgrade(self) -> UpgradeStatus:
        """Begin to become the holdfast that is installed now."""
        return self._post("/upgrade", {}, UpgradeStatus)

    def last_upgrade(self) -> UpgradeStatus | None:
        """How the last upgrade went, or goes."""
        return self._get("/upgrade", _Upgrade).upgrade

    def stack(self, target: str) -> list[WorkerStacks]:
        """What each process of a slot does now: its threads' and tasks' stacks."""
        return self._post("/stack", {"target": target}, _Stacks).workers

    def heap(self, target: str, seconds: float, frames: int = 1) -> Heap:
        """Have a worker find out what it holds, which takes so many seconds and some more."""
        patient = ControlClient(self.path, timeout=self._timeout + seconds + SURVEY)
        return patient._post("/heap", {"target": target, "seconds": seconds, "frames": frames}, Heap)

    def shutdown(self) -> None:
        """Begin to stop everything gracefully."""
        self._call("POST", "/shutdown", {})

    def is_answering(self) -> bool:
        """True while a master answers here."""
        try:
            self.version()
        except (NoMasterError, RefusedError):
            return False
        return True

    def process(self) -> int | None:
        """The pid of whoever listens here, as seen from here (SO_PEERCRED, unix(7)); None if it can't be seen."""
        exchange = _Exchange(self.path, time.monotonic() + self._timeout)
        try:
            return exchange.peer() or None
        finally:
            exchange.close()

    def _get(self, target: str, kind: type[T]) -> T:
        return self._decode(self._call("GET", target), kind)

    def _post(self, target: str, body: object, kind: type[T]) -> T:
        return self._decode(self._call("POST", target, body), kind)

    def _call(self, method: str, target: str, body: object = None) -> bytes:
        exchange = _Exchange(self.path, time.monotonic() + self._timeout)
        try:
            exchange.send(method, target, b"" if body is None else msgspec.json.encode(body))
            self._check(exchange)
            return exchange.rest()
        finally:
            exchange.close()

    def _check(self, exchange: _Exchange) -> None:
        status = exchange.status()
        if status < 400:
            return
        text = exchange.rest()
        try:
            reason = msgspec.json.decode(text, type=_Error).error
        except msgspec.DecodeError:
            reason = f"HTTP status {status}"
        raise RefusedError(reason)

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise NoMasterError(f"{self.path}: what answers there does not speak this holdfast: {error}") from error


class EventStream:
    """Events as they happen. `None` from `read` means that none came in time; `EOFError` that no more will come."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self._buffer = bytearray()

    def read(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting at most `timeout` seconds. Raises `EOFError` when the stream is over or broken."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise EOFError("a line without an end")
            self._exchange.deadline = deadline
            try:
                piece = self._exchange.data()
            except TimeoutError:
                return None
            except NoMasterError as error:
                raise EOFError(str(error)) from error
            if not piece:
                raise EOFError("the master ended the stream")
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return from_object(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError as error:
            raise EOFError(f"not an event: {error}") from error

    def __iter__(self) -> Iterator[Event]:
        """Events until the stream is over."""
        with contextlib.suppress(EOFError):
            while True:
                event = self.read()
                if event is not None:
                    yield event

    def close(self) -> None:
        self._exchange.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Exchange:
    """One request and its answer on a connection of its own; `deadline` is monotonic, None for no end."""

    def __init__(self, path: str, deadline: float | None) -> None:
        self.deadline = deadline
        self._path = path
        self._http = h11.Connection(h11.CLIENT)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect()
        except OSError as error:
            self.close()
            raise _cannot_connect(path, error) from error

    def peer(self) -> int:
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def send(self, method: str, target: str, body: bytes) -> None:
        headers = [("host", "holdfast"), ("connection", "close"), ("content-length", str(len(body)))]
        request = h11.Request(method=method, target=target, headers=headers)
        wire = b"".join(self._http.send(event) or b"" for event in (request, h11.Data(data=body), h11.EndOfMessage()))
        # A master that refuses may close before it has read all; what it said can still be read.
        try:
            self._within_deadline()
            self._sock.sendall(wire)
        except ConnectionError:
            pass
        except TimeoutError as error:
            raise _silent(self._path) from error

    def status(self) -> int:
        event = self._event()
        if not isinstance(event, h11.Response):
            raise NoMasterError(f"{self._path}: what listens there closed without an answer")
        return event.status_code

    def data(self) -> bytes:
        """The next piece of the answer, b"" at its end. Raises `TimeoutError` (nothing is lost) or `NoMasterError`."""
        event = self._event(patient=True)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def rest(self) -> bytes:
        answer = bytearray()
        while isinstance(event := self._event(), h11.Data):
            answer += event.data
            if len(answer) > MAX_ANSWER:
                raise NoMasterError(f"{self._path}: the answer does not end")
        return bytes(answer)

    def close(self) -> None:
        self._sock.close()

    def _event(self, *, patient: bool = False) -> object:
        """The next event of h11. Running out of time is the caller's to judge when `patient`."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._within_deadline()
                self._http.receive_data(self._sock.recv(65536))
        except TimeoutError as error:
            if patient:
                raise
            raise _silent(self._path) from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise NoMasterError(f"{self._path}: the connection broke off: {error}") from error
        return event

    def _connect(self) -> None:
        """Wait for a place in the socket's queue, where there is a crowd before it.

        Python makes a socket with a timeout non-blocking, and then the kernel does not wait but refuses (EAGAIN).
        """
        while True:
            self._within_deadline()
            left = self._sock.gettimeout()
            self._sock.settimeout(None)
            if left is not None:
                self._sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(*divmod(max(1, int(left * 1e6)), 10**6))
                )
            with contextlib.suppress(BlockingIOError):
                self._sock.connect(self._path)
                return

    def _within_deadline(self) -> None:
        if self.deadline is None:
            self._sock.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


def _silent(path: str) -> NoMasterError:
    return NoMasterError(f"{path}: the master does not answer; is it stopped or stuck?")


def _cannot_connect(path: str, error: OSError) -> NoMasterError | RefusedError | UsageError:
    if isinstance(error, FileNotFoundError):
        return NoMasterError(f"no master at {path}: there is no such socket; `holdfast run` starts one")
    if isinstance(error, ConnectionRefusedError):
        return NoMasterError(f"no master at {path}: nobody listens there any more; `holdfast run` starts one")
    if isinstance(error, TimeoutError):
        return NoMasterError(f"no master at {path}: it does not accept; is it stopped or stuck?")
    if isinstance(error, PermissionError):
        return RefusedError(f"{path}: permission denied; use the user that runs holdfast, or root")
    if error.errno in (None, errno.ENAMETOOLONG):
        return UsageError(f"{path}: too long for a unix socket (107 bytes)")
    return NoMasterError(f"no master at {path}: {error.strerror}")
