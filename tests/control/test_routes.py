from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.control.routes import Answer, Follow, Gradual, Later, Request, error, route
from tests.control.stage import Scene


class Direct(Scene):
    """Takes no time: what would be done later is not done."""

    def later(self, delay: float, action: Any) -> None:
        pass


def ask(method: str, target: str, body: object = None, scene: Scene | None = None) -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    answer = route(Request(method, target, data), scene or Direct())
    if isinstance(answer, Gradual):
        return Answer(200, b"".join(answer.pieces), answer.content_type)
    assert isinstance(answer, Answer)
    return answer


def refusal(answer: Answer) -> str:
    parsed = json.loads(answer.body)
    assert list(parsed) == ["error"]
    assert answer.body.count(b"\n") == 1
    assert answer.body.endswith(b"\n")
    return str(parsed["error"])


def test_status_is_the_contracts_object() -> None:
    answer = ask("GET", "/status")
    parsed = json.loads(answer.body)
    assert answer.status == 200
    assert list(parsed) == ["version", "pid", "uptime_s", "state", "apps", "programs"]
    assert parsed["apps"]["web"]["workers"][0]["slot"] == 1
    assert answer.body.endswith(b"}\n")


def test_metrics_are_prometheus_text() -> None:
    answer = ask("GET", "/metrics")
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert answer.body.endswith(b"holdfast_up 1\n")


def test_crashes_are_listed_and_shown_one_by_one() -> None:
    listed = json.loads(ask("GET", "/crashes").body)["crashes"]
    assert [each["id"] for each in listed] == ["20261121T070809.123-web-1-4242"]
    assert "stacks" not in listed[0]
    shown = json.loads(ask("GET", "/crashes/4242").body)
    assert shown["requests"][0]["path"] == "/poison"
    assert shown["end"]["signal"] == "SIGSEGV"
    missing = ask("GET", "/crashes/../status")
    assert missing.status == 409
    assert "'../status'" in refusal(missing)
    assert ask("POST", "/crashes/4242").status == 405


def test_version_names_the_master() -> None:
    assert set(json.loads(ask("GET", "/version").body)) == {"version", "pid"}


def test_events_are_lines_oldest_first() -> None:
    scene = Direct()
    scene.emit("worker.ready", "takes requests", "web", slot=1)
    scene.emit("worker.exited", "killed by\nSIGKILL", "web", slot=1)
    answer = ask("GET", "/events", scene=scene)
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert answer.content_type == "application/x-ndjson"
    assert [line["event"] for line in lines] == ["worker.ready", "worker.exited"]


@pytest.mark.parametrize(("query", "count"), [("follow=1", 0), ("follow=1&recent=1", 1), ("follow=1&recent=0", 0)])
def test_following_begins_with_the_recent_events_only_when_asked(query: str, count: int) -> None:
    scene = Direct()
    scene.emit("log", "hello")
    answer = route(Request("GET", f"/events?{query}"), scene)
    assert isinstance(answer, Follow)
    assert len(list(answer.first)) == count


@pytest.mark.parametrize("query", ["follow=yes", "follow", "tail=1", "%66ollow=1", "follow=1&x=1"])
def test_an_unknown_query_is_refused_and_the_known_ones_named(query: str) -> None:
    answer = ask("GET", f"/events?{query}")
    assert answer.status == 400
    assert "follow=1 or recent=1" in refusal(answer)


@pytest.mark.parametrize(
    ("path", "body", "call", "status"),
    [
        ("/reload", {"apps": ["web"]}, ("reload", ("web",)), 202),
        ("/reload", {}, ("reload", ()), 202),
        ("/reload", None, ("reload", ()), 202),
        ("/rollback", {"apps": ["web"]}, ("rollback", ("web",)), 202),
        ("/start", {"target": "api"}, ("start", "api"), 202),
        ("/stop", {"target": "web:1"}, ("stop", "web:1"), 202),
        ("/restart", {"target": "web"}, ("restart", "web"), 202),
        ("/scale", {"app": "web", "workers": "+1"}, ("scale", "web", "+1"), 202),
        ("/scale", {"app": "web", "workers": 4}, ("scale", "web", "4"), 202),
        ("/signal", {"signal": "USR1", "target": "web"}, ("signal", "USR1", "web"), 200),
        ("/signal", {"signal": 10, "target": "web"}, ("signal", "10", "web"), 200),
        ("/shutdown", None, ("shutdown",), 202),
    ],
)
def test_a_command_reaches_the_master_once(path: str, body: object, call: tuple[Any, ...], status: int) -> None:
    scene = Direct()
    answer = ask("POST", path, body, scene)
    assert answer.status == status
    assert scene.calls == [call]
    assert isinstance(json.loads(answer.body), dict)


def test_what_commands_return_is_in_the_answer() -> None:
    assert json.loads(ask("POST", "/reload", {"apps": ["web"]}).body) == {
        "generations": {"web": 2},
        "rolls": {"web": 2},
    }
    assert json.loads(ask("POST", "/scale", {"app": "web", "workers": "+2"}).body) == {"app": "web", "workers": 4}
    assert json.loads(ask("POST", "/signal", {"signal": "HUP", "target": "web"}).body) == {"pids": [1001, 1002]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/start", {}),
        ("/start", {"target": 5}),
        ("/start", {"target": "web", "force": True}),
        ("/start", ["web"]),
        ("/reload", {"apps": "web"}),
        ("/scale", {"app": "web"}),
        ("/scale", {"app": "web", "workers": 1.5}),
        ("/signal", {"target": "web"}),
    ],
)
def test_a_wrong_body_is_a_400_that_says_what_was_expected(path: str, body: object) -> None:
    scene = Direct()
    answer = ask("POST", path, body, scene)
    assert answer.status == 400
    assert "the body: " in refusal(answer)
    assert scene.calls == []


def test_what_the_master_refuses_is_a_409_in_its_own_words() -> None:
    answer = ask("POST", "/stop", {"target": "wbe"})
    assert answer.status == 409
    assert refusal(answer) == "no app called 'wbe'; there is web, api"


def test_a_bug_in_the_master_escapes() -> None:
    with pytest.raises(ZeroDivisionError):
        ask("POST", "/start", {"target": "broken"})


def test_an_unknown_path_is_a_404_that_names_the_known_ones() -> None:
    answer = ask("GET", "/nothing")
    assert answer.status == 404
    assert "/status" in refusal(answer)


@pytest.mark.parametrize(("method", "path", "allow"), [("POST", "/status", "GET"), ("GET", "/reload", "POST")])
def test_a_wrong_method_is_a_405_with_allow(method: str, path: str, allow: str) -> None:
    answer = ask(method, path)
    assert (answer.status, answer.allow) == (405, allow)
    assert allow in refusal(answer)


@pytest.mark.parametrize("target", ["http://./status", "http://holdfast/status", "/status?"])
def test_the_absolute_form_of_a_target_is_understood(target: str) -> None:
    assert ask("GET", target).status == 200


def test_an_error_is_one_printable_line() -> None:
    answer = error(400, "two\nlines \x1b[31m\udc80 and " + "x" * 5000)
    assert refusal(answer).isprintable()
    assert len(answer.body) < 2100


@given(st.sampled_from(["/start", "/reload", "/scale", "/signal", "/shutdown"]), st.binary(max_size=200))
def test_no_body_is_more_than_a_bad_request(path: str, body: bytes) -> None:
    answer = route(Request("POST", path, body), Direct())
    assert isinstance(answer, Answer)
    assert answer.status in (200, 202, 400, 409)


@pytest.mark.parametrize("body", [b"[" * 60000, b'{"app":"web","workers":' + b"9" * 60000 + b"}"])
def test_deep_and_huge_bodies_are_bad_requests(body: bytes) -> None:
    answer = route(Request("POST", "/scale", body), Direct())
    assert isinstance(answer, Answer)
    assert answer.status == 400


def test_text_that_is_no_unicode_does_not_break_a_status() -> None:
    scene = Direct()
    scene.end("web", 2, "roll.rolled_back", "caf\udce9.py")
    assert "rolled_back" in ask("GET", "/status", scene=scene).body.decode()
    assert "rolled_back" in ask("GET", "/events", scene=scene).body.decode()


@pytest.mark.parametrize(
    "body",
    [
        {"target": "web:1"},
        {"target": "web:1", "seconds": -1},
        {"target": "web:1", "seconds": 601},
        {"target": "web:1", "seconds": 1, "frames": 0},
        {"target": "web:1", "seconds": 1, "frames": 17},
        {"target": "web:1", "seconds": "long"},
    ],
)
def test_a_survey_that_would_take_too_long_or_nothing_is_a_bad_request(body: object) -> None:
    scene = Direct()
    assert ask("POST", "/heap", body, scene).status == 400
    assert scene.calls == []


def test_a_survey_is_answered_later() -> None:
    class Quick(Direct):
        def later(self, delay: float, action: Any) -> None:
            action()

    scene, answers = Quick(), list[Answer]()
    for target in ("web:1", "web:2"):
        later = route(Request("POST", "/heap", json.dumps({"target": target, "seconds": 2}).encode()), scene)
        assert isinstance(later, Later)
        later.begin(answers.append)
    assert [answer.status for answer in answers] == [200, 409]
    assert json.loads(answers[0].body)["allocations"][0]["place"] == "/srv/shop/cart.py:12"
    assert refusal(answers[1]) == "web:2: the worker has ended meanwhile"
    assert scene.calls[0] == ("heap", "web:1", 2.0, 1)


def test_stacks_are_answered_later_and_of_one_worker_only() -> None:
    class Quick(Direct):
        def later(self, delay: float, action: Any) -> None:
            action()

    answers: list[Answer] = []
    later = route(Request("POST", "/stack", b'{"target":"web:1"}'), Quick())
    assert isinstance(later, Later)
    later.begin(answers.append)
    found = json.loads(answers[0].body)
    assert (answers[0].status, found["target"]) == (200, "web:1")
    assert found["workers"][0]["stacks"]["threads"][0]["frames"][0] == {
        "file": "/srv/shop/cart.py",
        "line": 12,
        "function": "total",
        "source": "time.sleep(9)",
    }
    assert ask("POST", "/stack", {"target": "web:1", "more": 1}).status == 400
