"""Lines of source are read where that can't hurt, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.kernel.source import MAX_FILE, MAX_FILES, MAX_LINE, Sources


def test_a_line_without_its_indentation(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    return 'ü'\n")
    sources = Sources()
    assert sources.line(str(tmp_path / "a.py"), 2) == "return 'ü'"
    assert [sources.line(str(tmp_path / "a.py"), number) for number in (-1, 0, 3)] == ["", "", ""]


def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x" * 1000 + b"\n\xff\xfe\n")
    sources = Sources()
    assert len(sources.line(str(tmp_path / "a.py"), 1)) == MAX_LINE
    assert sources.line(str(tmp_path / "a.py"), 2) == "\ufffd\ufffd"


@pytest.mark.timeout(5)
def test_what_could_block_or_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").write_bytes(b"x\n" * (MAX_FILE // 2 + 1))
    sources = Sources()
    strange = ["/dev/zero", "/dev/stdin", "/proc/self/status", "<string>", "", "a.py", "/a\0b", "/", "/none"]
    for path in [*strange, str(tmp_path / "fifo"), str(tmp_path / "huge")]:
        assert sources.line(path, 1) == "", path


def test_each_file_is_read_once_and_not_countless_many(tmp_path: Path) -> None:
    sources = Sources()
    for number in range(MAX_FILES + 1):
        (tmp_path / f"{number}.py").write_text("here")
    assert sources.line(str(tmp_path / "0.py"), 1) == "here"
    (tmp_path / "0.py").write_text("there")
    assert sources.line(str(tmp_path / "0.py"), 1) == "here"
    found = [sources.line(str(tmp_path / f"{number}.py"), 1) for number in range(MAX_FILES + 1)]
    assert found == ["here"] * MAX_FILES + [""]
