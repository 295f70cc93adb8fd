"""The command line: what it says, what it refuses, and what it hands to the master."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import supervisor
from supervisor.cli import commands
from supervisor.config.load import Source
from supervisor.config.options import OPTIONS
from supervisor.errors import UserError
from tests.cli.running import holdfast


class BoardedError(Exception):
    """Raised in the place of becoming the master."""


@pytest.fixture
def boarded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Source]:
    """What reached the master's door, which stays shut here. The working directory is empty."""
    reached: list[Source] = []

    def exec_master(source: Source) -> None:
        reached.append(source)
        raise BoardedError

    monkeypatch.setattr("supervisor.master.boot.exec_master", exec_master)
    monkeypatch.chdir(tmp_path)
    return reached


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    done = holdfast("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"holdfast {supervisor.__version__}\n")


def test_the_installed_commands_are_there() -> None:
    for name in ("holdfast", "holdfastctl"):
        done = subprocess.run(
            [Path(sys.executable).with_name(name), "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0
        assert name in done.stdout


@pytest.mark.parametrize("command", ["run", "check"])
def test_help_shows_every_option_with_its_default(command: str, tmp_path: Path) -> None:
    done = holdfast(command, "--help", cwd=tmp_path)
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0
    for option in OPTIONS:
        if option.flags:
            assert f"{', '.join(option.flags)} {option.metavar} {option.help}" in shown
            assert f"default: {option.default}]" in shown


def test_help_names_only_commands_that_exist(tmp_path: Path) -> None:
    done = holdfast("--help", cwd=tmp_path)
    listed = done.stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == ["check", "new", "run"]


def test_no_command_shows_the_help_and_is_a_usage_error(tmp_path: Path) -> None:
    done = holdfast(cwd=tmp_path)
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "--frobnicate"], "No such option '--frobnicate'"),
        (["run", "a:b", "c:d"], "unexpected extra argument (c:d)"),
        (["run", "a:b", "--workers"], "Option '--workers' requires an argument"),
        (["run", "a:b", "--workers", "none"], "--workers: auto, 1 to 1024, or a range such as 2..8, not 'none'"),
        (["run", "a:b", "--max-memory", "12Q"], "512M or 2G, or a share such as 80%, not '12Q'"),
        (["run", "a:b", "-b", "80"], "--bind: host:port"),
        (["run", "app"], "APP: module:attribute or module:factory(), such as myproject.asgi:app, not 'app'"),
        (["run"], "no app: name one"),
        (["run", "-c", "nowhere.toml"], "nowhere.toml: can't be read: No such file or directory"),
        (["run", "-c", "."], ".: can't be read: Is a directory"),
        (["run", "-c", "/dev/zero"], "/dev/zero: a settings file of at most 1048576 bytes"),
        (["run", "a:b", "--chdir", "\udcff"], "an argument in UTF-8"),
        (["new"], "Missing argument 'DIR'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = holdfast(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("holdfast: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "check"])
def test_wrong_settings_are_named_a_line_each_and_nothing_starts(command: str, tmp_path: Path) -> None:
    (tmp_path / "holdfast.toml").write_text('[app.web]\napp = "shop:app"\nworkers = 0\nthreds = 1\n')
    (tmp_path / "shop.py").write_text("open('imported', 'w')\n")
    done = holdfast(command, "--log-format", "xml", cwd=tmp_path)
    assert done.returncode == (1 if command == "check" else 2)
    assert sorted(done.stderr.splitlines()) == [
        "holdfast: --log-format: text or json, not 'xml'",
        "holdfast: holdfast.toml: [app.web] threds: unknown; did you mean threads?",
        "holdfast: holdfast.toml: [app.web] workers: auto, 1 to 1024, or a range such as 2..8, not 0",
    ]
    assert not (tmp_path / "imported").exists()


def test_run_hands_over_what_was_typed(boarded: list[Source]) -> None:
    line = "run shop:app -b x:1 --bind x:2 -w auto --env A=1 --env B= --drain-timeout 5m --log-format json"
    with pytest.raises(BoardedError):
        commands.main(line.split())
    flags: dict[str, str | list[str]] = {
        "bind": ["x:1", "x:2"],
        "workers": "auto",
        "env": ["A=1", "B="],
        "drain_timeout": "5m",
        "log_format": "json",
    }
    assert boarded == [Source(path=None, app="shop:app", flags=flags)]


def test_run_takes_the_default_file_only_when_it_is_there(boarded: list[Source], tmp_path: Path) -> None:
    with pytest.raises(BoardedError):
        commands.main(["run", "shop:app"])
    (tmp_path / "holdfast.toml").write_text('[app.web]\napp = "shop:app"\n')
    (tmp_path / "other.toml").write_text('[app.web]\napp = "shop:app"\n')
    with pytest.raises(BoardedError):
        commands.main(["run"])
    with pytest.raises(BoardedError):
        commands.main(["run", "-c", "other.toml"])
    assert [source.path for source in boarded] == [None, "holdfast.toml", "other.toml"]


def test_an_empty_value_is_not_taken_for_an_absent_one(boarded: list[Source]) -> None:
    with pytest.raises(UserError, match="--pidfile: a path, not ''"):
        commands.main(["run", "shop:app", "--pidfile", ""])
    assert boarded == []
