"""What the supervisor says and what it carries, and the reopening of logs."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import POLL, until
from tests.processes.deeds import ask, deeds, order, ready, told
from tests.processes.load import Load

EVENT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d "  # time
    r"(debug|info|warning|error) +"  # level
    r"(holdfast|web|web:\d+) +"  # app and slot
    r"(\d+|-) "  # pid
    r"([a-z_]+(\.[a-z_]+)?) +"  # event
    r"\S.*"  # what and why
)


@contextmanager
def unread(path: Path) -> Iterator[int]:
    """A pipe at `path` that nobody reads before the test does."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield reader
    finally:
        os.close(reader)


def read_until(reader: int, end: bytes, deadline: float = 20.0) -> bytes:
    """Everything up to the first portion that has `end` in it."""
    got = bytearray()
    ends = time.monotonic() + deadline
    while end not in got[-100_000:]:
        assert time.monotonic() < ends, bytes(got[-1000:])
        try:
            got += os.read(reader, 65536)
        except BlockingIOError:
            time.sleep(POLL)
    return bytes(got)


def test_the_app_s_output_is_prefixed_with_app_and_worker_in_a_text_log(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        slots = {worker["pid"]: worker["slot"] for worker in cluster.workers()}
        slot = slots[int(ask(cluster, "/print?spoken-softly"))]
        until("the line", lambda: f"web:{slot} | spoken-softly\n" in cluster.output)
        slot = slots[int(ask(cluster, "/complain?cried-out"))]
        until("the line", lambda: f"web:{slot} | cried-out\n" in cluster.log)
        assert "spoken-softly" not in cluster.log
        assert "cried-out" not in cluster.output


def test_what_the_spawner_prints_while_it_imports_is_prefixed_with_the_app(tmp_path: Path) -> None:
    deeds(tmp_path)
    with (tmp_path / "deeds_app.py").open("a") as app:
        app.write("\nprint('hello from the import')\n")
    program = deeds_as_it_is(tmp_path, "-w", "2")
    with program as cluster:
        until("the line", lambda: "web | hello from the import\n" in cluster.output)
        assert cluster.output.count("hello from the import") == 1


def test_in_a_json_log_every_line_is_one_object_and_output_has_its_app_and_worker_as_fields(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "2", "--log-format", "json") as cluster:
        pid = int(ask(cluster, "/print?spoken-softly"))
        ask(cluster, "/complain?cried-out")
        order(cluster, "/exit?3")
        until("the line", lambda: "spoken-softly" in cluster.output and "cried-out" in cluster.log)
        until("the death told", lambda: "worker.exited" in cluster.log)
        (line,) = objects(cluster.output)
        slot = line["slot"]
        assert line.items() >= {"event": "app.output", "app": "web", "pid": pid, "generation": 1}.items()
        assert (line["stream"], line["line"]) == ("stdout", "spoken-softly")
        assert slot in (1, 2)
        events = objects(cluster.log)
        assert all(isinstance(event["ts"], float) and event["event"] for event in events)
        (death,) = (event for event in events if event["event"] == "worker.exited")
        assert death.items() >= {"app": "web", "generation": 1, "reason": "exit code 3", "level": "error"}.items()
        assert {"ts", "slot", "pid"} <= death.keys()
        assert {event["event"] for event in events} >= {"master.started", "worker.started", "worker.ready"}


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def deeds_as_it_is(folder: Path, *arguments: str) -> Any:
    """A cluster of the app that lies in the folder already."""
    kept = (folder / "deeds_app.py").read_text()
    cluster = deeds(folder, *arguments)
    (folder / "deeds_app.py").write_text(kept)
    return cluster


def test_every_message_of_the_supervisor_is_one_line_of_time_level_app_slot_pid_event_what_and_why(
    tmp_path: Path,
) -> None:
    with deeds(tmp_path, "-w", "2") as cluster:
        order(cluster, "/exit?3")
        until("the death told", lambda: told(cluster, "worker.exited"))
        until("two workers", lambda: ready(cluster, 2))
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.stop() == 0
        for line in cluster.log.splitlines():
            assert EVENT.fullmatch(line), line
        for name in ("master.started", "worker.started", "worker.exited", "roll.committed", "master.stopping"):
            assert f" {name} " in cluster.log


def test_holdfastctl_events_are_the_log_s_own_lines_and_objects(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        lines = cluster.ctl("events").stdout.splitlines()
        assert lines == cluster.log.splitlines()
        events = [json.loads(line) for line in cluster.ctl("--json", "events").stdout.splitlines()]
        assert [event["event"] for event in events] == [EVENT.fullmatch(line)[4] for line in lines]  # type: ignore[index]


def test_a_full_pipe_drops_and_counts_and_blocks_neither_worker_nor_master(tmp_path: Path) -> None:
    with unread(tmp_path / "stdout") as reader, deeds(tmp_path, "-w", "1") as cluster:
        began = time.monotonic()
        for _ in range(4):
            ask(cluster, "/chatter?10000")  # 1.1 MB, more than pipe and master keep for a slow reader
        assert cluster.status()["state"] == "running"
        assert time.monotonic() - began < 5.0
        assert cluster.workers()[0]["lag_max_ms"] < 2000
        ask(cluster, "/print?the-last-words")
        text = read_until(reader, b"the-last-words\n").decode()
        dropped = re.findall(r"(\d+) lines? dropped: the reader of stdout is too slow", text)
        assert sum(map(int, dropped)) > 0
        for line in text.splitlines():  # nothing is cut or mixed but what a worker itself had to drop in mid-line
            assert line.startswith("web:1 | ") or EVENT.fullmatch(line), line


def test_a_worker_whose_pipe_is_full_drops_and_the_master_says_how_much(tmp_path: Path) -> None:
    with deeds(tmp_path, "-w", "1") as cluster:
        cluster.kill(signal.SIGSTOP)  # nobody reads the worker's pipe
        try:
            ask(cluster, "/chatter?10000")
        finally:
            cluster.kill(signal.SIGCONT)
        until("the loss told", lambda: "of its output dropped" in cluster.log)
        (event,) = (event for event in told(cluster, "log") if "output_dropped" in event)
        carried = sum(len(line.removeprefix("web:1 | ")) + 1 for line in cluster.output.splitlines())
        sent = sum(len(f"line {number} ") + 101 for number in range(10000))
        assert abs(carried + event["output_dropped"] - sent) < 10
        ask(cluster, "/print?heard-again")
        until("the line", lambda: "web:1 | heard-again\n" in cluster.output)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_log_whose_reader_is_gone_ends_nothing(tmp_path: Path, stream: str) -> None:
    with unread(tmp_path / stream) as reader:
        cluster = deeds(tmp_path, "-w", "1").start()
        try:
            until("the worker ready", lambda: cluster.app() and ready(cluster, 1))
            os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), reader)
            ask(cluster, "/print?to-nobody")
            ask(cluster, "/complain?to-nobody")
            order(cluster, "/exit?1")
            until("the death told", lambda: told(cluster, "worker.exited"))
            until("the worker ready", lambda: ready(cluster, 1))
            assert cluster.roll()["verdict"] == "committed"
            assert cluster.stop() == 0
        finally:
            cluster.kill_everything()


def test_usr1_reopens_the_access_log_after_a_rename_under_load_and_no_line_is_lost(tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with deeds(tmp_path, "-w", "2", "--access-log", str(log)) as cluster:
        with Load(cluster.bind, connections=8) as load:
            until("lines in the log", lambda: log.stat().st_size > 2000)
            log.rename(old)
            cluster.kill(signal.SIGUSR1)
            until("lines in the new log", lambda: log.exists() and log.stat().st_size > 2000)
            size = old.stat().st_size
            until("more lines in the new log", lambda: log.stat().st_size > 20_000)
            assert old.stat().st_size == size  # nobody writes to the old one any more
            report = load.stop()
        assert report.lost == 0, report
        assert log.stat().st_mode & 0o777 == 0o640
        lines = until_as_many(old, log, report.requests)
        assert all('"GET /?' in line or '"POST /' in line for line in lines), lines[:3]


def until_as_many(old: Path, new: Path, count: int) -> list[str]:
    def lines() -> list[str]:
        return old.read_text().splitlines() + new.read_text().splitlines()

    until(f"{count} lines", lambda: len(lines()) >= count)
    found = lines()
    assert len(found) == count
    return found


def test_usr1_with_a_directory_that_is_gone_keeps_the_old_log_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with deeds(tmp_path, "-w", "1", "--access-log", str(folder / "access.log")) as cluster:
        folder.rename(tmp_path / "moved")
        cluster.kill(signal.SIGUSR1)
        until("the refusal told", lambda: "the old file is still in use" in cluster.log)
        ask(cluster, "/print?one")
        until("the line", lambda: "/print?one" in (tmp_path / "moved" / "access.log").read_text())
