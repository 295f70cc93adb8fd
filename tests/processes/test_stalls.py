"""Blocked event loops and stuck threads, named and ended: issue 5, points 1 to 3."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import Talk, ask, told

HERE = Path(__file__).parent
Told = dict[str, Any]


def stalling(folder: Path, *arguments: str, app: str = "stalls_app:app") -> Cluster:
    """A cluster of `stalls_app`, not started."""
    shutil.copy(HERE / "stalls_app.py", folder)
    return Cluster(folder, app, *arguments)


@contextlib.contextmanager
def asked(cluster: Cluster, *paths: str) -> Iterator[list[Talk]]:
    """Requests for these paths, under way."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Talk(cluster, 30.0)).send(path) for path in paths]


def event(cluster: Cluster, name: str, number: int = 0, **fields: object) -> Told:
    """The event of this name, with these fields, once it was told."""

    def found() -> list[Told]:
        return [it for it in told(cluster, name) if fields.items() <= it.items()][number:]

    return until(f"{name} {fields}", found)[0]


BLOCKS = {
    "a sleep": ("/nap?2", "stalls_app.py:25 in nap: time.sleep(seconds)"),
    "a sleep after it has waited": ("/later?2", "stalls_app.py:25 in nap: time.sleep(seconds)"),
    "a lock": ("/lock?2", "stalls_app.py:36 in block: HELD.acquire(timeout=amount)"),
    "C code that keeps the interpreter": ("/sum?8", "stalls_app.py:29 in add_up: return sum(range(count))"),
}


@pytest.mark.parametrize(("path", "line"), BLOCKS.values(), ids=BLOCKS.keys())
def test_a_blocked_loop_is_named_while_it_is_blocked(tmp_path: Path, path: str, line: str) -> None:
    with stalling(tmp_path, "-w", "1") as cluster, asked(cluster, path) as (talk,):
        stalled = event(cluster, "worker.stalled")
        talk.sock.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            talk.sock.recv(1)  # it is blocked still
        assert stalled["at"] == line
        assert line in stalled["message"]
        assert any(line in entry for entry in stalled["stack"])
        assert 0.5 <= stalled["seconds"] < 1.5
        assert cluster.workers()[0]["state"] == "stalled"
        assert cluster.app()["totals"]["stalls"] == 1
        talk.sock.settimeout(30.0)
        assert talk.answer()[0] == 200
        over = event(cluster, "worker.recovered", was="stalled")
        assert 0.5 <= over["seconds"] < 12.0
        until("ready again", lambda: cluster.workers()[0]["state"] == "ready")
        assert len(told(cluster, "worker.stalled")) == 1
        assert f"\n      {tmp_path.resolve()}/{line}" in cluster.log


@pytest.mark.parametrize("path", ["/nap", "/later", "/lock"])
def test_the_request_that_blocks_is_named_and_not_its_neighbours(tmp_path: Path, path: str) -> None:
    with stalling(tmp_path, "-w", "1") as cluster, asked(cluster, "/wait?3", "/wait?3"):
        until("both under way", lambda: cluster.workers()[0]["inflight"] == 2)
        with asked(cluster, f"{path}?1.5"):
            request = event(cluster, "worker.stalled")["request"]
    assert request["method"] == "GET"
    assert request["path"] == path
    assert 0.4 <= request["age_s"] < 1.5
    assert len(request["request_id"]) == 32


def test_blocks_close_together_are_told_once(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "1") as cluster:
        for _ in range(3):
            ask(cluster, "/nap?0.8")
        over = event(cluster, "worker.recovered", was="stalled")
        assert over["times"] == 3
        assert over["seconds"] == pytest.approx(2.4, abs=0.5)
        assert len(told(cluster, "worker.stalled")) == 1
        assert cluster.app()["totals"]["stalls"] == 1


def test_a_loop_past_the_timeout_is_replaced_first_and_then_killed(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "1", "--stall-timeout", "1.5") as cluster, asked(cluster, "/sum?60"):
        (worker,) = cluster.workers()
        last = event(cluster, "worker.stalled", level="error")
        assert last["why"].startswith("its event loop was blocked for 1.")
        assert any("in add_up" in line for line in last["stack"])
        end = event(cluster, "worker.exited")
        assert end["pid"] == worker["pid"]
        assert end["reason"].startswith("its event loop was blocked for 1.")
        assert end["reason"].endswith("past stall_timeout, 1.5 s; killed by SIGABRT")
        assert end["lost"] == 1
        names = [it["event"] for it in told(cluster) if it["event"].startswith("worker.")]
        assert names.index("worker.exited") > names.index("worker.ready", names.index("worker.recycled"))
        assert ask(cluster, "/pid") == str(cluster.workers()[0]["pid"])


def test_a_loop_that_does_not_even_die_of_abrt_is_killed(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "1", "--stall-timeout", "1") as cluster:
        (worker,) = cluster.workers()
        os.kill(worker["pid"], signal.SIGSTOP)
        stalled = event(cluster, "worker.stalled", level="warning")
        assert "T (stopped)" in stalled["message"]
        end = event(cluster, "worker.exited")
        assert end["reason"].endswith("past stall_timeout, 1 s; killed by SIGKILL")


def test_a_worker_that_comes_to_itself_before_its_heir_is_there_drains(tmp_path: Path) -> None:
    program = "\nimport os, time\nif os.path.exists('slow'): time.sleep(3)\n"
    with stalling(tmp_path, "-w", "1", "--stall-timeout", "1", "--preload", "off") as cluster:
        with (tmp_path / "stalls_app.py").open("a") as source:
            source.write(program)
        (tmp_path / "slow").touch()
        with asked(cluster, "/nap?2") as (talk,):
            event(cluster, "worker.recycled")
            assert talk.answer()[0] == 200
            assert event(cluster, "worker.exited")["message"] == "left, drained"


def test_a_budget_that_is_used_up_spares_the_worker(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "1", "--stall-timeout", "1", "--max-restarts", "0") as cluster:
        assert ask(cluster, "/nap?3") == str(cluster.workers()[0]["pid"])
        assert "not killed although it should be (its event loop was blocked for" in cluster.log
        assert told(cluster, "worker.exited") == []


def test_a_master_that_was_stopped_with_its_workers_blames_nobody(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "2", "--stall-timeout", "1") as cluster:
        everybody = [cluster.pid, *(worker["pid"] for worker in cluster.workers())]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in everybody if number == signal.SIGSTOP else reversed(everybody):
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                with pytest.raises(TimeoutError):
                    ask(cluster, "/pid", timeout=3.0)
        ask(cluster, "/wait?1.5")
        assert told(cluster, "worker.stalled") == []
        assert sorted([cluster.pid, *(worker["pid"] for worker in cluster.workers())]) == sorted(everybody)


def test_a_draining_worker_that_is_blocked_is_named_and_killed_too(tmp_path: Path) -> None:
    with stalling(tmp_path, "-w", "1", "--stall-timeout", "1.5") as cluster, asked(cluster, "/wait?0.5", "/later?30"):
        until("under way", lambda: cluster.workers()[0]["inflight"] == 2)
        old = cluster.workers()[0]["pid"]
        os.kill(old, signal.SIGTERM)
        assert event(cluster, "worker.stalled", pid=old)["at"].startswith("stalls_app.py:25")
        end = event(cluster, "worker.exited", pid=old)
        assert "past stall_timeout" in end["reason"]


def test_a_stuck_thread_is_named_once_with_its_stack(tmp_path: Path) -> None:
    with (
        stalling(tmp_path, "-w", "1", "--request-warn", "0.5", app="stalls_app:wsgi") as cluster,
        asked(cluster, "/lock?3") as (talk,),
    ):
        stalled = event(cluster, "worker.stalled")
        assert stalled["at"] == "stalls_app.py:36 in block: HELD.acquire(timeout=amount)"
        assert stalled["request"]["path"] == "/lock"
        assert stalled["thread"].startswith("web-")
        assert any("in wsgi" in line for line in stalled["stack"])
        assert cluster.workers()[0]["state"] == "ready"
        assert ask(cluster, "/pid") == str(stalled["pid"])
        assert talk.answer()[0] == 200
        over = event(cluster, "worker.recovered", was="stalled")
        assert over["seconds"] == pytest.approx(3.0, abs=0.5)
        assert len(told(cluster, "worker.stalled")) == 1


def test_a_thread_that_sends_something_now_and_then_is_not_stuck(tmp_path: Path) -> None:
    arguments = "-w", "1", "--threads", "2", "--request-warn", "0.5", "--stall-timeout", "1"
    with stalling(tmp_path, *arguments, app="stalls_app:wsgi") as cluster, ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda _: ask(cluster, "/slowly?3"), range(2))) == ["." * 15] * 2
        assert told(cluster, "worker.stalled") == []
        assert told(cluster, "worker.exited") == []


def test_a_worker_all_of_whose_threads_are_stuck_is_replaced_and_killed(tmp_path: Path) -> None:
    arguments = "-w", "1", "--threads", "2", "--request-warn", "0.3", "--stall-timeout", "1.5"
    with stalling(tmp_path, *arguments, app="stalls_app:wsgi") as cluster, asked(cluster, "/lock?30", "/nap?30"):
        (worker,) = cluster.workers()
        last = event(cluster, "worker.stalled", level="error")
        assert last["why"].startswith("all its 2 threads were stuck for 1.")
        assert sum("in wsgi" in line for line in last["stack"]) == 2
        end = event(cluster, "worker.exited")
        assert end["pid"] == worker["pid"]
        assert end["lost"] == 2
        assert ask(cluster, "/pid") != str(worker["pid"])


def test_one_free_thread_keeps_a_worker_alive(tmp_path: Path) -> None:
    arguments = "-w", "1", "--threads", "3", "--stall-timeout", "1"
    with stalling(tmp_path, *arguments, app="stalls_app:wsgi") as cluster, asked(cluster, "/lock?3", "/nap?3") as talks:
        assert [talk.answer()[0] for talk in talks] == [200, 200]
        assert told(cluster, "worker.exited") == []


def test_inline_a_wsgi_app_that_blocks_is_a_blocked_loop(tmp_path: Path) -> None:
    arguments = "-w", "1", "--threads", "1", "--stall-timeout", "1.5"
    with stalling(tmp_path, *arguments, app="stalls_app:wsgi") as cluster, asked(cluster, "/nap?30"):
        stalled = event(cluster, "worker.stalled")
        assert stalled["at"].startswith("stalls_app.py:25 in nap")
        assert stalled["request"]["path"] == "/nap"
        assert "past stall_timeout" in event(cluster, "worker.exited")["reason"]


def test_a_canary_that_blocks_is_named_and_its_release_goes_back(tmp_path: Path) -> None:
    program = "\nimport asyncio\nfirst = app\nasync def app(scope, receive, send):\n"
    program += "    asyncio.get_running_loop().call_later(0.3, nap, 2)\n    await first(scope, receive, send)\n"
    cluster = stalling(tmp_path, "-w", "2")
    cluster.arguments[cluster.arguments.index("--bake") + 1] = "5"
    with cluster:
        with (tmp_path / "stalls_app.py").open("a") as source:
            source.write(program)
        cluster.ctl("reload", "--no-wait")
        stalled = event(cluster, "worker.stalled")
        assert stalled["generation"] == 2
        assert stalled["at"] == "stalls_app.py:25 in nap: time.sleep(seconds)"
        verdict = until("the verdict", lambda: told(cluster, "roll.rolled_back"))[0]
        assert "stalled: its event loop is blocked for 1." in verdict["reason"]
