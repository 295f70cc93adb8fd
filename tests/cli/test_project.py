"""`holdfast new`: the template arrives whole, works, and overwrites nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from supervisor.config.load import Source, load
from supervisor.config.options import BY_KEY
from tests.cli.running import holdfast, python

CHECKOUT = Path(__file__).parents[2]
FILES = {
    ".dockerignore",
    ".gitignore",
    "Dockerfile",
    "README.md",
    "app.py",
    "holdfast.toml",
    "kubernetes.yaml",
    "requirements-dev.txt",
    "requirements.txt",
    "test_app.py",
}


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def test_a_new_project_is_the_template_and_the_next_three_commands(tmp_path: Path) -> None:
    done = holdfast("new", "my shop", cwd=tmp_path)
    assert done.returncode == 0
    assert names(tmp_path / "my shop") == FILES
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    assert commands == ["cd 'my shop'", "python -m pip install -r requirements.txt", "holdfast run"]


def test_the_new_projects_own_test_passes_and_its_check_too(tmp_path: Path) -> None:
    assert holdfast("new", "shop", cwd=tmp_path).returncode == 0
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "shop")
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout
    checked = holdfast("check", cwd=tmp_path / "shop")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("web: OK: asgi, ")


def test_the_settings_of_the_template_hold_and_so_do_those_it_comments_out() -> None:
    text = (CHECKOUT / "app_template" / "holdfast.toml").read_text()
    settings = load(Source(path="holdfast.toml"), text)
    assert settings.apps[0].bind == ("127.0.0.1:8000",)
    assert settings.apps[0].ready_path == "/health"
    lines = [line.removeprefix("# ") if line[2:].split(" ")[0] in BY_KEY else line for line in text.splitlines()]
    uncommented = "\n".join(lines)
    assert uncommented.count("\n# ") < text.count("\n# ") - 5
    assert load(Source(path="holdfast.toml"), uncommented).apps[0].max_requests == 100_000


@pytest.mark.parametrize("name", ["shop", "a/deeper/shop"])
def test_an_empty_or_missing_directory_is_filled(name: str, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert holdfast("new", name, cwd=tmp_path).returncode == 0
    assert names(tmp_path / name) == FILES


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / ".hidden").write_text("mine")
    done = holdfast("new", "shop", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "holdfast: shop exists and is not an empty directory; name another\n"
    assert names(tmp_path / "shop") == {".hidden"}


def test_a_file_or_a_place_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    for name in ("shop", "shop/below"):
        done = holdfast("new", name, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("holdfast: ")
        assert done.stderr.count("\n") == 1
    assert (tmp_path / "shop").read_text() == "mine"


def test_the_wheel_carries_the_template(tmp_path: Path) -> None:
    built = python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist"), cwd=CHECKOUT)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = str(tmp_path / "site")
    told = python("-P", "-c", "import supervisor; print(supervisor.__file__)", cwd=tmp_path, PYTHONPATH=site)
    assert told.stdout.strip() == f"{site}/supervisor/__init__.py"
    assert holdfast("new", "shop", cwd=tmp_path, PYTHONPATH=site).returncode == 0
    assert names(tmp_path / "shop") == FILES
