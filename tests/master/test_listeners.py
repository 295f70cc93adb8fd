"""Sockets stay as they were opened, and say which settings they do not follow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config.load import app_settings
from supervisor.config.settings import AppSettings
from supervisor.kernel.notify import Notifier
from supervisor.master.listeners import Listeners
from supervisor.master.store import SocketStore


def settings(*bind: str, **given: object) -> AppSettings:
    return app_settings("test", "web", {"app": "app:app", "bind": list(bind), **given})


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    opened = Listeners("web", SocketStore(Notifier({}), ()))
    yield opened
    opened.close()


def test_only_settings_that_a_staying_socket_was_opened_with_otherwise_are_unheeded(
    listeners: Listeners, tmp_path: Path
) -> None:
    tcp, unix = "127.0.0.1:0", f"unix:{tmp_path / 'web.sock'}"
    listeners.ensure(settings(tcp, unix))
    assert listeners.unheeded(settings(tcp, unix)) == []
    assert listeners.unheeded(settings(tcp, unix_mode="0600")) == []
    assert listeners.unheeded(settings(unix, unix_mode="0600", defer_accept=1)) == ["unix_mode"]
    assert listeners.unheeded(settings(tcp, unix, backlog=9, defer_accept=1)) == ["backlog", "defer_accept"]


def test_a_socket_opened_anew_follows_its_settings(listeners: Listeners, tmp_path: Path) -> None:
    unix = f"unix:{tmp_path / 'web.sock'}"
    listeners.ensure(settings(unix))
    assert listeners.keep_only(()) == [unix]
    assert listeners.unheeded(settings(unix, unix_mode="0600")) == []
    listeners.ensure(settings(unix, unix_mode="0600"))
    assert listeners.unheeded(settings(unix, unix_mode="0600")) == []
