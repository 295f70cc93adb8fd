from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from supervisor.control.feed import MAX_FOLLOWERS, Feed
from supervisor.errors import RefusedError
from supervisor.messages.events import Event

Listener = Callable[[Event], None]


class Source:
    """Who tells events."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, text: str) -> None:
        for listener in list(self.listeners):
            listener(Event(ts=1.0, name="log", text=text))


def test_everybody_gets_the_same_line_and_the_source_has_one_listener() -> None:
    source, first, second = Source(), list[bytes](), list[bytes]()
    feed = Feed(source.subscribe)
    feed.follow(first.append)
    feed.follow(second.append)
    source.tell("hello")
    assert len(source.listeners) == 1
    assert json.loads(first[0])["message"] == "hello"
    assert first[0] is second[0]


def test_who_leaves_hears_no_more_and_the_last_one_leaves_the_source() -> None:
    source, first, second = Source(), list[bytes](), list[bytes]()
    feed = Feed(source.subscribe)
    leave, leave_too = feed.follow(first.append), feed.follow(second.append)
    leave()
    leave()
    source.tell("one")
    assert (first, len(second)) == ([], 1)
    leave_too()
    assert source.listeners == []
    feed.follow(first.append)
    source.tell("two")
    assert len(first) == 1


def test_a_follower_may_leave_while_it_is_told() -> None:
    source, heard = Source(), list[bytes]()
    feed = Feed(source.subscribe)
    leaves = [feed.follow(lambda line: leaves[0]())]
    feed.follow(heard.append)
    source.tell("hello")
    assert len(heard) == 1


def test_there_is_a_limit_to_followers() -> None:
    feed = Feed(Source().subscribe)
    leaves = [feed.follow(lambda line: None) for _ in range(MAX_FOLLOWERS)]
    with pytest.raises(RefusedError, match=f"{MAX_FOLLOWERS} clients follow"):
        feed.follow(lambda line: None)
    leaves[0]()
    feed.follow(lambda line: None)
