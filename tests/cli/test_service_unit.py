"""The systemd units: clean by systemd's own checks, alike where they should be, fitting the defaults they lean on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.config.settings import AppSettings
from tests.cli.running import holdfast

FOLDER = Path(__file__).parents[2] / "systemd"
SERVICES = ("holdfast.service", "holdfast@.service")
DEFAULTS = AppSettings(name="web", app="a:b")
EXPOSURE = 2.5  # of 10; systemd calls what is below 2 OK


def entries(name: str = "holdfast.service") -> dict[str, str]:
    lines = [line for line in (FOLDER / name).read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with commands that exist, which the check wants: the interpreter stands in for them."""
    for name in (*SERVICES, "holdfast.socket"):
        text = re.sub(r"/srv/(web|%i)/.venv/bin/holdfast(ctl)?", sys.executable, (FOLDER / name).read_text())
        (tmp_path / name).write_text(text)
    shutil.copytree(FOLDER / "holdfast.service.d", tmp_path / "holdfast.service.d")
    return tmp_path


def test_systemds_own_check_finds_nothing(installed: Path) -> None:
    for name in ("holdfast.service", "holdfast@shop.service", "holdfast.socket"):
        done = analyze("verify", installed / name)
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_low_and_each_exception_has_its_reason(name: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", FOLDER / name)
    assert done.returncode == 0, done.stdout
    wanting = re.findall(r"^✗ ([A-Za-z/=]+=)", done.stdout, re.MULTILINE)
    reasons = "\n".join(line for line in (FOLDER / name).read_text().splitlines() if line.startswith("# "))
    assert wanting
    for setting in {each.split("=")[0] for each in wanting}:
        assert f"{setting}=" in reasons, f"{setting} is not set, and nothing says why"


def test_the_template_is_the_same_service_under_other_names() -> None:
    single, template = entries(), entries("holdfast@.service")
    assert single.keys() == template.keys()
    names = {"Description", "WorkingDirectory", "ExecStart", "ExecReload"}
    names |= {"RuntimeDirectory", "StateDirectory", "Environment"}
    for key, value in template.items():
        if key in names:
            assert "%i" in value or key == "Environment", key
        else:
            assert value == single[key], key


def test_systemd_waits_longer_than_the_default_timeouts() -> None:
    unit = entries()
    assert float(unit["TimeoutStopSec"]) > DEFAULTS.drain_timeout + DEFAULTS.idle_linger
    assert float(unit["TimeoutStartSec"]) > DEFAULTS.boot_timeout


def test_a_reload_waits_for_its_verdict_and_a_stop_is_the_masters_to_carry_out() -> None:
    unit = entries()
    assert (unit["Type"], unit["KillSignal"], unit["Restart"]) == ("notify", "SIGTERM", "always")
    assert unit["ExecReload"] == "/srv/web/.venv/bin/holdfastctl reload"
    assert unit["KillMode"] == "process"
    assert f"--control {unit['RuntimeDirectory'].join(['/run/', '/control.sock'])}" in unit["ExecStart"]
    assert unit["RuntimeDirectoryPreserve"] == "restart"


def test_the_socket_has_the_name_by_which_it_is_bound() -> None:
    text = (FOLDER / "holdfast.socket").read_text()
    assert f'bind = ["systemd:{entries("holdfast.socket")["FileDescriptorName"]}"]' in text


def test_the_command_it_starts_is_one_that_holdfast_understands(tmp_path: Path) -> None:
    program, command, *options = entries()["ExecStart"].split()
    assert (Path(program).name, command) == ("holdfast", "run")
    done = holdfast("run", *options, cwd=tmp_path)
    assert done.stderr == "holdfast: /srv/web/holdfast.toml: can't be read: No such file or directory\n"
