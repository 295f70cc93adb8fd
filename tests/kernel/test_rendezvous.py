"""The place where those that a master has left behind meet the next one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from supervisor.errors import SurroundingsError
from supervisor.kernel.rendezvous import answer, ask, open_rendezvous


def test_who_asks_is_given_the_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "meet")
    listener = open_rendezvous(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    read, write = os.pipe()
    listener.sock.setblocking(True)
    orphan = threading.Thread(target=answer, args=[listener.sock, read, os.geteuid()])
    orphan.start()
    found = ask(path, 5.0)
    orphan.join()
    assert found is not None
    assert os.path.sameopenfile(found, read)
    assert not os.get_inheritable(found)
    for fd in (found, read, write):
        os.close(fd)
    listener.close()
    assert not os.path.exists(path)


def test_where_nobody_is_left_there_is_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "meet")
    assert ask(path, 1.0) is None
    open_rendezvous(path).sock.close()
    assert os.path.exists(path)
    assert ask(path, 1.0) is None


def test_who_does_not_answer_is_told_of_and_not_waited_for_longer(tmp_path: Path) -> None:
    listener = open_rendezvous(str(tmp_path / "meet"))
    with pytest.raises(SurroundingsError, match=r"have not answered within 0\.2 s"):
        ask(str(tmp_path / "meet"), 0.2)
    listener.close()


def test_an_answer_to_nobody_does_not_wait(tmp_path: Path) -> None:
    listener = open_rendezvous(str(tmp_path / "meet"))
    assert not answer(listener.sock, 0, os.geteuid())
    listener.close()
