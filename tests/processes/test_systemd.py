"""The units under a real systemd: started, reloaded, restarted, killed and stopped under load, hardened as they are."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import until
from tests.processes.load import Load, Report
from tests.processes.machine import ROOT, Machine, require
from tests.processes.users import open_folder
from tests.processes.web import Answer, ask

ADDRESS = "127.0.0.1:8000"
SETTINGS = """\
[app.web]
app = "app:app"
bind = ["{bind}"]
workers = 2
bake = 0.2
ready_path = "/health"
"""
APP = """\
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    told = {"pid": os.getpid(), "status": open("/proc/self/status").read(), "secret": os.environ.get("SECRET")}
    told["writes"] = []
    for folder in ("/etc", "/srv/web", "/home", "/tmp"):
        try:
            open(f"{folder}/holdfast-test", "w").close()
        except OSError:
            continue
        told["writes"].append(folder)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""
# The interpreter may lie where the hardened service can't look, and then finds its own library by this.
BORROWED = "LD_LIBRARY_PATH=/srv/python/lib"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require()
    with open_folder() as folder, Machine(folder) as machine:
        yield machine


class Service:
    """`holdfast.service` as the repository has it, with a small app in `/srv/web`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.web = machine.root / "srv/web"

    def prepare(self, app: str = APP, bind: str = ADDRESS, more: str = "") -> None:
        (self.web / "app.py").write_text(app)
        (self.web / "holdfast.toml").write_text(SETTINGS.replace("{bind}", bind) + more)

    def drop_in(self, text: str) -> None:
        self.machine.unit("holdfast.service.d/test.conf", text)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.machine.systemctl(*arguments, "holdfast.service")

    def start(self) -> None:
        done = self.ctl("start")
        assert done.returncode == 0, done.stderr + self.machine.journal("holdfast")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def show(self, name: str) -> str:
        return self.machine.show("holdfast.service", name)

    def how(self) -> str:
        """Its state and its status line."""
        return f"{self.show('ActiveState')}, {self.show('StatusText')}"

    def holdfastctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ("/srv/web/.venv/bin/holdfastctl", "-s", "/run/holdfast/control.sock")
        return self.machine.run("env", BORROWED, *command, *arguments)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.holdfastctl("--json", "status").stdout)
        return found

    def ask(self, path: str = "/") -> Answer:
        with self.machine.network():
            return ask(ADDRESS, path)


def more_of(load: Load) -> None:
    """Until it has been answered many times more."""
    before = load.snapshot().ok
    until("answers", lambda: load.snapshot().ok > before + 50)


def nobody_was_turned_off(report: Report) -> None:
    """All were answered. New workers on a busy machine may have said 503 to some, which is an answer."""
    broken = {kind: count for kind, count in report.lost_by.items() if kind != "5xx"}
    assert not any(broken.values()), report.losses


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    service = Service(machine)
    for name in ("holdfast.service", "holdfast@.service", "holdfast.socket"):
        machine.unit(name, (ROOT / "systemd" / name).read_text())
        if name.endswith(".service"):
            machine.unit(f"{name}.d/python.conf", f"[Service]\nEnvironment={BORROWED}\n")
    service.prepare()
    yield service
    machine.systemctl("stop", "holdfast.socket", "holdfast.service")
    machine.systemctl("reset-failed")
    machine.without("holdfast.service.d/test.conf")
    machine.without("holdfast.service.d/memory.conf")


def test_start_is_over_when_every_worker_is_ready_and_the_status_says_so(service: Service) -> None:
    service.prepare(APP.replace("for _ in range(2):", "await asyncio.sleep(0.7)\n        for _ in range(2):"))
    service.start()
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText") == "web: 2/2 ready, g1"
    assert service.ask().status == 200


def test_the_app_has_none_of_what_the_unit_takes_away(service: Service) -> None:
    service.start()
    told = service.ask().json()
    status = dict(line.split(":", 1) for line in told["status"].splitlines())
    www_data = service.machine.run("id", "-u", "www-data").stdout.strip()
    assert status["Uid"].split() == [www_data] * 4
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    assert status["CapEff"].strip() == status["CapBnd"].strip() == "0" * 16
    assert told["writes"] == ["/tmp"]
    assert service.machine.systemctl("show", "-p", "Result", "holdfast").stdout.strip() == "Result=success"


def test_the_template_runs_as_it_is_copied(service: Service) -> None:
    for name in ("app.py", "holdfast.toml"):
        (service.web / name).write_text((ROOT / "app_template" / name).read_text())
    service.start()
    assert service.ask("/").json()["message"] == "Hello from holdfast"
    assert service.ask("/health").status == 200


def test_an_app_that_cannot_be_imported_fails_the_start_and_says_why(service: Service) -> None:
    service.prepare("import no_such_module")
    done = service.ctl("start")
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in service.machine.journal("holdfast")


def test_a_wrong_setting_is_not_tried_again(service: Service) -> None:
    (service.web / "holdfast.toml").write_text("[app.web]\nworkers = 0\n")
    assert service.ctl("start").returncode == 1
    assert service.show("SubState") == "failed"
    assert service.show("ExecMainStatus") == "2"


def test_a_reload_waits_for_the_verdict(service: Service) -> None:
    service.start()
    pid = service.pid
    service.prepare(APP.replace('"pid": os.getpid()', '"pid": os.getpid(), "new": True'))
    done = service.ctl("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert service.ask().json()["new"] is True
    assert (service.pid, service.how()) == (pid, "active, web: 2/2 ready, g2")


def test_a_reload_that_is_rolled_back_fails_and_the_service_goes_on(service: Service) -> None:
    service.start()
    pid = service.pid
    service.prepare("import no_such_module")
    done = service.ctl("reload")
    assert done.returncode == 1
    assert "Job for holdfast.service failed" in done.stderr
    assert service.ask().status == 200
    assert (service.pid, service.how()) == (pid, "active, web: 2/2 ready, g1")
    assert "rolled back" in service.machine.journal("holdfast")


def test_a_roll_by_signal_is_a_reload_to_systemd_as_well(service: Service) -> None:
    service.prepare(more="drain_timeout = 5\n", app=APP)
    service.start()
    service.ctl("kill", "--kill-whom=main", "--signal=USR2")
    until("systemd sees it reloading", lambda: service.show("ActiveState") == "reloading")
    until("and active again", lambda: service.show("ActiveState") == "active")
    assert service.show("StatusText") == "web: 2/2 ready, g2"


def test_a_restart_under_load_refuses_no_connection(service: Service) -> None:
    service.start()
    assert service.show("NFileDescriptorStore") == "1"
    pid = service.pid
    with service.machine.network(), Load(ADDRESS, connections=8, echo=False) as load:
        more_of(load)
        assert service.ctl("restart").returncode == 0
        more_of(load)
        report = load.stop()
    assert service.pid != pid
    nobody_was_turned_off(report)
    assert service.show("NFileDescriptorStore") == "1"


def test_an_upgrade_in_place_goes_on_telling_systemd_and_keeps_its_sockets(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=1\n")
    service.start()
    pid = service.pid
    assert service.holdfastctl("upgrade").returncode == 0
    service.ask("/slow")  # longer than the watchdog waits
    assert (service.pid, service.show("NRestarts"), service.how()) == (pid, "0", "active, web: 2/2 ready, g1")
    assert service.ctl("reload").returncode == 0
    assert service.show("StatusText") == "web: 2/2 ready, g2"
    with service.machine.network(), Load(ADDRESS, connections=8, echo=False) as load:
        more_of(load)
        assert service.ctl("restart").returncode == 0
        more_of(load)
        report = load.stop()
    nobody_was_turned_off(report)
    assert service.show("NFileDescriptorStore") == "1"


def test_an_address_that_is_no_longer_bound_leaves_the_store(service: Service) -> None:
    service.start()
    service.prepare(bind="127.0.0.1:8001")
    assert service.ctl("restart").returncode == 0
    assert service.show("NFileDescriptorStore") == "1"
    with service.machine.network():
        assert ask("127.0.0.1:8001").status == 200
        with pytest.raises(ConnectionRefusedError):
            ask(ADDRESS)


def test_a_killed_master_is_started_again_and_adopts_its_workers_and_no_connection_is_refused(service: Service) -> None:
    def workers() -> list[int]:
        return [worker["pid"] for worker in service.status()["apps"]["web"]["workers"]]

    service.start()
    pid, before = service.pid, workers()
    with service.machine.network(), Load(ADDRESS, connections=8, echo=False) as load:
        more_of(load)
        service.ctl("kill", "--kill-whom=main", "--signal=KILL")
        until("another master", lambda: service.pid not in (0, pid) and service.show("ActiveState") == "active")
        more_of(load)
        report = load.stop()
    assert report.lost == 0, report
    assert workers() == before
    assert service.show("StatusText").startswith("web: 2/2 ready")
    assert service.show("NFileDescriptorStore") == "1"
    assert f"adopted from the master that was killed (pid {pid})" in service.machine.journal("holdfast")


def test_a_master_that_hangs_is_started_again_by_the_watchdog(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=1\n")
    service.start()
    pid = service.pid
    service.ctl("kill", "--kill-whom=main", "--signal=STOP")
    assert service.ask().status == 200  # the workers do not need it
    until("another master", lambda: service.pid not in (0, pid) and service.show("ActiveState") == "active")
    assert "Watchdog timeout" in service.machine.journal("holdfast")
    assert service.ask().status == 200


def test_a_healthy_master_is_left_alone_by_the_watchdog(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=1\n")
    service.start()
    pid = service.pid
    service.ask("/slow")
    service.ask("/slow")
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_stop_lets_requests_finish(service: Service) -> None:
    service.start()
    answers: list[Answer] = []
    with service.machine.network():  # the thread has the network of the one that starts it
        slow = threading.Thread(target=lambda: answers.append(ask(ADDRESS, "/slow")))
        slow.start()
    until("the request", lambda: '"inflight":1' in json.dumps(service.status(), separators=(",", ":")))
    assert service.ctl("stop").returncode == 0
    slow.join(10)
    assert [answer.status for answer in answers] == [200]
    assert (service.show("Result"), service.show("ActiveState")) == ("success", "inactive")
    assert not (service.machine.root / "run/holdfast").exists()


def test_a_stop_longer_than_systemds_timeout_is_waited_for(service: Service) -> None:
    service.drop_in("[Service]\nTimeoutStopSec=1\n")
    test_a_stop_lets_requests_finish(service)


def test_the_socket_unit_starts_the_service_at_the_first_connection(service: Service) -> None:
    service.prepare(bind="systemd:web")
    socket = (ROOT / "systemd/holdfast.socket").read_text().replace("ListenStream=80", f"ListenStream={ADDRESS}")
    service.machine.unit("holdfast.socket", socket)
    assert service.machine.systemctl("start", "holdfast.socket").returncode == 0
    assert service.show("ActiveState") == "inactive"
    assert service.ask().status == 200
    until("all workers are ready", lambda: service.show("ActiveState") == "active")
    assert service.show("NFileDescriptorStore") == "0"  # the socket is its unit's
    assert service.ctl("restart").returncode == 0
    assert service.ask().status == 200


def test_a_credential_reaches_the_app_and_no_log(service: Service) -> None:
    service.prepare(more='credentials = { SECRET = "database-url" }\n')
    (service.machine.root / "run/secret").write_text("hunter2\n")
    (service.machine.root / "run/secret").chmod(0o600)
    service.drop_in("[Service]\nLoadCredential=database-url:/run/secret\n")
    service.start()
    assert service.ask().json()["secret"] == "hunter2"
    assert "hunter2" not in service.machine.journal("holdfast") + json.dumps(service.status())


def test_the_drop_in_limits_the_memory_of_all(service: Service) -> None:
    text = (ROOT / "systemd/holdfast.service.d/memory.conf").read_text()
    service.machine.unit("holdfast.service.d/memory.conf", text)
    service.start()
    assert service.show("MemoryMax") == str(2 * 1024**3)
    assert service.show("MemoryHigh") == str(1800 * 1024**2)
    assert (service.show("MemorySwapMax"), service.show("OOMPolicy")) == ("0", "continue")
    scores = {
        path.name: int((service.machine.root / f"proc/{path.name}/oom_score_adj").read_text())
        for path in (service.machine.root / "proc").iterdir()
        if path.name.isdigit() and _is_ours(path)
    }
    master = scores.pop(str(service.pid))
    assert set(scores.values()) == {master + 100}  # -100 and 0, where systemd may lower it


def _is_ours(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().startswith(b"holdfast: ")
    return False


def test_an_instance_serves_its_own_project(service: Service) -> None:
    machine = service.machine
    with contextlib.suppress(FileExistsError):
        (machine.root / "srv/shop").symlink_to("/srv/web")
    done = machine.systemctl("start", "holdfast@shop")
    try:
        assert done.returncode == 0, machine.journal("holdfast@shop")
        assert machine.show("holdfast@shop", "StatusText") == "web: 2/2 ready, g1"
        assert service.ask().status == 200
        assert machine.systemctl("reload", "holdfast@shop").returncode == 0
    finally:
        machine.systemctl("stop", "holdfast@shop")
