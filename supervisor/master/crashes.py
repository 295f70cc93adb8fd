"""One app's crashes: what a dead worker leaves is gathered before it is gone, kept as a report, and put into words.

Invariant: it is asked once for each ended worker, while its board row, its stacks and its last lines are still there;
what it decides is only whether an end was ordered. Who dies of what is `watch.poison`'s to say.
"""

from __future__ import annotations

import binascii
import re
import signal
import time

import msgspec

from supervisor import __version__
from supervisor.config.settings import AppSettings
from supervisor.kernel.process import Ended, signal_name
from supervisor.master.place import Place
from supervisor.master.releases import Release
from supervisor.master.worker import Worker
from supervisor.messages.crash import CrashRelease, CrashReport, CrashRequest, End, LogLine, Moment
from supervisor.observe.crash import MAX_STACKS, CrashStore, without
from supervisor.observe.flight import Flight
from supervisor.watch import poison

_CURRENT_THREAD = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


class Crash(msgspec.Struct, frozen=True):
    """A worker's abnormal end. `serving` goes on after its reason in the log, `request` is what it was running, if that
    is certain; `report` is the id of what was kept, empty if nothing could be; `poison` are kinds of requests to be
    called out."""

    serving: str
    request: str
    report: str
    poison: tuple[str, ...]


class Crashes:
    """`ended` is to be called for every worker that has ended."""

    def __init__(self, app: str, store: CrashStore) -> None:
        self._app = app
        self._store = store
        self._poison = poison.Poison()

    def ended(self, worker: Worker, reason: str, release: Release, restarts: int, now: float) -> Crash | None:
        """What there is to say of its end; None when it was no crash."""
        if worker.ended is None or not _is_crash(worker, worker.ended):
            return None
        stacks = worker.last_stacks()[:MAX_STACKS]
        flight = worker.flight()
        if (thread := _CURRENT_THREAD.search(stacks)) is not None:
            flight = flight.blamed_on(int(thread[1], 16))
        kinds = {poison.signature(each.method, each.path) for each in flight.suspects}
        self._poison, called_out = poison.died(self._poison, kinds, now)
        report = CrashReport(
            id="",
            ts=time.time(),
            app=self._app,
            slot=worker.slot,
            pid=worker.pid,
            end=_end(worker, worker.ended, reason),
            serving=str(flight),
            version=__version__,
            uptime_s=round(now - worker.began, 3),
            restarts=restarts,
            release=CrashRelease(
                release.generation, release.place.home, release.place.python, digest(release.settings)
            ),
            requests=_requests(flight),
            other_requests=flight.others,
            stacks=stacks,
            log=worker.pipes.last_lines(),
            history=(*worker.history.moments(now), Moment(0.0, None, worker.lag_ms(now), worker.inflight)),
        )
        report = _named(_hide(report, release.settings, release.place))
        kept = self._store.write(report)
        serving = f" while {flight}" if flight.count else ""
        certain = flight.running is not None and flight.is_certain
        return Crash(serving, str(flight.running) if certain else "", report.id if kept else "", called_out)


def digest(settings: AppSettings) -> str:
    """Eight hex digits, the same for equal settings. The values of variables have no part in it."""
    public = msgspec.structs.replace(settings, env=dict.fromkeys(sorted(settings.env), ""))
    return f"{binascii.crc32(msgspec.json.encode(public)):08x}"


def _is_crash(worker: Worker, ended: Ended) -> bool:
    """Whether it has ended as nobody wanted. Without being told to it may leave, when TERM asks it, but with nobody's
    request in its hands."""
    if worker.is_dismissed and ended.signal == signal.SIGKILL:
        return False
    return not ended.is_clean or (not worker.is_leaving and worker.inflight > 0)


def _end(worker: Worker, ended: Ended, reason: str) -> End:
    return End(
        reason=reason or str(ended),
        signal=None if ended.signal is None else signal_name(ended.signal),
        exit_code=ended.code,
        core_dumped=ended.dumped,
        was_ready=worker.is_admitted,
    )


def _requests(flight: Flight) -> tuple[CrashRequest, ...]:
    return tuple(
        CrashRequest(
            method=each.method,
            path=each.path,
            client=each.client,
            age_s=each.age_s,
            request_id=each.request_id,
            is_running=flight.is_certain and each is flight.running,
        )
        for each in flight.requests
    )


def _hide(report: CrashReport, settings: AppSettings, place: Place) -> CrashReport:
    """The report without the values of variables that the settings, or the files they name, have given to the app."""
    secrets = {*settings.env.values(), *place.secrets.values()}
    if not secrets:
        return report
    return msgspec.structs.replace(
        report,
        end=msgspec.structs.replace(report.end, reason=without(report.end.reason, secrets)),
        stacks=without(report.stacks, secrets),
        log=tuple(LogLine(each.ts, each.stream, without(each.line, secrets)) for each in report.log),
    )


def _named(report: CrashReport) -> CrashReport:
    """With its id: when, to the millisecond and in UTC, and who; ids sort by time."""
    whole, fraction = divmod(report.ts, 1)
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(whole))
    name = f"{when}.{int(fraction * 1000):03d}-{report.app}-{report.slot}-{report.pid}"
    return msgspec.structs.replace(report, id=name)
