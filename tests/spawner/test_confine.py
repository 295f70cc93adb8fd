"""What a command finds itself reduced to, told by the kernel: real processes, as root where only root can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.spawner import confine

UID, GID, GROUPS = 4242, 4243, [4243, 4244]
BECOME = [f"uid={UID}", f"gid={GID}", "groups=4243,4244"]
NONE = "0" * 16

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def run(*wanted: str, command: tuple[str, ...] = ("/bin/cat", "/proc/self/status")) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-I", "-S", confine.__file__, *wanted, "--", "a.module", *command]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)


def status(*wanted: str) -> dict[str, str]:
    done = run(*wanted)
    assert (done.returncode, done.stderr) == (0, "")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


@as_root
def test_user_and_groups_are_changed_for_good() -> None:
    found = status(*BECOME)
    assert found["Uid"].split() == [str(UID)] * 4
    assert found["Gid"].split() == [str(GID)] * 4
    assert [int(group) for group in found["Groups"].split()] == GROUPS
    assert (found["CapPrm"], found["CapEff"], found["CapAmb"]) == (NONE, NONE, NONE)


@as_root
def test_no_new_privileges_take_the_bounding_set_along() -> None:
    found = status(*BECOME, "no_new_privs")
    assert found["NoNewPrivs"] == "1"
    assert (found["CapBnd"], found["CapInh"], found["CapPrm"], found["CapAmb"]) == (NONE,) * 4


@as_root
def test_a_capability_that_was_handed_to_the_master_is_not_handed_on() -> None:
    give = "import ctypes,os,sys; l=ctypes.CDLL(None); l.prctl(8,1,0,0,0); os.setresuid(4242,4242,4242);"
    give += (
        "h=(ctypes.c_uint32*2)(0x20080522,0); c=1<<10; d=(ctypes.c_uint32*6)(c,c,c,0,0,0); assert not l.capset(h,d);"
    )
    give += "assert not l.prctl(47,2,10,0,0); os.execv(sys.argv[1], sys.argv[1:])"  # PR_CAP_AMBIENT_RAISE
    kept = subprocess.run([sys.executable, "-c", give, "/bin/cat", "/proc/self/status"], capture_output=True, text=True)
    assert f"CapAmb:\t{1 << 10:016x}" in kept.stdout, kept.stderr
    python = next((p for p in (sys.executable, "/usr/bin/python3") if _may_run(p)), None)
    if python is None:
        pytest.skip("no Python here that another user may run")
    line = [python, "-I", "-S", confine.__file__, "no_new_privs", "--", "a.module", "/bin/cat", "/proc/self/status"]
    bare = subprocess.run([sys.executable, "-c", give, *line], capture_output=True, text=True)
    assert f"CapAmb:\t{NONE}" in bare.stdout, bare.stderr
    assert f"CapInh:\t{NONE}" in bare.stdout


def _may_run(python: str) -> bool:
    return run(*BECOME, command=(python, "-c", "")).returncode == 0


@as_root
def test_root_that_stays_root_keeps_its_capabilities() -> None:
    found = status("no_new_privs")
    assert found["NoNewPrivs"] == "1"
    assert found["CapEff"] == status()["CapEff"]


@as_root
def test_a_group_alone_leaves_the_user_in_place() -> None:
    found = status("gid=4243", "groups=4243")
    assert (found["Uid"].split()[0], found["Gid"].split()[0], found["Groups"]) == ("0", "4243", "4243")


def test_the_umask_is_the_one_that_was_asked_for() -> None:
    assert status("umask=27")["Umask"] == "0027"


def test_the_score_is_raised_above_our_own() -> None:
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    done = run("oom=100", command=("/bin/cat", "/proc/self/oom_score_adj"))
    assert int(done.stdout) == min(1000, ours + 100)
    assert int(run("oom=1000", command=("/bin/cat", "/proc/self/oom_score_adj")).stdout) == 1000


@as_root
def test_a_confined_process_is_its_own_in_proc(tmp_path: Path) -> None:
    done = run(
        *BECOME,
        "no_new_privs",
        command=("/bin/sh", "-c", "cat /proc/self/environ >/dev/null && stat -L -c %u /proc/self"),
    )
    assert (done.stdout.strip(), done.stderr) == (str(UID), "")


def test_a_command_that_is_not_there_is_told_as_the_bootstrap_would() -> None:
    done = run(command=("/no/such/python", "-m", "x"))
    assert done.returncode == 1
    assert done.stderr == "holdfast: python /no/such/python can't be run: No such file or directory\n"


def test_a_check_hears_of_it_in_json() -> None:
    line = [sys.executable, "-I", "-S", confine.__file__, "--", "supervisor.spawner.check", "/no/such/python"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == {"reason": "python /no/such/python can't be run: No such file or directory"}


@as_root
def test_without_the_right_to_change_users_the_command_does_not_run() -> None:
    python = next((p for p in (sys.executable, "/usr/bin/python3") if _may_run(p)), None)
    if python is None:
        pytest.skip("no Python here that another user may run")
    line = (python, "-I", "-S", confine.__file__, "uid=0", "gid=0", "groups=0", "--", "a.module", "/bin/echo", "ran")
    done = run(*BECOME, command=line)
    assert (done.returncode, done.stdout) == (1, "")
    assert "can't become user 0: Operation not permitted" in done.stderr
