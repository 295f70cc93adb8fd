"""The systemd unit fits the defaults that it leans on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.config.settings import AppSettings
from tests.cli.running import holdfast

UNIT = Path(__file__).parents[2] / "systemd" / "holdfast.service"
DEFAULTS = AppSettings(name="web", app="a:b")


def entries() -> dict[str, str]:
    lines = [line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_systemds_own_check_finds_nothing(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "holdfast.service"
    # The check wants the command to exist; the interpreter stands in for the one to be installed there.
    unit.write_text(UNIT.read_text().replace("/srv/web/.venv/bin/holdfast", sys.executable))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_waits_longer_than_the_default_timeouts() -> None:
    unit = entries()
    assert float(unit["TimeoutStopSec"]) > DEFAULTS.drain_timeout + DEFAULTS.idle_linger
    assert float(unit["TimeoutStartSec"]) > DEFAULTS.boot_timeout


def test_a_reload_is_a_roll_and_a_stop_is_the_masters_to_carry_out() -> None:
    unit = entries()
    assert unit["Type"] == "notify"
    assert unit["ExecReload"] == "/bin/kill -USR2 $MAINPID"
    assert unit["KillMode"] == "mixed"
    assert unit["Restart"] == "always"


def test_the_command_it_starts_is_one_that_holdfast_understands(tmp_path: Path) -> None:
    program, command, *options = entries()["ExecStart"].split()
    assert (Path(program).name, command) == ("holdfast", "run")
    done = holdfast("run", *options, cwd=tmp_path)
    assert done.stderr == "holdfast: /srv/web/holdfast.toml: can't be read: No such file or directory\n"
