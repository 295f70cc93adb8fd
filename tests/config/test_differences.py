"""Settings that a roll can't bring in are named as the file writes them."""

from __future__ import annotations

from supervisor.config.differences import needing_new_master
from supervisor.config.settings import AppSettings, Settings, SupervisorSettings


def settings(*names: str, **supervisor: object) -> Settings:
    apps = tuple(AppSettings(name=name, app="a:b") for name in names)
    return Settings(apps=apps, supervisor=SupervisorSettings(**supervisor))  # type: ignore[arg-type]


def test_equal_settings_need_nothing() -> None:
    assert needing_new_master(settings("web"), settings("web")) == []


def test_the_supervisors_keys_and_apps_that_come_or_go_are_named() -> None:
    ours, theirs = settings("web", "old", "older"), settings("new", "web", pidfile="/run/x", stop_delay=1.0)
    assert needing_new_master(ours, theirs) == [
        "[supervisor] stop_delay",
        "[supervisor] pidfile",
        "[app.new]",
        "[app.old]",
        "[app.older]",
    ]


def test_what_an_app_has_in_its_table_is_a_rolls_business() -> None:
    changed = Settings(apps=(AppSettings(name="web", app="c:d", workers=9),))
    assert needing_new_master(settings("web"), changed) == []
