"""FastAPI, Starlette, Django (ASGI and WSGI) and Flask in real clusters: served whole, and rolled under load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import Cluster, until
from tests.processes.load import Load
from tests.processes.releases import NO_BYTECODE
from tests.processes.web import Visitor, ask

FRAMEWORKS = {
    "FastAPI": ("fastapi_app:app", "asgi"),
    "Starlette": ("starlette_app:app", "asgi"),
    "Django-ASGI": ("django_app:asgi", "asgi"),
    "Django-WSGI": ("django_app:wsgi", "wsgi"),
    "Flask": ("flask_app:app", "wsgi"),
}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def served(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp(framework)
    target = FRAMEWORKS[framework][0]
    shutil.copy(Path(__file__).parent / "frameworks" / f"{target.partition(':')[0]}.py", folder)
    (folder / "release").write_text("first")
    with Cluster(folder, target, "-w", "2", env=NO_BYTECODE) as cluster:
        yield cluster


def test_a_framework_is_told_by_itself_and_preloaded(framework: str, served: Cluster) -> None:
    (line,) = [line for line in served.events() if " imported in " in line]
    assert line.endswith(f"({FRAMEWORKS[framework][1]}), workers are forked from it")


def test_gets_and_posts_are_answered(served: Cluster) -> None:
    visitor = Visitor(served.bind)
    for size in (0, 10, 300_000):
        body = b"x" * size
        assert visitor.ask("/echo", "POST", body).body == body
    answer = visitor.ask("/echo?a=b%20c")
    assert (answer.status, answer.text) == (200, "a=b%20c")
    assert int(answer.headers["x-pid"]) in {worker["pid"] for worker in served.workers()}
    visitor.close()


def test_routes_and_json_work(served: Cluster) -> None:
    assert ask(served.bind, "/items/42").json() == {"item": 42, "greeting": "hello"}
    assert ask(served.bind, "/items/unknown").status in (404, 422)
    assert ask(served.bind, "/nowhere").status == 404


def test_an_answer_is_streamed_whole(served: Cluster) -> None:
    answer = ask(served.bind, "/stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"{number:03}," for number in range(1000))


def test_an_error_in_the_app_is_a_500_and_its_traceback_is_logged(served: Cluster) -> None:
    visitor = Visitor(served.bind)
    assert visitor.ask("/error").status == 500
    until("the traceback", lambda: "LookupError: no such luck" in served.log)
    assert 'raise LookupError("no such luck")' in served.log
    assert visitor.ask("/echo?on").text == "on"
    visitor.close()
    assert {worker["restarts"] for worker in served.workers()} == {0}


def test_rolls_under_load_bring_the_new_release_and_lose_nothing(served: Cluster) -> None:
    with Load(served.bind, connections=8, path="/echo", pause_s=0.01) as load:
        for number in range(3):
            (served.folder / "release").write_text(f"release-{number}")
            assert served.roll()["verdict"] == "committed"
        until("an answer of the last", lambda: "release-2" in load.snapshot().releases)
        report = load.stop()
    assert report.requests == report.ok > 100, report
    assert set(report.releases) >= {"first", "release-2"}
    assert ask(served.bind, "/echo").headers["x-release"] == "release-2"


def test_it_stops_with_exit_code_0_and_leaves_nothing(served: Cluster) -> None:
    assert served.stop() == 0
    assert served.leftovers() == {}
    assert "Task was destroyed" not in served.log
