"""As a container has it: pid 1 of a namespace, limits by cgroups, TERM and a grace period, the template's image."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.users import open_folder, python_for_anybody
from tests.processes.web import Answer, ask

TEMPLATE = Path(__file__).parents[2] / "app_template"
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
CFS = Path("/sys/fs/cgroup/cpu")
MEMORY = Path("/sys/fs/cgroup/memory")
APP = """\
import asyncio, os, time

def leave_an_orphan():
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3)
        os._exit(0)
    os.wait()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    if scope["path"] == "/orphan":
        leave_an_orphan()
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""


class Container(Cluster):
    """A cluster whose master is pid 1 of a pid namespace of its own; `prefix` comes before what makes that."""

    def __init__(self, folder: Path, *arguments: str, prefix: tuple[str, ...] = (), **more: object) -> None:
        super().__init__(folder, *arguments, **more)  # type: ignore[arg-type]  # handed on as they are
        self.command = [*prefix, *NAMESPACE, *self.command]

    @property
    def inner(self) -> int:
        """Pid 1, as seen from outside; 0 while there is none."""
        try:
            children = Path(f"/proc/{self.outer}/task/{self.outer}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    @property
    def outer(self) -> int:
        return super().pid

    @property
    def pid(self) -> int:
        return self.inner

    def kill(self, number: int) -> None:
        """As a container's engine does it."""
        if self.inner:
            os.kill(self.inner, number)


@pytest.fixture(autouse=True)
def namespaces() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a pid namespace takes root and unshare")
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pid namespaces are not permitted here: {done.stderr.strip()}")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def answering(address: str, path: str) -> tuple[threading.Thread, list[Answer]]:
    """A request on its way, and where its answer will be."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(ask(address, path)))
    thread.start()
    return thread, answers


def test_the_master_is_pid_1_and_reaps_orphans(site: Path) -> None:
    with Container(site, "app:app", "-w", "1") as box:
        assert Path(f"/proc/{box.inner}/status").read_text().split("NSpid:")[1].split()[1] == "1"
        for _ in range(5):
            ask(box.bind, "/orphan")
        count = len(box.processes())
        until("the orphans to have ended", lambda: len(box.processes()) <= count - 5 or not box.zombies())
        until("nobody but ours", lambda: len(box.processes()) == 4)  # unshare, master, spawner, worker
        assert box.zombies() == []
        assert box.stop() == 0


def test_term_drains_within_the_grace_period(site: Path) -> None:
    with Container(site, "app:app", "-w", "2") as box:
        thread, answers = answering(box.bind, "/slow")
        until("the request", lambda: any(worker["inflight"] for worker in box.workers()))
        assert box.stop(10) == 0
        thread.join()
        assert [answer.status for answer in answers] == [200]


def test_a_stop_that_comes_before_the_master_is_there_is_not_lost(site: Path) -> None:
    """The kernel drops what pid 1 has no handler for, pid_namespaces(7)."""
    box = Container(site, "app:app", "-w", "1").start()

    def holds_back() -> bool:
        process = Path(f"/proc/{box.inner}")
        if (
            not box.inner or b"unshare" in (process / "cmdline").read_bytes()
        ):  # which holds back signals for a moment, too
            return False
        status = (process / "status").read_text()
        return bool(status) and int(status.split("SigBlk:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1 == 1

    try:
        until("it holds back signals", holds_back)
        box.kill(signal.SIGTERM)
        assert box.wait_exit(10) == 0
        assert "stopping gracefully: SIGTERM" in box.log
    finally:
        box.kill_everything()


def test_for_the_stop_delay_everybody_is_served(site: Path) -> None:
    with Container(site, "app:app", "-w", "1", "--stop-delay", "2") as box:
        began = time.monotonic()
        box.kill(signal.SIGTERM)
        until("it is told", lambda: "takes connections for another 2 s (stop_delay)" in box.log)
        assert "holdfast is stopping" in box.ctl("upgrade").stderr
        while time.monotonic() < began + 1.7:
            assert ask(box.bind).status == 200
        assert box.wait_exit(10) == 0
        assert time.monotonic() - began >= 2.0


def test_a_second_term_does_not_wait_for_the_delay(site: Path) -> None:
    with Container(site, "app:app", "-w", "1", "--stop-delay", "60") as box:
        box.kill(signal.SIGTERM)
        until("it is told", lambda: "stop_delay" in box.log)
        box.kill(signal.SIGTERM)
        assert box.wait_exit(10) == 0


@pytest.fixture
def limits() -> Iterator[tuple[str, ...]]:
    """What runs a command in cgroups with one CPU and 256 MB."""
    name = f"holdfast-test-{os.getpid()}"
    folders = [CFS / name, MEMORY / name]
    try:
        for folder in folders:
            folder.mkdir()
        (folders[0] / "cpu.cfs_quota_us").write_text("100000")
        (folders[1] / "memory.limit_in_bytes").write_text(str(256 * 1024**2))
    except OSError as error:
        pytest.skip(f"no cgroup v1 with cpu and memory to write to: {error}")
    join = "; ".join(f"echo $$ >{folder}/cgroup.procs" for folder in folders)
    yield "sh", "-c", f'{join}; exec "$0" "$@"'
    for folder in folders:
        until("the cgroup to be empty", lambda folder=folder: not _is_left(folder))  # type: ignore[misc]


def _is_left(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return folder.exists()


def test_workers_and_memory_follow_the_cgroups_limits(site: Path, limits: tuple[str, ...]) -> None:
    with Container(site, "app:app", "-w", "auto", "--max-memory", "50%", prefix=limits) as box:
        assert len(box.workers()) == 1
        assert 0 < box.app()["max_memory_bytes"] <= 128 * 1024**2


# The template's image, which takes an engine to build: what can be done without one is done here.

DOCKERFILE = (TEMPLATE / "Dockerfile").read_text()
KUBERNETES = (TEMPLATE / "kubernetes.yaml").read_text()


def instruction(name: str) -> str:
    """The arguments of the last instruction of this name."""
    found: list[str] = re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)
    return found[-1]


def variables() -> dict[str, str]:
    """What ENV sets."""
    pairs = (pair.partition("=") for pair in shlex.split(instruction("ENV")))
    return {name: value for name, _, value in pairs}


def form(text: str) -> list[str]:
    """The JSON list in which an instruction ends, or a flow list of YAML."""
    found: list[str] = json.loads(text[text.index("[") :])
    return found


@pytest.fixture
def image() -> Iterator[Path]:
    """`/app` of the image, and the commands of its venv."""
    python, environment = python_for_anybody()
    with open_folder() as folder:
        (folder / "app").mkdir()
        *sources, target = instruction("COPY").split()
        assert target == "./"
        for source in sources:
            shutil.copy(TEMPLATE / source, folder / "app")
        (folder / "bin").mkdir()
        for name, call in (("holdfast", "main"), ("holdfastctl", "ctl")):
            path = folder / "bin" / name
            settings = "".join(f"os.environ[{key!r}] = {value!r}\n" for key, value in environment.items())
            head = "".join(f"sys.path.append({entry!r})\n" for entry in environment["PYTHONPATH"].split(os.pathsep))
            path.write_text(
                f"#!{python}\nimport os, sys\n{settings}{head}import holdfast\nsys.exit(holdfast.{call}())\n"
            )
            path.chmod(0o755)
        (folder / "run").mkdir()
        (folder / "run").chmod(0o777)  # what Kubernetes makes of an emptyDir
        yield folder


def test_the_image_runs_as_its_user_and_its_health_check_passes(image: Path) -> None:
    uid, gid = instruction("USER").split(":")
    port = Cluster(image).bind.rpartition(":")[2]
    command = [word.replace(":8000", f":{port}") for word in form(instruction("CMD"))]
    assert command[:2] == ["holdfast", "run"]
    told = variables()
    environment = {
        **told,
        "PATH": told["PATH"].replace("/venv/bin", str(image / "bin")).replace("$PATH", os.environ["PATH"]),
        "XDG_RUNTIME_DIR": str(image / "run"),
        "HOME": "/app",
    }
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    with (image / "output").open("wb") as output:
        line = [*NAMESPACE, *as_user, *command]
        process = subprocess.Popen(line, cwd=image / "app", env=environment, stdout=output, stderr=output)
    try:
        health = [*as_user, *form(instruction("HEALTHCHECK"))]

        def is_healthy() -> bool:
            assert process.poll() is None, (image / "output").read_text()
            return subprocess.run(health, env=environment, capture_output=True, check=False).returncode == 0

        until("the health check passes", is_healthy)
        assert ask(f"127.0.0.1:{port}").json()["message"] == "Hello from holdfast"
        (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        assert process.wait(20) == 0
        lines = [json.loads(line) for line in (image / "output").read_text().splitlines()]
        assert any(line.get("path") == "/" for line in lines), "the access log"
        assert "runs as root" not in (image / "output").read_text()
    finally:
        process.kill()
        process.wait()


def test_the_dockerfile_copies_what_is_there_and_keeps_to_good_habits() -> None:
    for source in [
        word for line in re.findall(r"^COPY ([^-].*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]:
        assert (TEMPLATE / source).is_file(), source
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(stages) == 2
    assert all(":" in stage and not stage.endswith(":latest") for stage in stages)
    assert int(instruction("USER").split(":")[0]) >= 1000
    assert "ENTRYPOINT" not in DOCKERFILE
    ignored = (TEMPLATE / ".dockerignore").read_text().split()
    assert ".venv/" in ignored


def test_the_manifests_fit_the_image_and_the_settings() -> None:
    words = form(re.sub(r"\s+", " ", KUBERNETES[KUBERNETES.index("args: [") : KUBERNETES.index("ports:")]).strip())
    assert words[: len(form(instruction("CMD")))] == form(instruction("CMD"))
    delay = float(words[words.index("--stop-delay") + 1])
    grace = float(re.findall(r"terminationGracePeriodSeconds: (\d+)", KUBERNETES)[0])
    assert grace > delay + 30 + 3, "stop_delay, drain_timeout, and a moment for the end"
    assert re.findall(r"runAsUser: (\d+)", KUBERNETES) == [instruction("USER").split(":")[0]]
    assert f"containerPort: {instruction('EXPOSE')}" in KUBERNETES
    assert (
        f"mountPath: {dict(pair.split('=', 1) for pair in shlex.split(instruction('ENV')))['XDG_RUNTIME_DIR']}"
        in KUBERNETES
    )
    assert "/health" in (TEMPLATE / "app.py").read_text()
    assert "preStop:" not in KUBERNETES
