"""`holdfastctl heap` on real workers that leak: issue 5, point 7."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.deeds import ask

HERE = Path(__file__).parent


def leaking(folder: Path, app: str, *arguments: str) -> Cluster:
    shutil.copy(HERE / "heap_app.py", folder)
    return Cluster(folder, f"heap_app:{app}", "-w", "1", *arguments)


def heap(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    done = cluster.ctl("--json", "heap", "web:1", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def begun(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    """A holdfastctl that is not waited for."""
    command = [sys.executable, "-c", "import sys, holdfast; sys.exit(holdfast.ctl())", "-s", cluster.control]
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def asking(cluster: Cluster) -> Iterator[list[int]]:
    """One request after another; what they were answered, the length of the list."""
    answers: list[int] = []
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(0.002):
            answers.append(int(ask(cluster, "/?50")))

    client = threading.Thread(target=go_on)
    client.start()
    try:
        yield answers
    finally:
        is_over.set()
        client.join()


@pytest.mark.parametrize(("app", "arguments"), [("app", ()), ("wsgi_app", ()), ("wsgi_app", ("--threads", "1"))])
def test_the_line_that_leaks_is_on_top_and_so_is_the_list(tmp_path: Path, app: str, arguments: tuple[str, ...]) -> None:
    with leaking(tmp_path, app, *arguments) as cluster:
        with asking(cluster) as answers:
            found = heap(cluster, "--diff", "1.5")
        assert answers == sorted(answers)  # all of one worker, and none is missing
        top = found["allocations"][0]
        assert top["place"].endswith("/heap_app.py:13")
        assert top["source"].endswith("# the line that leaks")
        assert top["count"] > 100
        first = found["containers"][0]
        assert (first["name"], first["kind"], first["holds"]) == ("heap_app.HELD", "list", "dict")
        assert first["grown"] > 100
        assert heap(cluster, "--diff", "0")["seconds"] == 0  # it is off again, and may be asked for again
        assert "worker.exited" not in cluster.log


def test_a_person_is_told_the_cost_first_and_then_what_grew(tmp_path: Path) -> None:
    with leaking(tmp_path, "app") as cluster:
        with asking(cluster):
            done = cluster.ctl("heap", "web:1", "--diff", "1")
        assert done.stderr.startswith("web:1: allocations are traced for 1 s; ")
        assert "heap_app.py:13" in done.stdout
        assert "heap_app.HELD" in done.stdout


def test_the_loop_goes_on_turning_though_there_is_much_to_count(tmp_path: Path) -> None:
    with leaking(tmp_path, "app") as cluster:
        for _ in range(10):
            ask(cluster, "/?30000")  # in pieces, so that the app itself blocks nothing for long
        found = heap(cluster, "--diff", "0.5")
        assert found["containers"][0]["length"] == 300_000
        assert found["longest_ms"] < 500  # stall_warn
        assert cluster.app()["totals"]["stalls"] == 0


def test_one_survey_at_a_time_and_refusals_are_kind(tmp_path: Path) -> None:
    with leaking(tmp_path, "app") as cluster:
        with begun(cluster, "--json", "heap", "web:1", "--diff", "8") as first:
            ends = time.monotonic() + 20
            while "already" not in (said := cluster.ctl("heap", "web:1", "--diff", "0").stderr):
                assert time.monotonic() < ends, said
            assert said.splitlines()[-1].startswith("holdfastctl: worker 1 is being looked at already")
            answer, _ = first.communicate(timeout=40)
            assert json.loads(answer)["seconds"] == pytest.approx(8, abs=2)
        assert "one worker, such as web:1, not web" in cluster.ctl("heap", "web", "--diff", "0").stderr
        assert "there is no worker web:9" in cluster.ctl("heap", "web:9", "--diff", "0").stderr


def test_a_worker_that_ends_meanwhile_is_the_answer(tmp_path: Path) -> None:
    with leaking(tmp_path, "app") as cluster:
        pid = cluster.workers()[0]["pid"]
        with begun(cluster, "heap", "web:1", "--diff", "30") as asked:
            assert asked.stderr is not None
            asked.stderr.readline()  # what it costs
            until("it is being looked at", lambda: "already" in cluster.ctl("heap", "web:1", "--diff", "0").stderr)
            cluster.ctl("signal", "KILL", "web:1")
            until("a new one", lambda: [worker["pid"] for worker in cluster.workers()] not in ([], [pid]))
            said = asked.stderr.read()
            assert asked.wait(10) == 1
        assert said == "holdfastctl: web:1: the worker has ended meanwhile\n"
