"""The journal: the one place where every event and every line of the app's output goes.

Invariant: an event is stamped once, then written, remembered and told to all who listen, in that order and in the
order of the calls; nothing that a listener or a reader of the log does can stop it or hold it up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from supervisor.config.settings import LogFormat
from supervisor.errors import RefusedError
from supervisor.messages.events import Event, Level
from supervisor.observe.render import (
    OutputLine,
    Stream,
    output_json,
    output_text,
    render_json,
    render_stack,
    render_text,
)
from supervisor.observe.sink import Sink

RECENT = 1000  # events
MAX_LISTENERS = 64

Listener = Callable[[Event], None]


class Journal:
    """Events go to stderr, output to the stream it was written to; both in `log_format`, which may change later."""

    def __init__(self, stdout: Sink, stderr: Sink, *, log_format: LogFormat = "text") -> None:
        self.log_format: LogFormat = log_format
        self._sinks: dict[Stream, Sink] = {"stdout": stdout, "stderr": stderr}
        self._colours = {name: sink.wants_colour for name, sink in self._sinks.items()}
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._listeners: dict[object, Listener] = {}
        stdout.notice = lambda text: self._notice("stdout", text)
        stderr.notice = lambda text: self._notice("stderr", text)

    def event(
        self,
        name: str,
        text: str,
        *,
        level: Level = "info",
        app: str | None = None,
        slot: int | None = None,
        pid: int | None = None,
        generation: int | None = None,
        **fields: Any,
    ) -> Event:
        """Emit an event that happens now, and return it. `fields` are further JSON keys."""
        event = Event(
            ts=time.time(),
            name=name,
            text=text,
            level=level,
            app=app,
            slot=slot,
            pid=pid,
            generation=generation,
            fields=fields,
        )
        self.emit(event)
        return event

    def emit(self, event: Event) -> None:
        """Write, remember and tell. A listener that raises is told nothing more."""
        self._sinks["stderr"].write(self._line("stderr", event))
        self._recent.append(event)
        for key, listener in tuple(self._listeners.items()):
            try:
                listener(event)
            except Exception as error:
                self._listeners.pop(key, None)
                self.event("log", f"a listener to events failed and was dropped: {error!r}", level="warning")

    def output(self, stream: Stream, app: str, slot: int | None, pid: int, generation: int, line: str) -> None:
        """Pass on a line that an app's process wrote; `slot` None is its spawner. Not remembered and not told."""
        output = OutputLine(
            ts=time.time(), app=app, slot=slot, pid=pid, generation=generation, stream=stream, line=line
        )
        if self.log_format == "json":
            self._sinks[stream].write(output_json(output) + b"\n")
        else:
            self._sinks[stream].write(_encode(output_text(output, colour=self._colours[stream])))

    def recent(self) -> Sequence[Event]:
        """The last 1,000 events, oldest first."""
        return tuple(self._recent)

    def unwritten(self) -> dict[str, bytes]:
        """By stream, what its reader has not taken yet."""
        return {name: sink.unwritten() for name, sink in self._sinks.items()}

    def resume(self, events: Sequence[Event], unwritten: Mapping[str, bytes]) -> None:
        """Go on with what an earlier master remembered, and had not written yet."""
        self._recent.extend(events)
        for name, sink in self._sinks.items():
            sink.write_first(unwritten.get(name, b""))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; the result ends that, and may be called twice.

        Raises `RefusedError` when 64 listen already.
        """
        if len(self._listeners) >= MAX_LISTENERS:
            raise RefusedError(f"{MAX_LISTENERS} clients follow the events already; end one of them")
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def close(self, timeout: float = 1.0) -> None:
        """Write out what waits, for at most `timeout` seconds a stream; what comes later is discarded."""
        for sink in self._sinks.values():
            sink.close(timeout)

    def _notice(self, stream: Stream, text: str) -> bytes:
        return self._line(stream, Event(ts=time.time(), name="log", text=text, level="warning"))

    def _line(self, stream: Stream, event: Event) -> bytes:
        if self.log_format == "json":
            return render_json(event) + b"\n"
        return _encode(render_text(event, colour=self._colours[stream]) + render_stack(event))


def _encode(text: str) -> bytes:
    return f"{text}\n".encode("utf-8", "backslashreplace")
