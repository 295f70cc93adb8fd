"""A worker of a real cluster and the clients and failures that disturb it: each leaves at most one line in the log, an
app's own failure its traceback behind that, and the same worker serves on."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.disturbances import (
    AT_A_TLS_PORT,
    DEPARTURES,
    FAILURES,
    GARBAGE,
    HALF_CLOSES,
    HEAD,
    OVER_TLS,
    Deed,
    noise_of,
    read_rest,
    words_of_ours,
)
from tests.processes.cluster import Cluster, until
from tests.processes.releases import NO_BYTECODE
from tests.processes.test_tls import TLS, certify, trusting
from tests.processes.web import dial, read_until

KINDS = {"asgi": ("asgi",), "wsgi": ("wsgi",), "inline": ("wsgi", "--threads", "1")}
DEEDS = DEPARTURES | HALF_CLOSES | GARBAGE
_marks = itertools.count()


def cluster_of(folder: Path, app: str, *arguments: str) -> Cluster:
    shutil.copy(Path(__file__).with_name("disturbed_app.py"), folder)
    quick = ("--body-timeout", "0.5", "--send-timeout", "0.5")
    return Cluster(folder, f"disturbed_app:{app}", "-w", "1", *quick, *arguments, env=NO_BYTECODE)


@pytest.fixture(scope="module", params=KINDS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_of(tmp_path_factory.mktemp("plain"), *KINDS[request.param]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("secure")
    certify(folder)
    with cluster_of(folder, "asgi", *TLS) as cluster:
        yield cluster


def in_the_clear(cluster: Cluster) -> Callable[[], socket.socket]:
    return lambda: dial(cluster.bind)


def over_tls(cluster: Cluster) -> Callable[[], socket.socket]:
    context = trusting()
    return lambda: context.wrap_socket(dial(cluster.bind), server_hostname="localhost")


def said_meanwhile(cluster: Cluster, dial: Callable[[], socket.socket], deed: Deed) -> str:
    """What the log got while `deed` was done, until nothing was left of it; the worker is the one that it was."""
    before, (pid,) = len(cluster.log), [worker["pid"] for worker in cluster.workers()]
    deed(dial)
    until("nothing left", lambda: not any(w["connections"] or w["inflight"] for w in cluster.workers()))
    mark = f"mark {next(_marks)}."
    with dial() as client:
        client.sendall(HEAD % f"/mark?{mark.split()[1]}".encode())
        assert read_until(client, b"%d" % pid).startswith(b"HTTP/1.1 200 ")
    until("the mark", lambda: mark in cluster.log)
    assert [worker["pid"] for worker in cluster.workers()] == [pid]
    return cluster.log[before:]


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_no_client_leaves_a_line(plain: Cluster, deed: Deed) -> None:
    assert noise_of(said_meanwhile(plain, in_the_clear(plain), deed)) == []


@pytest.mark.parametrize("deed", AT_A_TLS_PORT.values(), ids=AT_A_TLS_PORT)
def test_no_client_that_fails_at_tls_leaves_a_line(secure: Cluster, deed: Deed) -> None:
    assert noise_of(said_meanwhile(secure, over_tls(secure), lambda _: deed(in_the_clear(secure)))) == []


@pytest.mark.parametrize("deed", (DEEDS | OVER_TLS).values(), ids=DEEDS | OVER_TLS)
def test_no_client_over_tls_leaves_a_line(secure: Cluster, deed: Deed) -> None:
    assert noise_of(said_meanwhile(secure, over_tls(secure), deed)) == []


def asks(path: str) -> Deed:
    def deed(dial: Callable[[], socket.socket]) -> None:
        with dial() as client, contextlib.suppress(ssl.SSLError):
            client.sendall(HEAD % path.encode())
            client.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                read_rest(client)

    return deed


@pytest.mark.parametrize("path", FAILURES)
def test_an_app_that_raises_leaves_one_line_and_its_traceback(plain: Cluster, path: str) -> None:
    said = said_meanwhile(plain, in_the_clear(plain), asks(path))
    (line,) = words_of_ours(said)
    assert line.endswith(f"holdfast: GET {path}: the app raised an exception")
    assert said.count("Traceback (most recent call last)") == 1
    assert said.count(f"OnPurposeError: {path}\n") == 1


def test_what_ended_is_counted_by_kind_and_outlives_its_worker(tmp_path: Path) -> None:
    settings = (
        "--max-body",
        "100",
        "--head-timeout",
        "0.5",
        "--keepalive-requests",
        "2",
        "--limit-request-fields",
        "5",
    )
    with cluster_of(tmp_path, "asgi", *settings) as cluster:
        wanted = {"max_body": 2, "head_timeout": 1, "keepalive_requests": 1, "limit_request_fields": 1, "malformed": 1}
        for raw, status in (
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", b"413"),
            (b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + bytes(101), b"413"),
            (b"GET / HT", b"408"),
            ((HEAD % b"/") * 3, b"200"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5 + b"\r\n", b"431"),
            (b"GET / HTTP/1.1\nHost: x\n\n", b"400"),
        ):
            with dial(cluster.bind) as client:
                client.sendall(raw)
                assert read_rest(client)[9:12] == status
        assert ended(cluster) == wanted
        (pid,) = [worker["pid"] for worker in cluster.workers()]
        cluster.ctl("restart", "web:1")
        until("another worker", lambda: [w["pid"] for w in cluster.app()["workers"]] not in ([], [pid]))
        until("it alone", lambda: len(cluster.app()["workers"]) == 1)
        assert ended(cluster) == wanted
        with dial(cluster.bind) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert read_rest(client)[9:12] == b"400"
        assert ended(cluster) == wanted | {"malformed": 2}


def ended(cluster: Cluster) -> dict[str, int]:
    """What `/metrics` counts of ended requests and connections, without zeroes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(cluster.control)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: .\r\nConnection: close\r\n\r\n")
        text = read_rest(client).decode()
    lines = [line.split() for line in text.splitlines() if line.startswith('holdfast_ended_total{app="web",by="')]
    assert len(lines) == 16
    return {name.split('"')[3]: int(count) for name, count in lines if count != "0"}
