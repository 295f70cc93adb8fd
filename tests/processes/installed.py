"""A holdfast of the test's own, installed beside the real one: its code can be changed while it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.processes.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]


class Installed:
    """A copy of the package in `folder`/site, found before the real one by what is started with `env`."""

    def __init__(self, folder: Path) -> None:
        self.site = folder.resolve() / "site"
        self.site.mkdir()
        shutil.copytree(ROOT / "supervisor", self.site / "supervisor", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "holdfast.py", self.site)
        self.env = {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}

    def change(self, module: str, before: str, after: str) -> None:
        """Install code in which `before`, which stands there once, is `after`."""
        path = self.site / "supervisor" / module
        text = path.read_text()
        assert text.count(before) == 1, f"{module} has {before!r} {text.count(before)} times"
        path.write_text(text.replace(before, after))

    def release(self, version: str) -> None:
        """Install another version."""
        self.change("__init__.py", '__version__ = "0.1.0"', f'__version__ = "{version}"')

    def cluster(self, folder: Path, *arguments: str, **more: str) -> Cluster:
        """A cluster of the echo app that runs this holdfast."""
        for name in ("echo_app.py", "deeds_app.py"):
            shutil.copy(ROOT / "tests" / "processes" / name, folder)
        return Cluster(folder, *arguments, env={**self.env, **more})
