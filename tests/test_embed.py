"""Embedding: the settings' keys as keywords, checked when the objects are made."""

from __future__ import annotations

import pytest

import supervisor
from supervisor import App, Supervisor
from supervisor.config.settings import AppSettings, Settings, SupervisorSettings
from supervisor.errors import SettingsError


def test_keywords_become_the_settings_of_the_file() -> None:
    made = Supervisor(App("shop:app", workers=4, max_memory="512M", bind=["x:1"]), log_format="json")
    web = AppSettings(name="web", app="shop:app", workers=4, max_memory=512 * 1024**2, bind=("x:1",))
    assert made.settings == Settings(apps=(web,), supervisor=SupervisorSettings(log_format="json"))


def test_run_serves_these_settings_and_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Settings, object]] = []

    def run_master(settings: Settings, source: object) -> int:
        served.append((settings, source))
        return 3

    monkeypatch.setattr("supervisor.master.boot.run_master", run_master)
    cluster = Supervisor(App("shop:app"), App("admin:app", name="admin", bind="x:2"))
    assert cluster.run() == 3
    assert served == [(cluster.settings, None)]
    assert [app.name for app in cluster.settings.apps] == ["web", "admin"]


def test_wrong_keywords_are_named_all_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        App("shop:app", worker=4, threads=0, control="/x")
    assert str(caught.value).splitlines() == [
        "App('shop:app'): worker: unknown; did you mean workers?",
        "App('shop:app'): threads: 1 to 1024, not 0",
        "App('shop:app'): control: belongs in [supervisor]",
    ]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([], "at least one App"),
        (["a:b", "c:d"], "a name that no other app has"),
    ],
)
def test_a_cluster_has_apps_with_names_of_their_own(targets: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Supervisor(*[App(target) for target in targets])


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    assert set(supervisor.__all__) == {"App", "Supervisor", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        supervisor.Nothing  # type: ignore[attr-defined]  # noqa: B018
