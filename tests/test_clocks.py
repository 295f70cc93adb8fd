"""All timing is monotonic: the wall clock, which may jump, is looked at in few places, and decides nothing there."""

from __future__ import annotations

import ast
from pathlib import Path

SUPERVISOR = Path(__file__).parents[1] / "supervisor"
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}
STAMPS = {
    "control/feed.py": "when events were dropped",
    "control/waiting.py": "which errors a person is shown as the cause",
    "master/book.py": "when a roll began",
    "master/crashes.py": "when a worker crashed",
    "master/pipes.py": "when a line was printed, for a crash report",
    "observe/journal.py": "when an event happened",
    "serve/access/line.py": "an access log line's own time",
    "worker/trustee.py": "when the master was found dead",
    "serve/service.py": "Date headers and the access log",
}


def looks(path: Path) -> set[str]:
    """What this module takes of the wall clock."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return WALL & found


def test_the_wall_clock_is_looked_at_only_to_stamp() -> None:
    found = {str(path.relative_to(SUPERVISOR)) for path in SUPERVISOR.rglob("*.py") if looks(path)}
    assert found == set(STAMPS)


def test_a_module_that_decided_by_it_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import time\nlate = time.time() > 5\n")
    assert looks(tmp_path / "late.py") == {"time.time"}
