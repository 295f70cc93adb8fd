"""Clusters started by root: what their processes may do, what they may not, and what nobody gets to see."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.users import NOBODY, open_folder, python_for_anybody
from tests.processes.web import ask

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

APP = """\
import json, os, sys

print("says", os.environ.get("SECRET"), file=open("/dev/stdout", "w")) if os.environ.get("TELL") else None

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            event = await receive()
            await send({"type": event["type"] + ".complete"})
        return
    status = open("/proc/self/status").read()
    open("made", "w").close() if os.access(".", os.W_OK) else None
    told = {
        "status": {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines())},
        "environ": {key: os.environ.get(key) for key in ("SECRET", "FROM", "HOME", "USER", "LOGNAME")},
        "score": int(open("/proc/self/oom_score_adj").read()),
    }
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""


@pytest.fixture
def site() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "app.py").write_text(APP)
        yield folder


def cluster(site: Path, *arguments: str, **env: str) -> Cluster:
    python, environment = python_for_anybody()
    made = Cluster(site, "app:app", "-w", "1", *arguments, env={**environment, **env})
    made.command = [python, *made.command[1:]]
    return made


def identity(pid: int) -> tuple[str, str]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return lines["Uid"].split()[0], lines["Gid"].split()[0]


def test_spawner_and_workers_are_the_user_and_the_master_stays_root(site: Path) -> None:
    with cluster(site, "--user", "nobody", "--umask", "077") as web:
        found = ask(web.bind).json()
        nobody = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
        who = {title: identity(pid) for pid, title in web.processes().items()}
        assert who == {
            "holdfast: master": ("0", "0"),
            "holdfast: web g1 spawner": nobody,
            "holdfast: web g1 w1 ready": nobody,
        }
        status = found["status"]
        assert (status["NoNewPrivs"], status["CapEff"], status["CapBnd"]) == ("1", "0" * 16, "0" * 16)
        assert status["Umask"] == "0077"
        assert found["environ"]["USER"] == found["environ"]["LOGNAME"] == "nobody"
        assert found["environ"]["HOME"] == NOBODY.pw_dir
        assert found["score"] == int(Path(f"/proc/{web.pid}/oom_score_adj").read_text()) + 100
        assert "runs as root" not in web.log
        assert web.status()["apps"]["web"]["workers"][0]["pss_bytes"] > 0
        assert web.stop() == 0
        assert not web.leftovers()


def test_root_binds_what_the_user_could_not_and_rolls_keep_the_user(site: Path) -> None:
    with cluster(site, "--user", "nobody", "--bind", "127.0.0.1:81", "--bind", f"unix:{site}/web.sock") as web:
        assert ask("127.0.0.1:81").status == 200
        assert ask(f"unix:{site}/web.sock").status == 200
        assert web.ctl("reload").returncode == 0
        worker = web.status()["apps"]["web"]["workers"][0]
        assert (worker["generation"], identity(worker["pid"])) == (2, (str(NOBODY.pw_uid), str(NOBODY.pw_gid)))
        os.kill(worker["pid"], signal.SIGKILL)
        until("replaced", lambda: [w for w in web.workers() if w["pid"] != worker["pid"] and w["state"] == "ready"])
        assert ask("127.0.0.1:81").json()["status"]["Uid"].split()[0] == str(NOBODY.pw_uid)


def test_an_upgraded_master_still_starts_everything_as_the_user(site: Path) -> None:
    (site / "shop.env").write_text("SECRET=hunter2\n")
    (site / "shop.env").chmod(0o600)
    with cluster(site, "--user", "nobody", "--env-file", "shop.env") as web:
        assert web.ctl("upgrade").returncode == 0
        (site / "shop.env").unlink()  # what a release was started with stays its own
        for pid, title in web.processes().items():
            if title != "holdfast: master":
                os.kill(pid, signal.SIGKILL)
        until("all anew", lambda: len(web.processes()) == 3 and web.wait_ready())
        assert {identity(pid)[0] for pid, title in web.processes().items() if title != "holdfast: master"} == {
            str(NOBODY.pw_uid)
        }
        assert ask(web.bind).json()["environ"]["SECRET"] == "hunter2"


def test_workers_of_another_user_are_adopted(site: Path) -> None:
    with cluster(site, "--user", "nobody") as web:
        before = web.workers()
        web.kill(signal.SIGKILL)
        web.wait_exit()
        web.start()
        until("adopted", lambda: web.workers() and "master.adopted" in web.log)
        assert [worker["pid"] for worker in web.workers()] == [worker["pid"] for worker in before]
        assert web.ctl("reload").returncode == 0
        assert ask(web.bind).json()["status"]["Uid"].split()[0] == str(NOBODY.pw_uid)


def test_root_that_stays_root_is_warned_once(site: Path) -> None:
    with cluster(site) as web:
        assert web.log.count("runs as root, with all that its code imports: web; name a user") == 1
        assert web.ctl("reload").returncode == 0
        assert web.log.count("runs as root") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "no-such-user"), "user no-such-user: this machine has no such user"),
        (("--user", "nobody", "--group", "no-such"), "group no-such: this machine has no such group"),
        (("--env-file", "gone"), "gone: can't be read: No such file or directory"),
        (("--credentials", "A=db"), "credential db for A: $CREDENTIALS_DIRECTORY is not set"),
    ],
)
def test_what_cannot_be_had_ends_the_start_with_one_line(arguments: tuple[str, ...], said: str, site: Path) -> None:
    web = cluster(site, *arguments).start()
    assert web.wait_exit() == 1
    assert said in web.log
    assert "Traceback" not in web.log
    assert len([line for line in web.log.splitlines() if " error " in line]) == 1


def test_a_user_that_may_not_read_the_app_is_told_by_the_import(site: Path) -> None:
    (site / "app.py").chmod(0o600)
    web = cluster(site, "--user", "nobody").start()
    assert web.wait_exit() == 1
    assert "can't import app:app" in web.log


def test_secrets_reach_the_app_and_nothing_else_shows_them(site: Path) -> None:
    """The file is root's alone; its value is in the environment of the user's processes."""
    credentials = site / "credentials"
    credentials.mkdir()
    (credentials / "from").write_text("hunter3")
    (site / "shop.env").write_text("SECRET='hunter2 '\n")
    (site / "shop.env").chmod(0o600)
    secrets = ("--env-file", "shop.env", "--credentials", "FROM=from")
    with cluster(site, "--user", "nobody", *secrets, CREDENTIALS_DIRECTORY=str(credentials)) as web:
        found = ask(web.bind).json()["environ"]
        assert (found["SECRET"], found["FROM"]) == ("hunter2 ", "hunter3")
        (site / "shop.env").write_text("SECRET=hunter4\n")
        assert web.ctl("reload").returncode == 0
        assert ask(web.bind).json()["environ"]["SECRET"] == "hunter4"
        (site / "shop.env").write_text("SECRET=x\nhunter5\n")
        refused = web.ctl("reload")
        assert refused.returncode == 1
        shown = [web.log, web.output, refused.stdout, refused.stderr]
        shown += [
            web.ctl(*words).stdout for words in (["status"], ["--json", "status"], ["--json", "events"], ["rolls"])
        ]
        shown += list(web.processes().values())
        shown += [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in web.processes()]
        assert "shop.env: line 2: NAME=VALUE was expected" in refused.stderr
        assert not any("hunter" in text for text in shown)
        assert "is open to other users" not in web.log


def test_the_check_imports_as_the_user_and_shows_no_secret(site: Path) -> None:
    (site / "app.py").write_text(APP.replace("import json, os, sys", "import json, os, sys\nprint(os.getuid())"))
    (site / "shop.env").write_text("SECRET=hunter2\n")
    web = cluster(site)
    web.command[-1] = "check"
    web.arguments = ["app:app", "--user", "nobody", "--env-file", "shop.env"]
    web.start()
    assert web.wait_exit() == 0, web.log
    assert web.output.startswith("web: OK: asgi, ")
    assert web.log.strip() == str(NOBODY.pw_uid)
    assert "hunter2" not in web.output


def test_hooks_run_as_the_user_too(site: Path) -> None:
    bind = cluster(site).bind
    (site / "holdfast.toml").write_text(
        f'[app.web]\napp = "app:app"\nbind = ["{bind}"]\nbake = 0.1\nworkers = 1\nuser = "nobody"\n'
        'before_roll = ["sh", "-c", "echo hook of $(id -u) in $HOME"]\n'
    )
    python, environment = python_for_anybody()
    web = Cluster(site, bind="", env=environment)
    web.command = [python, *web.command[1:]]
    with web:
        assert web.ctl("reload").returncode == 0
        assert f"hook of {NOBODY.pw_uid} in {NOBODY.pw_dir}" in web.output


def test_the_app_may_open_its_own_output_by_its_path(site: Path) -> None:
    (site / "shop.env").write_text("SECRET=told-by-the-app-itself\nTELL=1\n")
    with cluster(site, "--user", "nobody", "--env-file", "shop.env") as web:
        until("the app's line", lambda: "says told-by-the-app-itself" in web.output)
        assert "env_file shop.env is open to other users (mode 0644): chmod 600 shop.env" in web.log


def test_a_new_master_of_root_s_adopts_another_user_s_workers_and_no_secret_lies_in_a_file(site: Path) -> None:
    (site / "secrets").write_text("SECRET=between-us\n")
    (site / "secrets").chmod(0o600)
    with cluster(site, "--user", "nobody", "--env-file", str(site / "secrets")) as web:
        before = web.workers()[0]["pid"]
        web.kill(signal.SIGKILL)
        web.wait_exit()
        state = Path(f"{web.control}.state")
        assert state.stat().st_mode & 0o777 == 0o600
        assert b"between-us" not in state.read_bytes()
        web.start().wait_ready()
        assert web.workers()[0]["pid"] == before
        assert web.ctl("upgrade").returncode == 0
        os.kill(before, signal.SIGKILL)
        until("another worker", lambda: [w["state"] for w in web.workers() if w["pid"] != before] == ["ready"])
        found = ask(web.bind).json()
        assert found["environ"]["SECRET"] == "between-us"
        assert found["status"]["Uid"].split()[0] == str(NOBODY.pw_uid)
        assert web.roll()["verdict"] == "committed"
        assert ask(web.bind).json()["environ"]["SECRET"] == "between-us"
