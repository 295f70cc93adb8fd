"""`holdfastctl stack`: what a worker does, whatever it does: issue 5, point 4."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from supervisor.worker.witness import PICTURE_EVERY
from tests.processes.cluster import Cluster, until
from tests.processes.deeds import told
from tests.processes.test_stalls import asked, stalling

QUIET = "--stall-warn", "0", "--stall-timeout", "0"


@contextlib.contextmanager
def doing(folder: Path, *arguments: str, app: str = "stalls_app:app") -> Iterator[Cluster]:
    """A cluster whose workers are killed in the end, whatever they are still doing."""
    with stalling(folder, *arguments, app=app) as cluster:
        yield cluster
        for worker in cluster.workers():
            os.kill(worker["pid"], signal.SIGKILL)


def stack(cluster: Cluster, target: str = "web:1") -> dict[str, Any]:
    """The first process of the answer, which took no longer than it may."""
    began = time.monotonic()
    done = cluster.ctl("--json", "stack", target)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 8.0
    found: dict[str, Any] = json.loads(done.stdout)["workers"][0]
    return found


def functions(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["function"] for frame in frames]


def test_an_idle_worker_s_loop_answers(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "2") as cluster:
        found = stack(cluster, "web:2")
        assert found["pid"] == next(it["pid"] for it in cluster.workers() if it["slot"] == 2)
        stacks = found["stacks"]
        assert stacks["how"] == "loop"
        assert (found["state"], found["blocked_s"]) == ("serving", 0.0)
        (thread,) = stacks["threads"]
        assert thread["name"] == "MainThread"
        assert functions(thread["frames"])[-1] == "Worker.live", "no frame of the answer's own"
        text = cluster.ctl("stack", "web:1").stdout
        assert "the loop's thread MainThread:" in text
        assert "loop.run_until_complete(self._empty)" in text


def test_a_busy_worker_shows_each_request_and_where_it_waits(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1") as cluster, asked(cluster, "/wait?9", "/wait?9", "/wait?9"):
        until("all under way", lambda: cluster.workers()[0]["inflight"] == 3)
        stacks = stack(cluster)["stacks"]
        waiting = [task for task in stacks["tasks"] if task.get("serving")]
        assert len(waiting) == 3
        for task in waiting:
            assert task["serving"]["path"] == "/wait"
            assert functions(task["frames"])[-2:] == ["app", "sleep"]
            assert "await asyncio.sleep" in task["frames"][-2]["source"]
        assert "task request, GET /wait (" in cluster.ctl("stack", "web:1").stdout


@pytest.mark.parametrize("path", ["/nap?9", "/lock?9", "/later?9"])
def test_python_code_that_blocks_is_shown_with_all_tasks(tmp_path: Path, path: str) -> None:
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, "/wait?9"):
        until("under way", lambda: cluster.workers()[0]["inflight"] == 1)
        with asked(cluster, path):
            until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
            stacks = stack(cluster)["stacks"]
    assert stacks["how"] == "interrupted"
    assert {task["serving"]["path"] for task in stacks["tasks"] if task.get("serving")} >= {"/wait"}
    (main,) = [thread for thread in stacks["threads"] if thread["runs_loop"]]
    assert main["serving"]["path"] == path.partition("?")[0]
    assert main["frames"][-1]["file"].endswith("stalls_app.py")
    assert main["frames"][-1]["source"] in ("time.sleep(seconds)", "HELD.acquire(timeout=amount)")


def test_c_code_that_keeps_the_interpreter_is_shown_by_its_thread_and_the_answer_says_so(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, "/sum?40"):
        until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
        stacks = stack(cluster)["stacks"]
        assert stacks["how"] == "native"
        assert "lets no Python run meanwhile" in stacks["note"]
        (main,) = [thread for thread in stacks["threads"] if thread["runs_loop"]]
        assert main["frames"][-1] == {
            "file": str(tmp_path.resolve() / "stalls_app.py"),
            "line": 29,
            "function": "add_up",
            "source": "return sum(range(count))",
        }
        assert main["serving"]["path"] == "/sum"
        assert [it["serving"]["path"] for it in stacks["requests"]] == ["/sum"]


def test_without_python_the_answer_has_the_tasks_as_they_waited_and_every_request(
    tmp_path: Path,
) -> None:
    waiting = ["/wait?50"] * 3
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, *waiting):
        until("under way", lambda: cluster.workers()[0]["inflight"] == 3)
        time.sleep(2 * PICTURE_EVERY)  # in which the loop has noted who waits
        with asked(cluster, "/endless"):  # sum(range(10**10))
            until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
            with asked(cluster, "/later"):  # which the loop has not even read
                stacks = stack(cluster)["stacks"]
                text = cluster.ctl("stack", "web:1").stdout
    assert [(it["serving"]["path"], it["doing"]) for it in stacks["requests"]] == [
        ("/endless", "runs"),
        *[("/wait", "waits")] * 3,
    ]
    assert [task["serving"]["path"] for task in stacks["tasks"] if task.get("serving")] == ["/wait"] * 3
    waits = next(task for task in stacks["tasks"] if task.get("serving"))
    assert functions(waits["frames"])[-2:] == ["app", "sleep"]
    assert "await asyncio.sleep" in waits["frames"][-2]["source"]
    assert waits["serving"]["age_s"] > 2 * PICTURE_EVERY
    assert "the tasks are shown as they waited" in stacks["note"]
    assert "task request, GET /wait (" in text
    assert all(it["client"].startswith("127.0.0.1") for it in stacks["requests"])
    (main,) = [thread for thread in stacks["threads"] if thread["runs_loop"]]
    assert main["frames"][-1]["source"] == "return sum(range(count))"
    listed = text.partition("requests under way")[2]
    assert 0 < listed.index("GET /endless (") < listed.index("GET /wait (")
    assert ": holds the event loop\n" in listed
    assert "lets no Python run" in text


def test_of_requests_that_have_waited_the_answer_does_not_guess_which_holds_the_loop(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, "/wait?50"):
        until("under way", lambda: cluster.workers()[0]["inflight"] == 1)
        with asked(cluster, "/endless-later"):
            until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
            stacks = stack(cluster)["stacks"]
    assert sorted((it["serving"]["path"], it["doing"]) for it in stacks["requests"]) == [
        ("/endless-later", "may run"),
        ("/wait", "may run"),
    ]
    assert stacks["threads"][0]["serving"] is None


def test_a_match_without_an_end_is_shown(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, "/regex"):
        until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
        (main,) = [thread for thread in stack(cluster)["stacks"]["threads"] if thread["runs_loop"]]
        assert "block" in functions(main["frames"])


def test_wsgi_threads_are_shown_with_their_requests(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", app="stalls_app:wsgi") as cluster, asked(cluster, "/nap?9", "/lock?9"):
        until("both at work", lambda: len(_at_work(stack(cluster))) == 2)
        at_work = _at_work(stack(cluster))
        assert sorted(thread["serving"]["path"] for thread in at_work) == ["/lock", "/nap"]
        assert all("wsgi" in functions(thread["frames"]) for thread in at_work)
        assert all(thread["name"].startswith("web-") for thread in at_work)


def _at_work(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [thread for thread in found["stacks"]["threads"] if thread.get("serving")]


def test_a_stopped_process_answers_nothing_and_the_command_says_why(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", *QUIET) as cluster, asked(cluster, "/wait?50"):
        until("under way", lambda: cluster.workers()[0]["inflight"] == 1)
        pid = cluster.workers()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        stacks = stack(cluster)["stacks"]
        assert (stacks["how"], stacks["note"]) == ("none", "it does not answer: T (stopped)")
        assert [it["serving"]["path"] for it in stacks["requests"]] == ["/wait"]
        os.kill(pid, signal.SIGCONT)
        assert stack(cluster)["stacks"]["how"] == "loop"
        assert told(cluster, "worker.exited") == []


def test_a_worker_that_imports_for_long_is_shown_too(tmp_path: Path) -> None:
    with doing(tmp_path, "-w", "1", "--preload", "off") as cluster:
        (tmp_path / "stalls_app.py").write_text("import time\ndef slow():\n    time.sleep(15)\nslow()\n")
        os.kill(cluster.workers()[0]["pid"], signal.SIGTERM)
        until("the next one", lambda: [it for it in cluster.workers() if it["state"] == "starting"])
        until("it imports", lambda: "slow" in functions(stack(cluster)["stacks"]["threads"][0]["frames"]))


def test_many_who_ask_at_once_all_get_an_answer(tmp_path: Path) -> None:
    with (
        doing(tmp_path, "-w", "1", *QUIET) as cluster,
        asked(cluster, "/sum?60"),
        ThreadPoolExecutor() as pool,
    ):
        until("blocked", lambda: stack(cluster)["blocked_s"] > 0.2)
        assert {it["stacks"]["how"] for it in pool.map(lambda _: stack(cluster), range(4))} == {"native"}
