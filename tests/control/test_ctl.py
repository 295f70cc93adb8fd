"""holdfastctl as people run it: a process of its own, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from supervisor.control.client import ControlClient
from tests.control.conftest import StartMaster
from tests.control.holdfastctl import ANSI, CTL, Ctl, environment, on_terminal

# What is there


def test_status_in_a_pipe_is_plain_and_aligned(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("status")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert lines[0].startswith("holdfast 0.1.0, pid ")
    assert lines[1].startswith("web  running  generation 1  127.0.0.1:8000  2/2 ready")
    assert [line.split()[0] for line in lines[3:5]] == ["web:1", "web:2"]
    assert lines[5].startswith("api  stopped")


def test_status_on_a_terminal_is_coloured(start_master: StartMaster, path: str) -> None:
    start_master()
    code, seen = on_terminal([*CTL, "-s", path, "status"])
    assert code == 0
    assert "\x1b[32mrunning" in seen
    assert "web:1" in ANSI.sub("", seen)


def test_no_color_is_respected_on_a_terminal(start_master: StartMaster, path: str) -> None:
    start_master()
    _, seen = on_terminal([*CTL, "-s", path, "status"], NO_COLOR="1")
    assert "running" in seen
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", seen)


@pytest.mark.parametrize(
    ("targets", "code"),
    [(["web"], 0), (["web:2"], 0), (["api"], 3), (["api:1"], 3), (["web", "api"], 3), (["all"], 3), (["wbe"], 1)],
)
def test_status_of_a_target_tells_by_its_exit_code(
    start_master: StartMaster, ctl: Ctl, targets: list[str], code: int
) -> None:
    start_master()
    done = ctl("status", *targets)
    assert done.returncode == code
    assert (done.stderr == "") == (code != 1)


def test_status_of_one_worker_shows_that_one(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert re.findall(r"\w+:\d ", ctl("status", "web:2").stdout) == ["web:2 "]
    shown = json.loads(ctl("--json", "status", "web:2").stdout)
    assert [worker["slot"] for worker in shown["apps"]["web"]["workers"]] == [2]


def test_an_unknown_name_is_one_line_that_names_the_known_ones(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert ctl("status", "wbe").stderr == "holdfastctl: no app called 'wbe'; there is web, api\n"
    assert ctl("pid", "web:7").stderr == "holdfastctl: web has no worker 7; it has 1, 2\n"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("status", "--json"), "it stands before the command: `holdfastctl --json status`"),
        (("pid", "-s", "x.sock"), "it stands before the command: `holdfastctl -s SOCK pid`"),
        (("status", "--jsn"), "`holdfastctl --help` lists what there is"),
        (("--jsn", "status"), "`holdfastctl --help` lists what there is"),
    ],
)
def test_an_option_in_the_wrong_place_is_one_line_that_shows_the_right_one(
    ctl: Ctl, arguments: tuple[str, ...], remedy: str
) -> None:
    done = ctl(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("holdfastctl: No such option '-")
    assert done.stderr.endswith(f" ({remedy})\n")


def test_pid_prints_the_masters_or_the_workers(start_master: StartMaster, ctl: Ctl) -> None:
    master = start_master()
    assert ctl("pid").stdout == f"{master.pid}\n"
    assert ctl("pid", "web").stdout == "1001\n1002\n"
    assert ctl("pid", "web:2").stdout == "1002\n"
    stopped = ctl("pid", "api")
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert "holdfastctl start api" in stopped.stderr


def test_version_is_the_masters(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert ctl("version").stdout == "0.1.0\n"


# Changes


def test_start_waits_until_it_serves(start_master: StartMaster, ctl: Ctl, path: str) -> None:
    start_master()
    done = ctl("start", "api")
    assert done.returncode == 0
    assert re.fullmatch(r"api: started: 1 worker is ready \(\d+\.\d s\)\n", done.stdout)
    assert ControlClient(path).status().apps["api"].state == "running"


def test_start_of_what_runs_is_refused(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("start", "web")
    assert (done.returncode, done.stderr) == (1, "holdfastctl: web is running already\n")


def test_stop_waits_until_nothing_is_left(start_master: StartMaster, ctl: Ctl, path: str) -> None:
    start_master()
    assert re.fullmatch(r"web:1: stopped \(.*\)\n", ctl("stop", "web:1").stdout)
    assert re.fullmatch(r"web: stopped \(.*\)\n", ctl("stop", "web").stdout)
    assert ControlClient(path).status().apps["web"].state == "stopped"


def test_restart_waits_for_new_processes(start_master: StartMaster, ctl: Ctl, path: str) -> None:
    start_master()
    assert ctl("restart", "web").stdout.startswith("web: restarted: 2 workers are ready (")
    assert {worker.pid for worker in ControlClient(path).status().apps["web"].workers}.isdisjoint({1001, 1002})


def test_a_start_that_fails_says_why(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("fail_to_start")
    done = ctl("start", "api")
    assert done.returncode == 1
    assert "api: could not be started" in done.stderr
    assert "ModuleNotFoundError: nope" in done.stderr


def test_a_start_that_the_master_gives_up_says_why(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("give_up_start")
    done = ctl("start", "api")
    assert done.returncode == 1
    assert "the start has failed" in done.stderr
    assert "127.0.0.1:8000 is in use" in done.stderr


def test_waiting_can_be_bounded(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("never_start")
    done = ctl("start", "api", "--timeout", "0.3")
    assert done.returncode == 1
    assert "start is not done yet (starting, 0 of 1 workers ready)" in done.stderr


def test_a_master_that_dies_meanwhile_ends_the_waiting(start_master: StartMaster, ctl: Ctl, path: str) -> None:
    master = start_master("never_start")
    waiting = subprocess.Popen([*CTL, "-s", path, "start", "api"], stderr=subprocess.PIPE, text=True)
    _until(lambda: ControlClient(path).status().apps["api"].state == "starting")
    master.kill()
    _, complaint = waiting.communicate(timeout=20)
    assert waiting.returncode == 4
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(("workers", "count"), [("5", 5), ("+1", 3), ("-1", 1)])
def test_scale_takes_numbers_and_differences(start_master: StartMaster, ctl: Ctl, workers: str, count: int) -> None:
    start_master()
    done = ctl("scale", "web", workers)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{count} worker" in done.stdout


@pytest.mark.parametrize("workers", ["many", "+-1", "--1", "1.5", "+", "+auto", "2..8"])
def test_scale_by_nonsense_is_a_usage_error(start_master: StartMaster, ctl: Ctl, workers: str) -> None:
    start_master()
    assert ctl("scale", "web", workers).returncode == 2


def test_signal_tells_whom_it_reached(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert ctl("signal", "USR1", "web").stdout == "web: USR1 sent to pid 1001, 1002\n"


def test_heap_tells_its_cost_first_and_shows_what_grew(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("heap", "web:1", "--diff", "2")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "web:1: allocations are traced for 2 s; a request takes this worker four to five times"
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["tracing", "ended", "early"]
    assert lines[1] == ["Allocated", "in", "2.0", "s", "and", "not", "freed:", "3M", "in", "5000", "blocks"]
    assert lines[3] == ["2M", "4000", "/srv/shop/cart.py:12", "HELD.append({})"]
    assert lines[4][-3:] == ["f()", "(by", "/lib/y.py:7)"]
    assert ["20000", "+4000", "dict"] in lines
    assert ["4000", "+0", "32K", "list", "dict", "shop.HELD"] in lines


def test_heap_as_json_is_all_of_it_and_nothing_else(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("--json", "heap", "web:1", "--diff", "0")
    assert done.stderr == ""
    assert json.loads(done.stdout)["traced_count"] == 5000


def test_stack_shows_each_thread_and_task_and_garbles_no_terminal(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("stack", "web:1")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "web:1, pid 1001, generation 1, stalled, its event loop blocked for 2.5 s",
        "",
        "the loop's thread MainThread, GET /cart (2.6 s, id 4f):",
        "  /srv/shop/cart.py:12 in total: time.sleep(9)",
        "",
        "task request, running:",
        "  /srv/shop/\\x1b.py:3 in app",
        "",
        "7 tasks more, which one answer has no room for",
    ]


def test_stack_as_json_is_all_of_it(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    found = json.loads(ctl("--json", "stack", "web:1").stdout)
    assert found["workers"][0]["stacks"]["how"] == "interrupted"


def test_stack_of_more_than_one_worker_is_refused(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("stack", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "one worker, such as web:1, not web" in done.stderr


def test_heap_of_a_worker_that_ends_meanwhile_is_one_line(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("heap", "web:2", "--diff", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "holdfastctl: web:2: the worker has ended meanwhile"


def test_shutdown_waits_until_the_master_is_gone(start_master: StartMaster, ctl: Ctl) -> None:
    master = start_master()
    done = ctl("shutdown")
    assert done.returncode == 0
    assert f"(pid {master.pid}) has stopped" in done.stdout
    assert master.wait(5) == 0
    assert ctl("status").returncode == 4


# Rolls


LEDGER = "requests: 7 accepted, 6 completed, 1 under way, 0 cut, 0 reset; connections: 3 handed over, 0 drained, 0 cut"


def test_reload_shows_each_step_and_the_end(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("reload", "web")
    assert done.returncode == 0
    assert [re.sub(r"\d+\.\d", "N", line) for line in done.stdout.splitlines()] == [
        "web: generation 2 is on its way (from 1)",
        "web: worker 1 replaced (1 of 2) (N s)",
        "web: worker 2 replaced (2 of 2) (N s)",
        f"web: generation 2 committed in N s; {LEDGER}",
    ]


def test_reload_on_a_terminal_turns_and_says_the_same(start_master: StartMaster, path: str) -> None:
    start_master()
    code, seen = on_terminal([*CTL, "-s", path, "reload"])
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert code == 0
    assert "web: worker 2 replaced (2 of 2)" in plain
    assert "web: generation 2 committed" in plain
    assert "\x1b[?25l" in seen, "a spinner hides the cursor"


def test_a_rolled_back_reload_is_exit_1_with_the_releases_own_words(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("roll_back")
    done = ctl("reload", "web")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "    ModuleNotFoundError: nope" in lines
    assert '      File "app.py", line 1' in lines
    assert lines[-1].startswith("web: generation 2 rolled back after 0.5 s: the app can't be imported")


def test_a_superseded_reload_is_followed(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("supersede")
    done = ctl("reload", "web")
    assert done.returncode == 0
    assert "superseded by generation 3" in done.stdout
    assert "generation 3 committed" in done.stdout


def test_a_reload_nobody_hears_of_is_found_in_the_status(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("deaf")
    done = ctl("reload", "web")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"web: generation 2 committed in 0.5 s; {LEDGER}"


def test_reload_without_waiting_says_where_to_look(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("endless")
    done = ctl("reload", "web", "--no-wait")
    assert done.returncode == 0
    assert done.stdout == "web: generation 2 is on its way; `holdfastctl status web` tells how it went\n"


def test_ctrl_c_leaves_the_roll_running_and_says_so(start_master: StartMaster, path: str) -> None:
    start_master("endless")
    command = [*CTL, "-s", path, "reload", "web"]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert "on its way" in waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, complaint = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert complaint == (
        "holdfastctl: the roll goes on without you; `holdfastctl status web` or `holdfastctl rolls` tells how it went, "
        "`holdfastctl events -f` shows it\n"
    )
    roll = ControlClient(path).status().apps["web"].last_roll
    assert roll is not None
    assert roll.verdict == "running"


def test_an_upgrade_is_waited_for_and_tells_the_versions(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("upgrade")
    assert (done.returncode, done.stdout) == (0, "holdfast 0.1.0 -> 0.2.0, in 0.3 s\n")


def test_an_upgrade_that_is_refused_is_exit_1_with_the_reason(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("bad_code")
    done = ctl("upgrade")
    assert done.returncode == 1
    assert done.stderr.endswith("not upgraded, all goes on as before: it does not start\n")


def test_rollback_is_followed_like_a_reload(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl("rollback", "web")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("web: generation 2 committed in 0.5 s")


def test_rolls_are_listed_with_verdict_ledger_and_reason(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("roll_back")
    assert ctl("rolls").stdout.split() == HEADINGS
    ctl("reload", "web")
    head, line = ctl("rolls", "web").stdout.splitlines()
    assert head.split() == HEADINGS
    assert re.fullmatch(
        r"web +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1 +2 +rolled back +0\.5s +7 +0 +0 +the app can't be imported.*", line
    )
    (roll,) = json.loads(ctl("--json", "rolls").stdout)["apps"]["web"]
    assert (roll["number"], roll["verdict"], roll["ledger"]["under_way"]) == (2, "rolled_back", 1)
    assert ctl("rolls", "wbe").returncode == 1


HEADINGS = ["APP", "BEGAN", "FROM", "TO", "VERDICT", "TOOK", "REQUESTS", "CUT", "RESET", "REASON"]


def test_reload_of_an_unknown_app_is_refused(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert ctl("reload", "wbe").returncode == 1


# Events


def test_events_are_lines_like_the_logs(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    ctl("reload", "web")
    lines = ctl("events").stdout.splitlines()
    assert len(lines) == 4
    assert re.search(r" info +web:1 .* roll\.step +worker 1 replaced", lines[1])


def test_events_follow_until_the_master_ends(start_master: StartMaster, path: str) -> None:
    master = start_master()
    command = [*CTL, "-s", path, "--json", "events", "-f"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = following.stdout
    assert out is not None
    _until(lambda: ControlClient(path).reload(["web"]) and select.select([out], [], [], 0.2)[0])
    first = json.loads(out.readline())
    assert (first["event"], first["app"]) == ("roll.started", "web")
    master.terminate()
    _, complaint = following.communicate(timeout=20)
    assert following.returncode == 4
    assert "ended the stream" in complaint


def test_a_reader_that_has_seen_enough_ends_events_quietly(start_master: StartMaster, path: str, ctl: Ctl) -> None:
    start_master()
    ctl("reload", "web")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*CTL, "-s", path, "events"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20)
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# Errors and JSON


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["start"], ["start", "a", "b"], ["status", "--wrong"], ["start", "a", "--timeout", "x"], ["top"]],
)
def test_a_command_line_that_cannot_be_meant_is_exit_2_in_a_line(ctl: Ctl, words: list[str]) -> None:
    done = ctl(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("holdfastctl: ")


@pytest.mark.parametrize(
    "command", ["status", "version", "pid", "reload", "events", "shutdown", "start web", "upgrade"]
)
def test_without_a_master_every_command_is_exit_4_in_a_line(ctl: Ctl, command: str) -> None:
    done = ctl(*command.split())
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "holdfast run" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("status", "status web", "pid", "pid web", "version", "start api", "stop web", "restart web", "reload"),
        *("reload web --no-wait", "scale web 3", "signal USR1 web", "shutdown", "rollback web", "rolls", "upgrade"),
    ],
)
def test_every_command_speaks_json_in_one_object(start_master: StartMaster, ctl: Ctl, command: str) -> None:
    start_master()
    done = ctl("--json", *command.split())
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert isinstance(json.loads(done.stdout), dict)


def test_json_of_a_roll_back_has_it_all(start_master: StartMaster, ctl: Ctl) -> None:
    start_master("roll_back")
    done = ctl("--json", "reload", "web")
    told: dict[str, Any] = json.loads(done.stdout)["apps"]["web"]
    assert done.returncode == 1
    assert told["verdict"] == "rolled_back"
    assert told["output"][-1] == "ModuleNotFoundError: nope"


def test_json_errors_are_objects_on_stderr(ctl: Ctl) -> None:
    done = ctl("--json", "status")
    assert done.stdout == ""
    assert "no master" in json.loads(done.stderr)["error"]


def test_help_lists_what_exists_and_nothing_else(ctl: Ctl) -> None:
    told = ctl("--help").stdout
    listed = re.findall(r"^  ([a-z]+)  ", told.partition("Commands:")[2], re.MULTILINE)
    assert listed == [
        *(
            "crashes",
            "events",
            "heap",
            "pid",
            "reload",
            "restart",
            "rollback",
            "rolls",
            "scale",
            "shutdown",
            "signal",
            "stack",
            "start",
        ),
        *("status", "stop", "upgrade", "version"),
    ]


def test_the_socket_may_come_from_the_environment(start_master: StartMaster, path: str) -> None:
    start_master()
    env = environment(HOLDFAST_CONTROL=path)
    done = subprocess.run([*CTL, "version"], capture_output=True, text=True, timeout=20, env=env)
    assert done.stdout == "0.1.0\n"


def _until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
