"""What is run when something happens: at rolls, in processes of their own; in the life of a worker, in the worker."""

from __future__ import annotations

import json
import signal
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import holdfast
from tests.processes.cluster import Cluster, until
from tests.processes.releases import Site, web_settings
from tests.processes.web import ask

HOOKS = """
import json, os, sys, time

def note(what, **more):
    told = {"what": what, "pid": os.getpid(), "prefix": sys.prefix, "cwd": os.getcwd(), **more}
    with open("notes", "a") as file:
        file.write(json.dumps(told) + "\\n")

def roll():
    told = {key: value for key, value in os.environ.items() if key.startswith("HOLDFAST_")}
    note(told["HOLDFAST_HOOK"], **told, colour=os.environ.get("COLOUR"))
    print("said by", told["HOLDFAST_HOOK"])

def fails():
    roll()
    raise RuntimeError("no database")

def slow():
    note("began")
    time.sleep(float(os.environ["PAUSE"]))
    note("ended")

def before_fork(worker):
    note("before_fork", slot=worker.slot)

def after_fork(worker):
    note("after_fork", slot=worker.slot, app=worker.app, generation=worker.generation)

def start(worker):
    note("on_worker_start", slot=worker.slot)

def exits(worker):
    note("on_worker_exit", slot=worker.slot)

async def coroutine(worker): ...
"""
NOTES = (
    "import hooks\n_up = on_startup\nasync def on_startup(state):\n    hooks.note('lifespan')\n    await _up(state)\n"
)
NOTES += "_down = on_shutdown\ndef on_shutdown():\n    hooks.note('shutdown')\n    _down()\n"
SHELL = ["sh", "-c", 'echo "$HOLDFAST_HOOK $HOLDFAST_TO $HOLDFAST_VERDICT" >> told; pwd >> told']


class Hooked:
    """A site with hooks, and what they note."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        (self.site.folder / "hooks.py").write_text(HOOKS)

    def cluster(self, **settings: Any) -> Cluster:
        return self.site.configured(web_settings(**settings))

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        path = self.site.folder / "notes"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if what in (None, line["what"])]

    def wait_for(self, what: str, count: int = 1) -> list[dict[str, Any]]:
        return until(f"{count} times {what}", lambda: found if len(found := self.notes(what)) >= count else [])


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    return Hooked(tmp_path)


def test_functions_are_told_of_the_roll_in_their_environment_and_run_in_processes_of_their_own(hooked: Hooked) -> None:
    text = web_settings(before_roll="hooks:roll", after_commit="hooks:roll") + '\nenv = { COLOUR = "blue" }\n'
    with hooked.site.configured(text) as cluster:
        assert hooked.notes() == [], "a first start is no roll"
        assert cluster.roll()["verdict"] == "committed"
        (after,) = hooked.wait_for("after_commit")
        (before,) = hooked.notes("before_roll")
        folder = str(hooked.site.folder)
        for told in (before, after):
            assert (told["HOLDFAST_APP"], told["HOLDFAST_FROM"], told["HOLDFAST_TO"]) == ("web", "1", "2")
            assert (told["HOLDFAST_RELEASE"], told["cwd"], told["HOLDFAST_ROLL"]) == (folder, folder, "1")
            assert told["colour"] == "blue"
            assert told["pid"] not in {cluster.pid, *(worker["pid"] for worker in cluster.workers())}
        assert (before["HOLDFAST_VERDICT"], after["HOLDFAST_VERDICT"]) == ("running", "committed")
        assert set(json.loads(after["HOLDFAST_LEDGER"])) >= {"accepted", "completed", "cut", "reset", "handed_over"}
        until("what it printed", lambda: "said by after_commit" in cluster.output)
        assert "said by before_roll" in cluster.output
        until("its end", lambda: "after_commit is done after" in cluster.log)


def test_a_before_roll_that_fails_prevents_the_roll_and_is_its_reason(hooked: Hooked) -> None:
    with hooked.cluster(before_roll="hooks:fails", after_rollback="hooks:roll") as cluster:
        hooked.site.write("second")
        done = cluster.ctl("reload")
        assert done.returncode == 1
        assert "before_roll failed: exit code 1: RuntimeError: no database" in done.stdout + done.stderr
        assert "Traceback" in done.stdout + done.stderr
        assert hooked.site.imports("second") == []
        assert ask(cluster.bind).headers["x-release"] == "first"
        (told,) = hooked.wait_for("after_rollback")
        assert told["HOLDFAST_REASON"] == "before_roll failed: exit code 1: RuntimeError: no database"
        assert told["HOLDFAST_VERDICT"] == "rolled_back"


def test_functions_run_in_the_releases_own_interpreter(hooked: Hooked) -> None:
    venv.create(hooked.site.folder / ".venv", with_pip=False, symlinks=True)
    with hooked.cluster(before_roll="hooks:roll", python=".venv/bin/python") as cluster:
        assert cluster.roll()["verdict"] == "committed"
        (told,) = hooked.notes("before_roll")
        assert told["prefix"] == str(hooked.site.folder / ".venv")


def test_commands_run_without_a_shell_in_the_releases_directory(hooked: Hooked) -> None:
    touch = [sys.executable, "-c", "import sys; open('words', 'w').write(repr(sys.argv[1:]))", "$HOME", "a b", "*"]
    with hooked.cluster(before_roll=touch, after_commit=SHELL) as cluster:
        assert cluster.roll()["verdict"] == "committed"
        assert (hooked.site.folder / "words").read_text() == "['$HOME', 'a b', '*']"
        told = hooked.site.folder / "told"
        until("after_commit", lambda: told.exists() and len(told.read_text().splitlines()) == 2)
        assert told.read_text() == f"after_commit 2 committed\n{hooked.site.folder}\n"


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (["./no-such-command"], "exit code 1: holdfast: ./no-such-command can't be run: No such file or directory"),
        (["sh", "-c", "echo oops >&2; exit 7"], "exit code 7: oops"),
        (["sh", "-c", "kill -SEGV $$"], "killed by SIGSEGV"),
        ("hooks:missing", "hooks.py) has no 'missing'"),
        ("hooks:coroutine", "hooks:coroutine is a coroutine function; a plain function is called here"),
    ],
)
def test_what_is_wrong_with_a_hook_is_the_reason_in_one_line(hooked: Hooked, hook: object, said: str) -> None:
    with hooked.cluster(before_roll=hook) as cluster:
        verdict = cluster.roll()
        assert verdict["verdict"] == "rolled_back"
        assert verdict["reason"].startswith("before_roll failed: ")
        assert verdict["reason"].endswith(said)


def test_a_hook_that_takes_too_long_is_killed_with_what_it_has_started(hooked: Hooked) -> None:
    command = ["sh", "-c", "sleep 600 & echo $! > sleeper; wait"]
    with hooked.cluster(before_roll=command, hook_timeout=0.5) as cluster:
        verdict = cluster.roll()
        assert verdict["reason"] == "before_roll failed: not done within hook_timeout, 0.5 s"
        sleeper = int((hooked.site.folder / "sleeper").read_text())
        until("the sleeper gone", lambda: sleeper not in cluster.processes())


def test_a_failing_after_commit_is_told_and_changes_nothing(hooked: Hooked) -> None:
    with hooked.cluster(after_commit="hooks:fails") as cluster:
        assert cluster.roll()["verdict"] == "committed"
        until("the failure", lambda: "after_commit failed: exit code 1: RuntimeError: no database" in cluster.log)
        assert cluster.app()["state"] == "running"
        assert cluster.roll()["verdict"] == "committed"


def test_the_master_serves_on_while_a_hook_runs_and_a_newer_roll_waits_for_its_end(hooked: Hooked) -> None:
    settings = web_settings(before_roll="hooks:slow") + '\nenv = { PAUSE = "1" }\n'
    with hooked.site.configured(settings) as cluster:
        cluster.kill(signal.SIGUSR2)
        hooked.wait_for("began")
        assert ask(cluster.bind).status == 200
        assert cluster.app()["state"] == "rolling"
        for _ in range(2):  # the first of them is superseded before its turn comes
            to = cluster.app()["last_roll"]["to"]
            cluster.kill(signal.SIGUSR2)
            until("superseded", lambda to=to: cluster.app()["last_roll"]["to"] > to)  # type: ignore[misc]
        until("the last one's verdict", lambda: cluster.app()["last_roll"]["verdict"] == "committed")
        assert [note["what"] for note in hooked.notes()] == ["began", "ended", "began", "ended"]
        assert cluster.app()["last_roll"]["to"] == 4


def test_a_stop_does_not_wait_for_a_hook(hooked: Hooked) -> None:
    with hooked.cluster(
        before_roll=["sh", "-c", "echo $$ > hook; trap '' TERM; while :; do sleep 0.1; done"]
    ) as cluster:
        cluster.kill(signal.SIGUSR2)
        until("the hook runs", lambda: (hooked.site.folder / "hook").exists())
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


def test_a_rollback_by_hand_runs_no_before_roll(hooked: Hooked) -> None:
    with hooked.cluster(before_roll="hooks:roll", after_commit="hooks:roll") as cluster:
        assert cluster.roll()["verdict"] == "committed"
        assert cluster.ctl("rollback").returncode == 0
        (_reload, back) = hooked.wait_for("after_commit", 2)
        assert (back["HOLDFAST_FROM"], back["HOLDFAST_TO"]) == ("2", "1")
        assert len(hooked.notes("before_roll")) == 1


WORKER = {
    "before_fork": "hooks:before_fork",
    "after_fork": "hooks:after_fork",
    "on_worker_start": "hooks:start",
    "on_worker_exit": "hooks:exits",
}


@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_workers_life_is_told_in_order(hooked: Hooked, preload: str) -> None:
    hooked.site.write("noting", after=NOTES)
    with hooked.cluster(workers=1, preload=preload, **WORKER) as cluster:
        worker = cluster.workers()[0]["pid"]
        spawner = [pid for pid, title in cluster.processes().items() if title.endswith("spawner")]
    life = ["after_fork", "on_worker_start", "lifespan", "shutdown", "on_worker_exit"]
    assert [note["what"] for note in hooked.notes() if note["pid"] == worker] == life
    assert [note["pid"] for note in hooked.notes("before_fork")] == (spawner if preload == "on" else [])
    (after,) = hooked.notes("after_fork")
    assert (after["app"], after["slot"], after["generation"]) == ("web", 1, 1)


@pytest.mark.parametrize("name", ["before_fork", "after_fork", "on_worker_start"])
def test_a_worker_hook_that_fails_gives_the_release_up(hooked: Hooked, name: str) -> None:
    with hooked.cluster() as cluster:
        (hooked.site.folder / "bad.py").write_text("def hook(worker):\n    raise RuntimeError('no licence')\n")
        hooked.site.settings(web_settings(cluster.bind, **{name: "bad:hook"}))
        verdict = cluster.roll()
        assert verdict["verdict"] == "rolled_back"
        assert f"{name} failed: RuntimeError: no licence" in verdict["reason"]
        assert 'bad.py", line 2, in hook' in cluster.log
        assert ask(cluster.bind).status == 200


def test_a_failing_on_worker_exit_shows_in_the_log_and_delays_nothing(hooked: Hooked) -> None:
    (hooked.site.folder / "bad.py").write_text("def hook(worker):\n    raise RuntimeError('too late')\n")
    with hooked.cluster(on_worker_exit="bad:hook") as cluster:
        assert cluster.roll()["verdict"] == "committed"
        until("told", lambda: "RuntimeError: too late" in cluster.log and "left: exit code 1" in cluster.log)


def test_check_finds_hooks_that_are_not_there(hooked: Hooked) -> None:
    for name in ("on_worker_exit", "after_commit"):
        hooked.site.settings(web_settings("127.0.0.1:1", **{name: "hooks:nothing"}))
        done = holdfast("check", cwd=hooked.site.folder)
        assert done.returncode == 1
        assert "web: FAILED: hooks:nothing: module hooks" in done.stdout
