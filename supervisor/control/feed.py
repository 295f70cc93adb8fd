"""The master's events for all who follow them, each made a line of JSON once.

Invariant: the master has one listener in us while anybody follows, and none otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from supervisor.control.routes import event_line
from supervisor.errors import RefusedError
from supervisor.messages.events import Event

MAX_FOLLOWERS = 32

Push = Callable[[bytes], None]
Subscribe = Callable[[Callable[[Event], None]], Callable[[], None]]


class Feed:
    """Passes on what `subscribe`, the master's, tells."""

    def __init__(self, subscribe: Subscribe) -> None:
        self._subscribe = subscribe
        self._unsubscribe: Callable[[], None] | None = None
        self._followers: dict[object, Push] = {}

    def follow(self, push: Push) -> Callable[[], None]:
        """Call `push` with the line of every event from now on; the result ends that, and may be called twice.

        Raises `RefusedError` when 32 follow already: the other clients' places are for those who only ask.
        """
        if len(self._followers) >= MAX_FOLLOWERS:
            raise RefusedError(f"{MAX_FOLLOWERS} clients follow the events already; end one of them")
        if self._unsubscribe is None:
            self._unsubscribe = self._subscribe(self._on_event)
        key = object()
        self._followers[key] = push
        return lambda: self._leave(key)

    def _leave(self, key: object) -> None:
        self._followers.pop(key, None)
        if not self._followers and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _on_event(self, event: Event) -> None:
        line = event_line(event)
        for push in tuple(self._followers.values()):
            push(line)


def dropped_line(count: int) -> bytes:
    """What a reader that is too slow finds in the place of so many events."""
    text = f"{count} events were dropped: this reader is too slow"
    return event_line(Event(ts=time.time(), name="events.dropped", text=text, level="warning", fields={"count": count}))
