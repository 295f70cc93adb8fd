"""A worker takes a connection only when it can serve it, and says in the access log what it has served."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.processes.cluster import Cluster, until
from tests.processes.releases import NO_BYTECODE, Site
from tests.processes.web import Visitor, ask, dial


def test_workers_take_connections_by_their_own_epoll_with_epollexclusive(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "2") as cluster:
        listening = socket_inode(cluster)
        for worker in cluster.workers():
            watched = [line for line in epoll_entries(worker["pid"]) if f" ino:{listening:x} " in line]
            (entry,) = watched
            assert int(entry.split()[3], 16) & select.EPOLLEXCLUSIVE
            assert int(entry.split()[3], 16) & select.EPOLLIN


def socket_inode(cluster: Cluster) -> int:
    """The inode of the one listening TCP socket, as the master has it."""
    port = int(cluster.bind.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [int(row[9]) for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    return inode


def epoll_entries(pid: int) -> list[str]:
    """What all epolls of a process watch: `tfd: N events: MASK data: D pos: P ino:I sdev:S` (proc(5), fdinfo)."""
    texts = [entry.read_text() for entry in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return [" ".join(line.split()) for text in texts for line in text.splitlines() if line.startswith("tfd:")]


def test_a_burst_is_shared_since_each_worker_takes_no_more_than_it_can_serve(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import os, time\n"
        "def app(environ, start_response):\n"
        "    time.sleep(0.1)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'%d' % os.getpid()]\n"
    )
    cluster = Cluster(tmp_path, "app:app", "-w", "4", "--threads", "1", env=NO_BYTECODE)
    with cluster, ThreadPoolExecutor(4) as clients:
        bursts = [set(clients.map(lambda _: ask(cluster.bind).text, range(4))) for _ in range(10)]
    shared = sum(len(workers) == 4 for workers in bursts)
    assert shared >= 8, bursts  # a client that dawdles between connecting and asking may be held for one who won't ask


def sleeper(cluster: Cluster) -> socket.socket:
    """A client whose request takes half a second."""
    client = dial(cluster.bind)
    client.sendall(b"GET /sleep?0.5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return client


def test_connections_above_max_inflight_wait_in_the_kernel_until_there_is_room(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1", "--max-inflight", "2", "--queue-timeout", "0") as cluster:
        clients = [sleeper(cluster) for _ in range(2)]
        until("two are served", lambda: cluster.workers()[0]["inflight"] == 2)
        clients += [sleeper(cluster) for _ in range(4)]
        seen = []
        while len(select.select(clients, [], [], 0)[0]) < 6:
            seen.append(cluster.workers()[0])
        assert max(worker["inflight"] for worker in seen) == 2
        assert "saturated" in {worker["state"] for worker in seen}
        for client in clients:
            assert client.makefile("rb").read().endswith(b"0.5")
            client.close()
        until("it has room", lambda: cluster.workers()[0]["state"] == "ready")


def test_connections_above_max_connections_wait_in_the_kernel_until_one_is_closed(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1", "--max-connections", "2") as cluster:
        idle = [Visitor(cluster.bind) for _ in range(2)]
        for visitor in idle:
            assert visitor.ask("/?hello").status == 200
        waiting = dial(cluster.bind)
        waiting.sendall(b"GET /?waited HTTP/1.1\r\nHost: x\r\n\r\n")
        until("it is full, and tells", lambda: "2 connections open, room for 2" in cluster.log)
        assert cluster.workers()[0]["state"] == "saturated"
        assert cluster.workers()[0]["connections"] == 2
        assert not select.select([waiting], [], [], 0)[0]
        assert idle[1].ask("/?still").text == "still"
        idle[0].close()
        assert waiting.recv(65536).endswith(b"waited")
        waiting.close()
        until("it has room", lambda: cluster.workers()[0]["state"] == "ready")
        idle[1].close()


def test_the_access_log_is_written_to_a_file(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "2", "--access-log", "access.log") as cluster:
        for number in range(10):
            ask(cluster.bind, f"/?{number}")
        ask(cluster.bind, "/post", "POST", b"abc")
        log = tmp_path / "access.log"
        until("all lines", lambda: log.read_text().count("\n") == 11)
        lines = log.read_text().splitlines()
        assert {line.split('"')[1] for line in lines} == {f"GET /?{n} HTTP/1.1" for n in range(10)} | {
            "POST /post HTTP/1.1"
        }
        assert all(re.match(r'127\.0\.0\.1 - - \[[^]]+\] "[^"]+" 200 \d ', line) for line in lines), lines
        moved = log.rename(tmp_path / "access.log.1")
        cluster.kill(signal.SIGUSR1)
        until("a new file", log.exists)
        visitor = Visitor(cluster.bind)
        until("a line in the new file", lambda: visitor.ask().status == 200 and log.read_text())
        visitor.close()
        assert moved.read_text().count("\n") < 2000


def test_the_access_log_goes_to_stdout(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1", "--access-log", "-") as cluster:
        assert ask(cluster.bind, "/?hello").status == 200
        until("the line", lambda: '"GET /?hello HTTP/1.1" 200 5' in cluster.output)


def test_the_access_log_is_json_when_all_logs_are(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "1", "--access-log", "-", "--log-format", "json") as cluster:
        assert ask(cluster.bind, "/?hello").status == 200
        until("the line", lambda: '"/?hello"' in cluster.output)
        (record,) = [json.loads(line) for line in cluster.output.splitlines() if '"/?hello"' in line]
        known = {key: record[key] for key in ("client", "method", "path", "status", "bytes", "worker", "generation")}
        assert known == {
            "client": "127.0.0.1",
            "method": "GET",
            "path": "/?hello",
            "status": 200,
            "bytes": 5,
            "worker": "web:1",
            "generation": 1,
        }


def test_an_access_log_that_nobody_reads_costs_lines_and_nobody_s_time(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Site(tmp_path).cluster("-w", "1", "--access-log", str(fifo)) as cluster:
        visitor = Visitor(cluster.bind)
        for number in range(400):
            assert visitor.ask(f"/?{'x' * 4000}{number}").status == 200
        visitor.close()
        until("the loss told", lambda: "of its access log dropped" in cluster.log)
    lines = b"".join(iter(lambda: os.read(reader, 65536), b"")).splitlines()
    os.close(reader)
    assert lines
    assert all(
        re.fullmatch(rb'127\.0\.0\.1 - - \[.{26}\] "GET /\?x{4000}\d+ HTTP/1\.1" 200 \d+ "-" "-"', line)
        for line in lines
    )


def test_a_fifo_without_a_reader_is_no_access_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    cluster = Site(tmp_path).cluster("-w", "1", "--access-log", "log").start()
    assert cluster.wait_exit() == 1
    assert "access log log: No such device or address" in cluster.log
    assert "Traceback" not in cluster.log
