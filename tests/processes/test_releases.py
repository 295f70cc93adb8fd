"""Releases in directories of their own, behind a symlink: each keeps its files, its packages and its interpreter."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import holdfast
from tests.processes.cluster import Cluster, free_port, until
from tests.processes.releases import HANGS, NO_BYTECODE, Site, release, web_settings
from tests.processes.web import ask, dial

LATE = 'import importlib\ndef late():\n    return importlib.import_module("late").TEXT\n'
TELLS_LATE = f"""{LATE}
_about = about
def about(scope):
    return {{**_about(scope), "late": late(), "python": sys.executable, "version": sys.version_info[:2]}}
"""
TELLS_PACKAGE = """import dep
_about = about
def about(scope):
    return {**_about(scope), "dep": dep.VERSION, "prefix": sys.prefix}
"""


class Deployment:
    """`releases/N` with an app each, and `current`, which a deploy moves."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        (self.site.folder / "app.py").unlink()
        self.root = self.site.folder

    def put(self, number: int, *, after: str = TELLS_LATE, before: str = "") -> Path:
        folder = self.root / "releases" / str(number)
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(release(f"release {number}", before=before, after=after))
        (folder / "late.py").write_text(f"TEXT = 'late {number}'\n")
        return folder

    def move(self, number: int) -> None:
        """As deploy tools do: a new link, renamed over the old."""
        (self.root / "next").symlink_to(f"releases/{number}")
        (self.root / "next").rename(self.root / "current")

    def deploy(self, number: int, **more: str) -> Path:
        folder = self.put(number, **more)
        self.move(number)
        return folder

    def make_venv(self, number: int, version: str) -> Path:
        """A venv in the release, with the package `dep` in this version, and nothing else."""
        folder = self.root / "releases" / str(number) / ".venv"
        venv.create(folder, with_pip=False, symlinks=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "dep.py").write_text(f"VERSION = {version!r}\n")
        return folder

    def cluster(self, **settings: Any) -> Cluster:
        return self.site.configured(web_settings(chdir=str(self.root / "current"), **settings))


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def about(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = ask(cluster.bind, "/about").json()
    return found


def spawner_of(cluster: Cluster, generation: int) -> int:
    title = f"holdfast: web g{generation} spawner"
    pids = until(title, lambda: [pid for pid, found in cluster.processes().items() if found == title])
    return pids[0]


def test_each_release_runs_in_its_own_resolved_directory(deployment: Deployment) -> None:
    first = deployment.deploy(1)
    with deployment.cluster() as cluster:
        told = about(cluster)
        assert (told["release"], told["cwd"], told["path"]) == ("release 1", str(first), str(first))
        second = deployment.deploy(2)
        assert cluster.roll()["verdict"] == "committed"
        told = about(cluster)
        assert (told["release"], told["cwd"], told["path"]) == ("release 2", str(second), str(second))
        assert f"generation 2 is in {second}" in cluster.log


def test_old_workers_import_their_own_files_after_the_symlink_has_moved(deployment: Deployment) -> None:
    deployment.deploy(1)
    with deployment.cluster(workers=1) as cluster:
        deployment.deploy(2)
        assert about(cluster)["late"] == "late 1"  # imported only now


@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_new_spawner_of_an_old_generation_starts_in_the_old_release(deployment: Deployment, preload: str) -> None:
    deployment.deploy(1)
    with deployment.cluster(preload=preload, workers=1) as cluster:
        deployment.deploy(2)
        spawner = spawner_of(cluster, 1)
        worker = cluster.workers()[0]["pid"]
        os.kill(spawner, signal.SIGKILL)
        until("another spawner", lambda: spawner_of(cluster, 1) != spawner)
        os.kill(worker, signal.SIGKILL)
        until("another worker", lambda: [w for w in cluster.workers() if w["pid"] != worker and w["state"] == "ready"])
        told = about(cluster)
        assert (told["release"], told["late"]) == ("release 1", "late 1")


def test_a_roll_that_fails_goes_back_to_the_old_releases_files(deployment: Deployment) -> None:
    deployment.deploy(1)
    with deployment.cluster(preload="off") as cluster:
        deployment.deploy(2, before="raise RuntimeError('broken')")
        assert cluster.roll()["verdict"] == "rolled_back"
        old = {worker["pid"] for worker in cluster.workers()}
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        until("new workers", lambda: [w["state"] for w in cluster.workers() if w["pid"] not in old] == ["ready"] * 2)
        assert about(cluster)["release"] == "release 1"


def test_started_in_the_symlinked_directory_a_roll_follows_it_as_a_shell_would(deployment: Deployment) -> None:
    deployment.deploy(1)
    current = deployment.root / "current"
    for number in (1, 2):
        if number == 2:
            deployment.put(2)
        folder = deployment.root / "releases" / str(number)
        (folder / "holdfast.toml").write_text(
            f'[app.web]\napp = "app:app"\nenv = {{ TOLD = "{number}" }}\nworkers = 1\n'
        )
    with Cluster(deployment.root, cwd=current, env={"PWD": str(current), **NO_BYTECODE}) as cluster:
        assert about(cluster)["env"]["TOLD"] == "1"
        deployment.move(2)
        assert cluster.roll()["verdict"] == "committed"
        told = about(cluster)
        assert (told["release"], told["env"]["TOLD"]) == ("release 2", "2")


@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_release_brings_its_own_packages_in_its_own_venv(deployment: Deployment, preload: str) -> None:
    deployment.deploy(1, after=TELLS_PACKAGE)
    venvs = [deployment.make_venv(1, "1.0")]
    with deployment.cluster(python=".venv/bin/python", preload=preload) as cluster:
        assert (about(cluster)["dep"], about(cluster)["prefix"]) == ("1.0", str(venvs[0]))
        deployment.deploy(2, after=TELLS_PACKAGE)
        venvs.append(deployment.make_venv(2, "2.0"))
        assert cluster.roll()["verdict"] == "committed"
        assert (about(cluster)["dep"], about(cluster)["prefix"]) == ("2.0", str(venvs[1]))
        assert cluster.log.count("Traceback") == 0


def other_python() -> Path:
    """An interpreter of another version that holdfast runs on, beside ours or on PATH; skips when there is none."""
    ours = sys.version_info[:2]
    names = [f"python3.{minor}" for minor in range(11, 20) if (3, minor) != ours]
    beside = [path for name in names for path in Path(sys.base_prefix).parent.glob(f"*/bin/{name}")]
    found = [*beside, *(Path(path) for name in names if (path := shutil.which(name)))]
    for python in found:
        asked = subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False)
        if asked.returncode == 0:
            return python
    pytest.skip("there is no Python of another version on this machine")


@pytest.mark.timeout(300)  # it installs packages
def test_a_roll_brings_another_version_of_python_and_the_next_one_the_old_again(deployment: Deployment) -> None:
    python = other_python()
    deployment.deploy(1)
    deployment.make_venv(1, "1.0")
    with deployment.cluster(python=".venv/bin/python") as cluster:
        assert about(cluster)["version"] == list(sys.version_info[:2])
        folder = deployment.put(2)
        subprocess.run([python, "-m", "venv", folder / ".venv"], check=True)
        deployment.move(2)
        refused = cluster.roll()
        assert refused["verdict"] == "rolled_back"
        _, _, remedy = refused["reason"].partition("install it there: pip install ")
        pip = [str(folder / ".venv/bin/python"), "-m", "pip", "install", "-q", *shlex.split(remedy)]
        subprocess.run(pip, check=True, timeout=240)
        assert cluster.roll()["verdict"] == "committed"
        told = about(cluster)
        assert (told["release"], told["version"]) == ("release 2", [3, int(python.name.partition(".")[2])])
        deployment.deploy(3)
        deployment.make_venv(3, "1.0")
        assert cluster.roll()["verdict"] == "committed"
        assert about(cluster)["version"] == list(sys.version_info[:2])
        assert cluster.log.count("Traceback") == 0


def test_threads_at_import_make_the_venvs_interpreter_start_over_too(deployment: Deployment) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True, name='poller').start()"
    deployment.deploy(1, after=TELLS_PACKAGE, before=thread)
    deployment.make_venv(1, "1.0")
    with deployment.cluster(python=str(deployment.root / "current/.venv/bin/python"), workers=1) as cluster:
        assert about(cluster)["dep"] == "1.0"
        assert "each worker imports by itself" in cluster.log


def test_a_release_without_its_interpreter_is_rolled_back_in_one_line(deployment: Deployment) -> None:
    deployment.deploy(1, after=TELLS_PACKAGE)
    deployment.make_venv(1, "1.0")
    with deployment.cluster(python=".venv/bin/python") as cluster:
        second = deployment.deploy(2, after=TELLS_PACKAGE)
        verdict = cluster.roll()
        assert verdict["verdict"] == "rolled_back"
        assert verdict["reason"] == f"python {second}/.venv/bin/python can't be run: No such file or directory"
        assert about(cluster)["dep"] == "1.0"


def test_a_release_whose_venv_lacks_what_the_app_imports_is_rolled_back(deployment: Deployment) -> None:
    deployment.deploy(1)
    deployment.make_venv(1, "1.0")
    with deployment.cluster(python=".venv/bin/python") as cluster:
        deployment.deploy(2, before="import click")  # the master's own venv has it
        deployment.make_venv(2, "2.0")
        verdict = cluster.roll()
        assert (verdict["verdict"], verdict["reason"].split(" (")[0]) == (
            "rolled_back",
            "can't import app:app: ModuleNotFoundError: No module named 'click'",
        )


def test_a_venv_that_does_not_fit_is_told_as_the_reason(deployment: Deployment) -> None:
    deployment.deploy(1)
    packages = next(deployment.make_venv(1, "1.0").glob("lib/python3*/site-packages"))
    (packages / "websockets").mkdir()
    (packages / "websockets" / "__init__.py").touch()
    (packages / "websockets-10.4.dist-info").mkdir()
    cluster = deployment.cluster(python=".venv/bin/python").start()
    assert cluster.wait_exit() == 1
    assert "can't start: python" in cluster.log
    assert "websockets 10.4, but 13.1 or later is needed" in cluster.log


def test_check_imports_with_the_interpreter_of_the_settings(deployment: Deployment) -> None:
    deployment.deploy(1, after=TELLS_PACKAGE)
    deployment.make_venv(1, "1.0")
    cluster = deployment.cluster(python=".venv/bin/python")
    done = holdfast("check", cwd=deployment.root)
    assert done.returncode == 0, done.stdout + done.stderr
    cluster = deployment.cluster(python=".venv/bin/nothing")
    done = holdfast("check", cwd=cluster.folder)
    assert done.returncode == 1
    assert "FAILED: python" in done.stdout
    assert "can't be run: No such file or directory" in done.stdout


def settings_warnings(cluster: Cluster) -> list[str]:
    return [line.split(" log ", 1)[1].strip() for line in cluster.events() if " warning " in line and "changed" in line]


def test_new_addresses_are_open_before_the_roll_and_closed_again_when_it_is_rolled_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings()) as cluster:
        kept, extra, path = cluster.bind, f"127.0.0.1:{free_port()}", tmp_path / "web.sock"
        site.write("hangs", before=HANGS)
        text = web_settings(kept, boot_timeout=2.0)
        site.settings(text.replace(f'"{kept}"', f'"{kept}", "{extra}", "unix:{path}"'))
        before = cluster.app()["last_roll"]
        cluster.kill(signal.SIGUSR2)
        until(
            "the new addresses open while the release is imported", lambda: is_open(extra) and is_open(f"unix:{path}")
        )
        assert cluster.app()["state"] == "rolling"
        assert f"listening on {extra}, unix:{path}, too" in cluster.log
        assert cluster.wait_roll(before)["verdict"] == "rolled_back"
        until("the new addresses closed", lambda: not is_open(extra) and not path.exists())
        assert cluster.app()["bind"] == [kept]
        assert ask(kept).status == 200
        site.write("good")
        assert cluster.roll()["verdict"] == "committed"
        assert ask(extra).headers["x-release"] == "good"


def is_open(address: str) -> bool:
    try:
        dial(address, 1.0).close()
    except OSError:
        return False
    return True


def test_a_removed_address_is_served_until_the_roll_is_committed_and_kept_when_it_is_not(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.configured(web_settings()) as cluster:
        old, new = cluster.bind, f"127.0.0.1:{free_port()}"
        site.settings(web_settings(new))
        site.write("broken", before="raise RuntimeError('broken')")
        assert cluster.roll()["verdict"] == "rolled_back"
        assert ask(old).headers["x-release"] == "first"
        assert not is_open(new)
        site.write("good")
        assert cluster.roll()["verdict"] == "committed"
        assert ask(new).headers["x-release"] == "good"
        until("the old address closed", lambda: not is_open(old))


def test_what_a_roll_cannot_bring_in_is_named_in_warnings_and_the_rest_comes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    path = tmp_path / "web.sock"
    text = web_settings().replace("]", f', "unix:{path}"]', 2).replace(f'[app.web, "unix:{path}"]', "[app.web]")
    other = free_port()
    with site.configured(text) as cluster:
        text = text.replace("{bind}", cluster.bind)
        site.settings(text + '\nenv = { COLOUR = "blue" }\nbacklog = 100\nunix_mode = "0600"\n')
        assert cluster.roll()["verdict"] == "committed"
        assert about(cluster)["env"]["COLOUR"] == "blue"
        assert settings_warnings(cluster) == [
            "changed, and not taken by sockets that stay open: backlog, unix_mode; stop and start the app"
        ]
        more = f'\n[app.more]\napp = "app:app"\nbind = ["127.0.0.1:{other}"]\n[supervisor]\npidfile = "pid"\n'
        site.settings(text + more)
        assert cluster.roll()["verdict"] == "committed"
        needed = "changed, and takes effect only when holdfast is started anew: [supervisor] pidfile, [app.more]"
        assert settings_warnings(cluster)[1:] == [needed]
        assert not (tmp_path / "pid").exists()
        assert not is_open(f"127.0.0.1:{other}")


@pytest.mark.parametrize("more", [{"keep_previous": "off"}, {"preload": "off"}])
def test_a_rollback_imports_a_release_that_is_not_at_hand_from_its_own_directory(
    deployment: Deployment, more: dict[str, Any]
) -> None:
    deployment.deploy(1)
    with deployment.cluster(before_roll=["sh", "-c", "pwd >> ../../before"], **more) as cluster:
        deployment.deploy(2)
        assert cluster.roll()["verdict"] == "committed"
        done = cluster.ctl("rollback")
        assert done.returncode == 0, done.stdout + done.stderr
        told = about(cluster)
        assert (told["release"], told["late"]) == ("release 1", "late 1")
        last = cluster.app()["last_roll"]
        assert (last["from"], last["to"], last["verdict"]) == (2, 3, "committed")
        assert (deployment.root / "before").read_text() == f"{deployment.root}/releases/2\n", "a rollback runs none"
        assert cluster.ctl("rollback").returncode == 0
        assert about(cluster)["release"] == "release 2"


def test_a_rollback_to_a_directory_that_is_gone_is_itself_rolled_back(deployment: Deployment) -> None:
    first = deployment.deploy(1)
    with deployment.cluster(keep_previous="off") as cluster:
        deployment.deploy(2)
        assert cluster.roll()["verdict"] == "committed"
        until("the old workers gone", lambda: not [t for t in cluster.processes().values() if " g1 " in t])
        first.rename(deployment.root / "gone")
        done = cluster.ctl("rollback")
        assert done.returncode == 1
        assert f"chdir {first}: No such file or directory" in done.stdout + done.stderr
        assert about(cluster)["release"] == "release 2"
