"""A real ControlServer on a real reactor and unix socket, with a small supervision in memory behind it.

`python -m tests.control.stage SOCK [SCENE]` runs one in a process of its own, as holdfastctl meets it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from supervisor.control.access import Permit
from supervisor.control.server import ControlServer
from supervisor.errors import RefusedError
from supervisor.kernel.reactor import Reactor
from supervisor.messages.crash import (
    CrashRelease,
    CrashReport,
    CrashRequest,
    CrashSummary,
    End,
    LogLine,
    Moment,
)
from supervisor.messages.events import Event
from supervisor.messages.heap import Allocation, Container, Heap, Kind
from supervisor.messages.stacks import Frame, Serving, Stacks, TaskStack, ThreadStack, WorkerStacks
from supervisor.messages.status import (
    AppState,
    AppStatus,
    Begun,
    Ledger,
    RollStatus,
    SlotState,
    Status,
    Totals,
    UpgradeStatus,
    WorkerStatus,
)

HEAP = Heap(
    seconds=2.0,
    note="tracing ended early",
    traced_bytes=3 * 2**20,
    traced_count=5000,
    allocations=(
        Allocation(place="/srv/shop/cart.py:12", source="HELD.append({})", bytes=2 * 2**20, count=4000),
        Allocation(place="/srv/shop/cart.py:9", source="x = f()", by="/lib/y.py:7", bytes=2**20, count=1000),
    ),
    objects=123456,
    kinds=(Kind(name="dict", count=20000, grown=4000), Kind(name="shop.Cart", count=7)),
    containers=(Container(kind="list", length=4000, bytes=32 * 2**10, name="shop.HELD", holds="dict"),),
    longest_ms=2.5,
)


STACKS = WorkerStacks(
    app="web",
    slot=1,
    pid=1001,
    generation=1,
    state="stalled",
    blocked_s=2.5,
    stacks=Stacks(
        how="interrupted",
        threads=(
            ThreadStack(
                name="MainThread",
                runs_loop=True,
                frames=(Frame("/srv/shop/cart.py", 12, "total", "time.sleep(9)"),),
                serving=Serving(method="GET", path="/cart", age_s=2.6, request_id="4f"),
            ),
        ),
        tasks=(TaskStack(name="request", is_running=True, frames=(Frame("/srv/shop/\x1b.py", 3, "app"),)),),
        left_out=7,
    ),
)


def worker(slot: int, pid: int, generation: int = 1, state: SlotState = "ready") -> WorkerStatus:
    return WorkerStatus(
        slot=slot,
        pid=pid,
        generation=generation,
        state=state,
        uptime_s=75.0,
        inflight=1,
        connections=3,
        requests=12345,
        lag_ms=0.25,
        lag_max_ms=2.0,
        rss_bytes=50 * 2**20,
        pss_bytes=20 * 2**20,
        cpu_percent=12.5,
        restarts=0,
    )


def app(count: int = 2, *, state: AppState = "running", generation: int = 1, first_pid: int = 1000) -> AppStatus:
    if state == "stopped":
        workers = tuple(worker(slot, 0, generation, "stopped") for slot in range(1, count + 1))
    else:
        workers = tuple(worker(slot, first_pid + slot, generation) for slot in range(1, count + 1))
    return AppStatus(
        state=state,
        generation=generation,
        bind=("127.0.0.1:8000",),
        workers=workers,
        totals=Totals(requests=24690),
        last_roll=None,
    )


CRASH = CrashReport(
    id="20261121T070809.123-web-1-4242",
    ts=1795244889.123,
    app="web",
    slot=1,
    pid=4242,
    end=End(reason="killed by SIGSEGV", signal="SIGSEGV", was_ready=True),
    serving="serving POST /poison from 192.0.2.1 for 0.3 s, with 2 more under way",
    version="0.1.0",
    uptime_s=75.0,
    restarts=1,
    release=CrashRelease(3, "/srv/web", None, "0badcafe"),
    requests=(
        CrashRequest(method="POST", path="/poison", client="192.0.2.1", age_s=0.3, request_id="abc", is_running=True),
        CrashRequest(method="GET", path="/waits", client="", age_s=2.0),
    ),
    other_requests=1,
    stacks='Current thread 0x1 (most recent call first):\n  File "app.py", line 7 in poison',
    log=(LogLine(1795244889.0, "stderr", "about to \x1b[31mfall"),),
    history=(Moment(1.0, 50 * 2**20, 2.0, 3), Moment(0.0, None, 300.0, 3)),
)


class Scene:
    """A supervision in memory: commands take effect a little later, by the reactor's timers, and tell events."""

    def __init__(self, reactor: Reactor | None = None) -> None:
        self.reactor = reactor
        self.apps = {"web": app(), "api": app(1, state="stopped", first_pid=2000)}
        self.stopping = False
        self.calls: list[tuple[Any, ...]] = []
        self.listeners: list[Callable[[Event], None]] = []
        self.history: list[Event] = []
        self.next_pid = 3000
        self.last: UpgradeStatus | None = None
        self.outcome = {"verdict": "done", "to": "0.2.0"}
        self.on_shutdown: Callable[[], None] = lambda: None
        self.plot: Callable[[str, int], None] = self.commit
        self.boot: Callable[[str], None] = self.come_up

    def status(self) -> Status:
        state: Any = "stopping" if self.stopping else "running"
        return Status(version="0.1.0", pid=os.getpid(), uptime_s=3700.0, state=state, apps=dict(self.apps))

    def metrics(self) -> Iterator[str]:
        yield "# TYPE holdfast_up gauge\n"
        yield "holdfast_up 1\n"

    def reload(self, apps: Sequence[str]) -> dict[str, Begun]:
        self.calls.append(("reload", tuple(apps)))
        return self.roll(apps)

    def rollback(self, apps: Sequence[str]) -> dict[str, Begun]:
        self.calls.append(("rollback", tuple(apps)))
        return self.roll(apps)

    def roll(self, apps: Sequence[str]) -> dict[str, Begun]:
        names = list(apps) or [name for name, it in self.apps.items() if it.state != "stopped"]
        targets = {name: self.known(name).generation + 1 for name in names}
        for name, generation in targets.items():
            self.plot(name, generation)
        return {name: Begun(generation, generation) for name, generation in targets.items()}

    def rolls(self) -> dict[str, Sequence[RollStatus]]:
        return {name: [it.last_roll] if it.last_roll else [] for name, it in self.apps.items()}

    def crashes(self) -> Iterator[CrashSummary]:
        yield msgspec.json.decode(msgspec.json.encode(CRASH), type=CrashSummary)

    def crash(self, name: str) -> bytes:
        if not CRASH.id.endswith(name):
            raise RefusedError(f"no crash report {name!r}; `holdfastctl crashes` lists them")
        return msgspec.json.encode(CRASH)

    def start(self, target: str) -> None:
        self.calls.append(("start", target))
        name = self.named(target)
        if self.apps[name].state != "stopped":
            raise RefusedError(f"{name} is running already")
        slots = tuple(worker(each.slot, 0, state="starting") for each in self.apps[name].workers)
        self.change(name, state="starting", workers=slots)
        self.boot(name)

    def stop(self, target: str) -> None:
        self.calls.append(("stop", target))
        name = self.named(target)
        if ":" in target:
            slot = int(target.partition(":")[2])
            kept = [each if each.slot != slot else worker(slot, 0, state="stopped") for each in self.apps[name].workers]
            self.later(0.15, lambda: self.change(name, workers=tuple(kept)))
        else:
            self.later(0.15, lambda: self.become(name, app(len(self.apps[name].workers), state="stopped")))

    def restart(self, target: str) -> None:
        self.calls.append(("restart", target))
        name = self.named(target)
        self.later(0.15, lambda: self.become(name, app(len(self.apps[name].workers), first_pid=self.pids())))

    def scale(self, app: str, workers: str) -> int:
        self.calls.append(("scale", app, workers))
        now = len(self.known(app).workers)
        return max(1, now + int(workers) if workers[0] in "+-" else int(workers))

    def signal(self, name: str, target: str) -> list[int]:
        self.calls.append(("signal", name, target))
        return [each.pid for each in self.apps[self.named(target)].workers]

    def stack(self, target: str, on_answer: Callable[[Sequence[WorkerStacks]], None]) -> None:
        self.calls.append(("stack", target))
        self.named(target)
        if ":" not in target:
            raise RefusedError(f"one worker, such as {target}:1, not {target}")
        self.later(0.1, lambda: on_answer([STACKS]))

    def heap(self, target: str, seconds: float, frames: int, on_answer: Callable[[Heap | RefusedError], None]) -> None:
        self.calls.append(("heap", target, seconds, frames))
        self.named(target)
        if ":" not in target:
            raise RefusedError(f"one worker, such as {target}:1, not {target}")
        gone = RefusedError("the worker has ended meanwhile")
        self.later(0.1, lambda: on_answer(gone if target.endswith(":2") else HEAP))

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))
        self.stopping = True
        self.emit("master.stopping", "asked to by holdfastctl")
        self.on_shutdown()

    def upgrade(self) -> UpgradeStatus:
        self.calls.append(("upgrade",))
        self.last = UpgradeStatus(number=1 + (self.last.number if self.last else 0), from_="0.1.0")
        done = msgspec.structs.replace(self.last, seconds=0.3, **self.outcome)
        self.later(0.3, lambda: setattr(self, "last", done))
        return self.last

    def last_upgrade(self) -> UpgradeStatus | None:
        return self.last

    def recent_events(self) -> Sequence[Event]:
        return list(self.history)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    # What happens behind the door

    def known(self, name: str) -> AppStatus:
        if name == "broken":
            raise ZeroDivisionError("a bug in the master")
        if name not in self.apps:
            raise RefusedError(f"no app called {name!r}; there is {', '.join(self.apps)}")
        return self.apps[name]

    def named(self, target: str) -> str:
        name = target.partition(":")[0]
        self.known(name)
        return name

    def pids(self) -> int:
        self.next_pid += 100
        return self.next_pid

    def later(self, delay: float, action: Callable[[], None]) -> None:
        assert self.reactor is not None
        self.reactor.call_later(delay, action)

    def become(self, name: str, status: AppStatus) -> None:
        self.apps[name] = status

    def change(self, name: str, **changes: Any) -> None:
        self.apps[name] = msgspec.structs.replace(self.apps[name], **changes)

    def emit(self, name: str, text: str, app: str | None = None, **more: Any) -> None:
        known = {key: more.pop(key) for key in ("slot", "pid", "generation", "level") if key in more}
        event = Event(ts=time.time(), name=name, text=text, app=app, fields=more, **known)
        self.history.append(event)
        for listener in list(self.listeners):
            listener(event)

    def burst(self, count: int, text: str = "number") -> None:
        """Many events of more than 500 bytes in one turn."""
        for number in range(count):
            self.emit("log", f"{text} {number} " + "x" * 500)

    def begin(self, name: str, to: int) -> None:
        roll = RollStatus(from_=to - 1, to=to, verdict="running", reason="", seconds=0.0, number=to)
        self.change(name, state="rolling", last_roll=roll)
        self.emit("roll.started", f"generation {to - 1} to {to}", name, **{"from": to - 1, "to": to, "number": to})

    def end(self, name: str, to: int, event: str, reason: str = "", **more: Any) -> None:
        verdict: Any = event.removeprefix("roll.")
        ledger = Ledger(accepted=7, completed=6, under_way=1, handed_over=3)
        roll = RollStatus(
            from_=to - 1, to=to, verdict=verdict, reason=reason, seconds=0.5, number=to, at=1.7e9, ledger=ledger
        )
        kept = to if verdict == "committed" else to - 1
        self.change(name, state="running", generation=kept, last_roll=roll)
        fields = {"from": to - 1, "to": to, "number": to, "seconds": 0.5, "reason": reason} | more
        fields["ledger"] = msgspec.to_builtins(ledger)
        self.emit(event, reason or "every worker is new", name, **fields)

    def come_up(self, name: str) -> None:
        self.later(0.15, lambda: self.become(name, app(len(self.apps[name].workers), first_pid=self.pids())))

    def fail_to_start(self, name: str) -> None:
        def fail() -> None:
            self.change(name, state="failed", workers=(worker(1, 0, state="backoff"),))
            self.emit("worker.exited", "can't import: ModuleNotFoundError: nope", name, slot=1, level="error")
            self.emit("app.failed", "every worker dies", name, level="error")

        self.later(0.15, fail)

    def give_up_start(self, name: str) -> None:
        """The master itself can't."""
        self.later(0.1, lambda: self.change(name, state="stopped"))
        text = "can't be started again: 127.0.0.1:8000 is in use"
        self.later(0.1, lambda: self.emit("log", text, name, level="error"))

    def never_start(self, name: str) -> None:
        pass

    def commit(self, name: str, to: int) -> None:
        """A good release: begun at once, a step a worker, then committed."""
        self.begin(name, to)
        count = len(self.apps[name].workers)
        for number in range(1, count + 1):
            text = f"worker {number} replaced ({number} of {count})"
            step = {"slot": number, "done": number, "total": count}
            self.later(0.1 * number, functools.partial(self.emit, "roll.step", text, name, **step))
        self.later(0.1 * (count + 1), lambda: self.end(name, to, "roll.committed"))

    def roll_back(self, name: str, to: int) -> None:
        """A release that does not import."""
        self.begin(name, to)
        output = ["Traceback (most recent call last):", '  File "app.py", line 1', "ModuleNotFoundError: nope"]
        reason = "the app can't be imported: ModuleNotFoundError: nope"
        self.later(0.2, lambda: self.end(name, to, "roll.rolled_back", reason, output=output))

    def supersede(self, name: str, to: int) -> None:
        """A newer release is asked for while this one is on its way."""
        self.begin(name, to)
        more = {"superseded_by": to + 1}
        self.later(0.1, lambda: self.end(name, to, "roll.rolled_back", "a newer release came", **more))
        self.later(0.15, lambda: self.begin(name, to + 1))
        self.later(0.3, lambda: self.end(name, to + 1, "roll.committed"))

    def deaf(self, name: str, to: int) -> None:
        """A roll whose events nobody hears: their stream breaks first."""
        self.listeners.clear()
        self.subscribe = lambda listener: lambda: None  # type: ignore[method-assign]
        self.begin(name, to)
        self.later(0.3, lambda: self.end(name, to, "roll.committed"))

    def bad_code(self, name: str, to: int) -> None:
        """Nothing rolls: upgrades are refused."""

    def endless(self, name: str, to: int) -> None:
        """A roll that does not end while anyone looks."""
        self.begin(name, to)


class Stage:
    """The reactor runs in a thread of the test; `errors` are what escaped from callbacks."""

    def __init__(self, path: str, permit: Permit | None = None) -> None:
        self.path = path
        self.errors: list[Exception] = []
        self.reactor = Reactor(self.errors.append)
        self.scene = Scene(self.reactor)
        self._todo: list[Callable[[], None]] = []
        self._read, self._write = os.pipe()
        self.reactor.add_reader(self._read, self._on_todo)
        self.server = ControlServer(listen(path), self.reactor, self.scene, permit=permit)
        self._thread = threading.Thread(target=self.reactor.run, daemon=True)
        self._thread.start()

    def run(self, *actions: Callable[[], object]) -> None:
        """Do `actions` on the reactor's thread, in one turn, and return when they are done."""
        done = threading.Event()

        def act() -> None:
            try:
                for action in actions:
                    action()
            finally:
                done.set()

        self._todo.append(act)
        os.write(self._write, b"x")
        assert done.wait(10), "the reactor is stuck"

    def close(self) -> None:
        self.run(self.server.close, self.reactor.stop)
        self._thread.join(10)
        self.reactor.close()
        os.close(self._read)
        os.close(self._write)

    def _on_todo(self) -> None:
        os.read(self._read, 4096)
        while self._todo:
            self._todo.pop(0)()


@contextlib.contextmanager
def stage(path: str, permit: Permit | None = None) -> Iterator[Stage]:
    it = Stage(path, permit)
    try:
        yield it
    finally:
        it.close()


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(256)
    return listener


def main(path: str, plot: str = "commit") -> None:
    """Serve until shut down or terminated."""

    def crash(error: Exception) -> None:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)

    reactor = Reactor(crash)
    scene = Scene(reactor)
    if plot == "bad_code":
        scene.outcome = {"verdict": "refused", "reason": "it does not start"}
    setattr(scene, "boot" if plot.endswith("start") else "plot", getattr(scene, plot))
    listener = listen(path)
    server = ControlServer(listener, reactor, scene)

    def leave() -> None:
        server.close()
        os.unlink(path)
        reactor.stop()

    scene.on_shutdown = lambda: scene.later(0.2, leave)
    reactor.on_signal(signal.SIGTERM, leave)
    print("listening", flush=True)
    reactor.run()
    reactor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
