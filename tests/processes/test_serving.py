"""A real cluster serves: every kind of app, address and preload mode, and what its processes look like from outside."""

from __future__ import annotations

import os
import select
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, free_port, until
from tests.processes.releases import NO_BYTECODE, Site
from tests.processes.web import ask, dial

KINDS = {
    "asgi-function": "asgi",
    "asgi-object": "asgi",
    "asgi-partial": "asgi",
    "make-asgi()": "asgi",
    "wsgi-function": "wsgi",
    "wsgi-object": "wsgi",
    "wsgi-partial": "wsgi",
    "make-wsgi()": "wsgi",
    "vague": "wsgi",
}


def kinds_folder(folder: Path) -> Path:
    shutil.copy(Path(__file__).with_name("kinds_app.py"), folder)
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster of all kinds of apps, each with an address of its own, from one settings file."""
    folder = kinds_folder(tmp_path_factory.mktemp("kinds"))
    tables = []
    for kind in KINDS:
        tables += [f"[app.{kind.removesuffix('()')}]", f'app = "kinds_app:{kind.replace("-", "_")}"', "workers = 1"]
        tables += [f'bind = ["127.0.0.1:{free_port()}"]']
    tables += ['interface = "wsgi"']  # of the last, that can't be told
    (folder / "holdfast.toml").write_text("\n".join(tables))
    with Cluster(folder, bind="", env=NO_BYTECODE) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", KINDS)
def test_asgi_and_wsgi_are_told_apart_factories_included(kinds: Cluster, kind: str) -> None:
    (address,) = kinds.app(kind.removesuffix("()"))["bind"]
    assert ask(address).text == KINDS[kind]


def test_several_apps_in_one_settings_file_are_served_side_by_side(kinds: Cluster) -> None:
    status = kinds.status()
    assert list(status["apps"]) == [kind.removesuffix("()") for kind in KINDS]
    assert {app["state"] for app in status["apps"].values()} == {"running"}
    assert "holdfast: wsgi-object g1 w1 ready" in kinds.processes().values()


def test_an_app_that_can_not_be_told_is_refused_with_the_remedy(tmp_path: Path) -> None:
    cluster = Cluster(kinds_folder(tmp_path), "kinds_app:vague", "-w", "1").start()
    assert cluster.wait_exit() == 1
    assert "can't tell whether it is ASGI or WSGI; say so with --interface asgi or --interface wsgi" in cluster.log


# Addresses


def test_tcp_v4_v6_unix_sockets_and_inherited_descriptors_are_served_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        number = inherited.fileno()
        addresses = [f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}", f"unix:{tmp_path / 'web.sock'}"]
        binds = [part for address in [*addresses[1:], f"fd://{number}"] for part in ("--bind", address)]
        with Site(tmp_path).cluster("-w", "2", *binds, bind=addresses[0], pass_fds=[number]) as cluster:
            port = inherited.getsockname()[1]
            for address in [*addresses, f"127.0.0.1:{port}"]:
                assert ask(address, "/?hello").text == "hello", address
            assert cluster.app()["bind"] == [addresses[1], addresses[2], f"127.0.0.1:{port}", addresses[0]]
            assert ask(addresses[1], "/about").json()["server"] == ["::1", int(addresses[1].rpartition(":")[2])]
            assert ask(addresses[2], "/about").json()["server"] == [str(tmp_path / "web.sock"), None]
            assert cluster.roll()["verdict"] == "committed"
            for address in [*addresses, f"127.0.0.1:{port}"]:
                assert ask(address, "/?again").text == "again", address
    assert not (tmp_path / "web.sock").exists()


def test_sockets_that_systemd_passed_are_found_by_their_names(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        numbers = first.fileno(), second.fileno()
        cluster = site.cluster("-w", "1", "--bind", "systemd:admin", bind="systemd:web", pass_fds=numbers)
        cluster.command[2] = (  # what systemd does between fork and exec
            f"import os, sys\nos.dup2({numbers[1]}, 200)\nos.dup2({numbers[0]}, 3)\nos.dup2(200, 4)\nos.close(200)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='web:admin')\n"
            "import holdfast\nsys.exit(holdfast.main())"
        )
        with cluster:
            for listening in (first, second):
                address = f"127.0.0.1:{listening.getsockname()[1]}"
                environ = ask(address, "/about").json()["env"]
                assert not [name for name in environ if name.startswith("LISTEN_")], "they were meant for the master"
            assert cluster.roll()["verdict"] == "committed"
            assert ask(f"127.0.0.1:{second.getsockname()[1]}", "/?hello").text == "hello"


# Lifespan


def test_lifespan_state_reaches_the_requests_and_shutdown_is_told(tmp_path: Path) -> None:
    with Site(tmp_path).cluster("-w", "2") as cluster:
        about = ask(cluster.bind, "/about").json()
        assert about["state"] == {"started_by": about["pid"]}
        pids = {worker["pid"] for worker in cluster.workers()}
        assert cluster.stop() == 0
    assert {int(line.split()[0]) for line in (tmp_path / "left").read_text().splitlines()} == pids


def test_a_lifespan_startup_failure_is_a_boot_failure(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", after="async def on_startup(state):\n    raise RuntimeError('no database')\n")
    cluster = site.cluster("-w", "1").start()
    try:
        until("the app failed", lambda: cluster.app().get("state") == "failed")
        assert "lifespan startup failed: no database before it was ready" in cluster.log
        assert not [line for line in cluster.events() if " worker.ready " in line]
    finally:
        cluster.kill_everything()


# WSGI


def test_wsgi_runs_in_threads_as_many_requests_at_once_as_there_are(tmp_path: Path) -> None:
    with Cluster(kinds_folder(tmp_path), "kinds_app:threads", "-w", "1", "--threads", "4") as cluster:
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: ask(cluster.bind, "/meet").text, range(4)))
        assert answers == ["met"] * 4


def test_wsgi_runs_inline_with_one_thread(tmp_path: Path) -> None:
    with Cluster(kinds_folder(tmp_path), "kinds_app:threads", "-w", "1", "--threads", "1") as cluster:
        with ThreadPoolExecutor(4) as clients:
            answers = set(clients.map(lambda _: ask(cluster.bind, "/alone").text, range(20)))
        pid = cluster.workers()[0]["pid"]
        assert answers == {f"MainThread 1 {pid}"}


# Readiness and settings


HEALTH = """
inner = app

async def app(scope, receive, send):
    if scope.get("path") != "/health":
        return await inner(scope, receive, send)
    status = 204 if os.path.exists("healthy") else 503
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""


def test_a_worker_takes_no_connection_before_its_ready_path_answers_below_400(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write("first", after=HEALTH)
    cluster = site.cluster("-w", "1", "--ready-path", "/health").start()
    try:
        until("it starts", lambda: [w["state"] for w in cluster.workers()] == ["starting"])
        with dial(cluster.bind) as early:
            early.sendall(b"GET /?early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert select.select([early], [], [], 0.5)[0] == []
            assert cluster.workers()[0]["connections"] == 0
            assert cluster.app()["state"] == "starting"
            (tmp_path / "healthy").touch()
            cluster.wait_ready()
            assert early.makefile("rb").read().endswith(b"early")
        assert cluster.workers()[0]["requests"] == 1, "probes are not counted"
    finally:
        cluster.kill_everything()


def test_the_app_runs_in_chdir_with_the_added_environment(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    Site(tmp_path / "inner")
    (tmp_path / "app.py").write_text("raise SystemExit('the wrong app')")
    cluster = Cluster(tmp_path, "app:app", "-w", "1", "--chdir", "inner", "--env", "COLOUR=red", "--env", "SIZE=a=b")
    with cluster:
        about = ask(cluster.bind, "/about").json()
        assert about["cwd"] == about["path"] == str((tmp_path / "inner").resolve())
        assert (about["env"]["COLOUR"], about["env"]["SIZE"]) == ("red", "a=b")
        assert about["env"]["PATH"] == os.environ["PATH"]


def test_a_symlinked_chdir_is_looked_up_anew_at_each_roll(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Site(tmp_path / name).write(name)
    (tmp_path / "current").symlink_to("one")
    with Cluster(tmp_path, "app:app", "-w", "1", "--chdir", "current", env=NO_BYTECODE) as cluster:
        assert ask(cluster.bind).headers["x-release"] == "one"
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "current")
        assert cluster.roll()["verdict"] == "committed"
        assert ask(cluster.bind).headers["x-release"] == "two"
