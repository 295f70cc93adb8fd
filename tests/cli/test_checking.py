"""`holdfast check`: one line an app, whatever the app's import does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.running import holdfast

ASGI = "async def app(scope, receive, send): ...\n"
WSGI = "def app(environ, start_response): ...\n"
THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller').start()\n"


def test_an_asgi_app_is_told_with_import_time_preload_and_binds(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ASGI)
    done = holdfast("check", "shop:app", "-b", "x:1", "-b", "unix:/s", cwd=tmp_path)
    assert done.returncode == 0
    line = r"web: OK: asgi, imported in \d+\.\d\d s, preload possible, x:1, unix:/s\n"
    assert re.fullmatch(line, done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize("workers", ["4", "2..4"])
def test_a_share_of_the_memory_is_told_as_it_resolves(tmp_path: Path, workers: str) -> None:
    (tmp_path / "shop.py").write_text(ASGI)
    done = holdfast("check", "shop:app", "-w", workers, "--max-memory", "80%", cwd=tmp_path)
    told = re.search(r", max_memory (\d+) MB a worker \(80% of (\d+) MB by 4\)\n$", done.stdout)
    assert told is not None, done.stdout
    assert abs(int(told[1]) - 0.8 * int(told[2]) / 4) <= 1


def test_a_wsgi_factory_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(WSGI + "def make(): return app\n")
    done = holdfast("check", "shop:make()", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("web: OK: wsgi, ")


def test_threads_that_the_import_left_are_named_and_do_not_keep_the_check_alive(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(THREAD + ASGI)
    done = holdfast("check", "shop:app", cwd=tmp_path)
    assert done.returncode == 0
    assert "preload not possible (the import left threads running: poller)" in done.stdout


def test_preload_on_with_threads_is_told_as_a_risk(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(THREAD + ASGI)
    done = holdfast("check", "shop:app", "--preload", "on", cwd=tmp_path)
    assert "preload on, a risk (the import left threads running: poller)" in done.stdout


def test_a_broken_import_shows_the_apps_traceback_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def load():\n    return {}['price']\nload()\n")
    done = holdfast("check", "shop:app", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("web: FAILED: can't import shop:app: KeyError: 'price'")
    assert done.stdout.count("\n") == 1
    assert 'shop.py", line 2, in load' in done.stderr
    assert "supervisor" not in done.stderr


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:app", "No module named 'nowhere'"),
        ("shop:missing", "has no 'missing'"),
        ("shop:number", "not callable"),
        ("shop:odd", "--interface asgi or --interface wsgi"),
    ],
)
def test_what_cannot_be_served_fails_the_check(target: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(ASGI + "number = 5\ndef odd(one): ...\n")
    done = holdfast("check", target, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("web: FAILED: ")
    assert said in done.stdout


def test_the_interface_decides_when_it_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def odd(*arguments): ...\n")
    done = holdfast("check", "shop:odd", "--interface", "wsgi", cwd=tmp_path)
    assert (done.returncode, done.stdout[:13]) == (0, "web: OK: wsgi")


def test_what_the_app_prints_is_not_taken_for_the_result(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import os\nprint('{}')\nos.write(1, b'raw\\n')\ninput_is = os.read(0, 1)\n" + ASGI
    )
    done = holdfast("check", "shop:app", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("web: OK: asgi, ")
    assert sorted(done.stderr.split()) == ["raw", "{}"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos._exit(0)\n", "ended its interpreter while it was imported (exit code 0)"),
        ("import os\nos.kill(os.getpid(), 9)\n", "ended its interpreter while it was imported (killed by signal 9)"),
        ("raise SystemExit(3)\n", "called exit(3) while it was imported"),
    ],
)
def test_an_import_that_ends_the_interpreter_fails_the_check(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(code)
    done = holdfast("check", "shop:app", cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stdout


def test_an_import_that_hangs_ends_with_the_boot_timeout(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import threading\nthreading.Event().wait()\n")
    done = holdfast("check", "shop:app", "--boot-timeout", "300ms", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "web: FAILED: shop:app was not imported within boot_timeout (0.3 s)\n"


def test_every_app_gets_its_line_its_environment_and_its_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.py").write_text("import os\nassert os.environ['KIND'] == 'inner'\n" + WSGI)
    (tmp_path / "holdfast.toml").write_text(
        '[app.good]\napp = "inner:app"\nchdir = "sub"\nenv = { KIND = "inner" }\nbind = "x:1"\n'
        '[app.bad]\napp = "inner:app"\nbind = "x:2"\n'
    )
    done = holdfast("check", cwd=tmp_path)
    assert done.returncode == 1
    good, bad = done.stdout.splitlines()
    assert good.startswith("good: OK: wsgi, ")
    assert bad.startswith("bad: FAILED: can't import inner:app: ModuleNotFoundError")
