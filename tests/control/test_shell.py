from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.control.shell import Shell, history_path
from tests.control.conftest import StartMaster
from tests.control.holdfastctl import ANSI, CTL, Ctl, on_terminal


def shell(codes: dict[str, int] | None = None) -> tuple[Shell, list[list[str]]]:
    ran: list[list[str]] = []

    def run(words: list[str]) -> int:
        ran.append(words)
        return (codes or {}).get(words[0], 0)

    return Shell(run, ["start", "status", "stop"], lambda: ["all", "web", "web:1", "web:2"]), ran


def test_a_line_is_a_command_with_its_words() -> None:
    it, ran = shell()
    assert not it.onecmd("status 'web' web:2")
    assert ran == [["status", "web", "web:2"]]


@pytest.mark.parametrize("line", ["exit", "quit", "EOF"])
def test_three_ways_out(line: str) -> None:
    it, ran = shell()
    assert it.onecmd(line)
    assert ran == []


def test_an_empty_line_repeats_nothing() -> None:
    it, ran = shell()
    it.onecmd("status")
    assert not it.onecmd("")
    assert not it.onecmd("   ")
    assert ran == [["status"]]


def test_help_is_the_commands_own() -> None:
    it, ran = shell()
    it.onecmd("help")
    it.onecmd("help start")
    assert ran == [["--help"], ["start", "--help"]]


@pytest.mark.parametrize("line", ["status 'web", "-s /elsewhere status", "--json"])
def test_a_line_that_cannot_be_meant_leaves_the_shell_open(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    it, ran = shell()
    assert not it.onecmd(line)
    assert ran == []
    assert it.last_code == 2
    assert capsys.readouterr().err.startswith("holdfastctl: ")


def test_a_failed_command_leaves_the_shell_open_and_is_remembered() -> None:
    it, _ = shell({"stop": 1})
    assert not it.onecmd("stop web")
    assert it.last_code == 1


def test_tab_completes_commands_then_targets() -> None:
    it, _ = shell()
    assert it.completenames("st") == ["start ", "status ", "stop "]
    assert it.completenames("q") == ["quit "]
    assert it.completedefault("web:", "stop web:", 5, 9) == ["web:1", "web:2"]
    assert it.complete_help("sto", "help sto", 5, 8) == ["stop "]


def test_lines_from_a_pipe_run_to_the_end_and_the_last_code_counts(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    done = ctl(given="version\nnonsense\npid web\n")
    assert done.returncode == 0
    assert done.stdout == "0.1.0\n1001\n1002\n"
    assert "nonsense" in done.stderr
    assert ctl(given="version\nstatus api\n").returncode == 3


def test_the_shell_keeps_the_options_it_was_started_with(start_master: StartMaster, ctl: Ctl) -> None:
    start_master()
    assert ctl("--json", given="pid web\n").stdout == '{"pids":[1001,1002]}\n'


def test_the_interactive_shell_shows_the_status_and_survives_everything(
    start_master: StartMaster, path: str, tmp_path: Path
) -> None:
    start_master()
    typed = "version\nstop nobody\n\x03\nsto\tall:\nhelp pid\n\x04\n"
    code, seen = on_terminal([*CTL, "-s", path], typed, XDG_STATE_HOME=str(tmp_path))
    plain = ANSI.sub("", seen)
    assert code == 0
    assert "web:1" in plain.partition("holdfast>")[0]
    assert "\n0.1.0" in plain
    assert "no app called 'nobody'" in plain
    assert "Print the master's pid" in plain
    assert plain.count("holdfast>") >= 6
    history = tmp_path / "holdfast" / "history"
    assert "version" in history.read_text().splitlines()
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


def test_the_shell_opens_without_a_master(path: str, tmp_path: Path) -> None:
    code, seen = on_terminal([*CTL, "-s", path], "status\nexit\n", XDG_STATE_HOME=str(tmp_path))
    assert code == 0
    assert seen.count("no master at") == 2


def test_a_home_that_cannot_be_written_costs_only_the_history(start_master: StartMaster, path: str) -> None:
    start_master()
    code, seen = on_terminal([*CTL, "-s", path], "version\nexit\n", XDG_STATE_HOME="/dev/null/nowhere")
    assert code == 0
    assert "0.1.0" in seen
    assert "Traceback" not in seen


def test_the_history_follows_the_xdg_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history_path() == "/state/holdfast/history"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert history_path() == os.path.join("/home/me", ".local", "state", "holdfast", "history")
