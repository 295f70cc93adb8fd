"""Every process the master started or inherited, each watched through its pidfd and reaped exactly once.

Invariants:
- A pid is acted on only while its process is unreaped: through its pidfd, or while it can't be reused.
- While a fork is on its way and its pid not yet known, no stranger is reaped: the stranger may be that worker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from supervisor.kernel import procfs
from supervisor.kernel.oom import OomKills, Verdict
from supervisor.kernel.process import Ended, open_pidfd, reap, reap_orphans, send_signal
from supervisor.kernel.reactor import Reactor

_KILLERS = {  # of somebody who has just died by a KILL that was not ours
    Verdict.YES: "the kernel's OOM killer",
    Verdict.PERHAPS: "somebody else than holdfast, perhaps the OOM killer",
    Verdict.NO: "neither holdfast nor the OOM killer",
    Verdict.UNKNOWN: "somebody else than holdfast",
}


class Child:
    """One watched process. `on_end` runs once, after it was reaped and its pidfd closed."""

    __slots__ = ("killer", "on_end", "pid", "pidfd", "was_killed")

    def __init__(self, pid: int, pidfd: int, on_end: Callable[[Ended], None]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.on_end = on_end
        self.was_killed = False  # by us
        self.killer = ""  # once it has ended by a KILL that we have not sent: whose it was

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process has ended."""
        self.was_killed = self.was_killed or number == signal.SIGKILL
        return self.pidfd >= 0 and send_signal(self.pidfd, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


class Children:
    """The ledger."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._by_pid: dict[int, Child] = {}
        self._forks_on_their_way = 0
        self._oom = OomKills()
        self.on_empty: Callable[[], None] | None = None  # called whenever the last one has ended, and none may come

    def is_empty(self) -> bool:
        """Whether there is none, and none on its way: a worker whose spawner died before it could tell of it is found
        by its own first word."""
        return not (self._by_pid or self._forks_on_their_way)

    def watch(self, pid: int, on_end: Callable[[Ended], None]) -> Child:
        """Watch an unreaped child of ours, also one that has already ended."""
        try:
            return self._watch(pid, open_pidfd(pid), on_end)
        except ProcessLookupError:  # a child of our predecessor's spawner, which is reaped by another
            return self._ended(pid, on_end)

    def watch_again(self, pid: int, started: int, on_end: Callable[[Ended], None]) -> Child:
        """Watch a process that an earlier master has watched, and that began at `started` (`procfs.start_ticks`).

        If it is no more, its end is told in the next turn of the loop.
        """
        try:
            pidfd = open_pidfd(pid)
        except ProcessLookupError:
            return self._ended(pid, on_end)
        if procfs.start_ticks(pid) == started:
            return self._watch(pid, pidfd, on_end)
        os.close(pidfd)
        return self._ended(pid, on_end)

    def _watch(self, pid: int, pidfd: int, on_end: Callable[[Ended], None]) -> Child:
        child = Child(pid, pidfd, on_end)
        self._by_pid[pid] = child
        self._reactor.add_reader(child.pidfd, lambda: self._on_end(child))
        return child

    def _ended(self, pid: int, on_end: Callable[[Ended], None]) -> Child:
        """A process that nobody can be asked about any more."""
        child = Child(pid, -1, on_end)
        self._reactor.call_later(0, lambda: on_end(Ended(pid=pid, code=None, signal=None)))
        return child

    def look(self) -> None:
        """To be called each second: what the OOM killer has done is known by when it was counted."""
        self._oom.look(self._reactor.now(), self._by_pid)

    def fork_begins(self) -> None:
        """A worker whose pid is not yet known may be about to appear among our children."""
        self._forks_on_their_way += 1

    def fork_is_known(self) -> None:
        """The fork was answered (and its worker, if any, is watched by now), or never will be."""
        self._forks_on_their_way -= 1
        self.reap_strangers()
        self._tell_if_empty()

    def reap_strangers(self) -> None:
        """Reap what dead workers left behind: to be called after each SIGCHLD."""
        if not self._forks_on_their_way:
            reap_orphans(self._by_pid)

    def kill_all(self) -> None:
        """SIGKILL to everyone; their ends are reported as usual."""
        for child in list(self._by_pid.values()):
            child.kill()

    def _on_end(self, child: Child) -> None:
        ended = reap(child.pidfd)
        if ended is None:
            return
        self._reactor.remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        del self._by_pid[child.pid]
        # The kernel shows one ended child at a time: this one may have hidden a stranger.
        self.reap_strangers()
        if ended.signal == signal.SIGKILL and not child.was_killed:
            child.killer = _KILLERS[self._oom.verdict(child.pid, self._reactor.now())]
        child.on_end(ended)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        if self.is_empty() and self.on_empty is not None:
            self.on_empty()
