"""Clients who give up: each asks, waits for `PATIENCE_S` at most, and asks again at once, whatever it was answered.

    impatient_load.py PORT PATH CLIENTS SECONDS [fresh]

Each client keeps its connection, or, `fresh`, opens one for each request; one that gives up closes its own. What came
in the first `SETTLING_S` is not counted. One line of JSON is printed: how many answers came in time, a second, how long
they took, and what became of the other requests. `run` is the same for a Python program.

Invariant: one thread does it all, and each request ends in exactly one of `ok`, `shed`, `late` and `broken`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

PATIENCE_S = 1.0
SETTLING_S = 2.0


@dataclass
class Seen:
    """Rates are a second. `broken` are requests whose connection ended first, or was refused."""

    clients: int = 0
    seconds: float = 0.0
    ok_per_s: float = 0.0
    shed_per_s: float = 0.0
    late_per_s: float = 0.0
    broken_per_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0


class Client(asyncio.Protocol):
    """One client. `counts` is shared by all, and so is `times`, of answers that came in time."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0.0
        self._got = b""

    def start(self) -> None:
        """Ask on the connection there is, or on another."""
        self._got = b""
        self._asked = time.monotonic()
        self._timer = self._crowd.loop.call_later(PATIENCE_S, self._give_up)
        if self._transport is not None:
            self._transport.write(self._crowd.request)
        else:
            self._crowd.connect(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._transport is not None or self._timer is None:  # it gave up meanwhile, and has another
            transport.abort()
            return
        self._transport = transport
        transport.write(self._crowd.request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, mark, body = self._got.partition(b"\r\n\r\n")
        if not mark or self._timer is None:
            return
        lower = head.lower()
        size = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= size:
            if self._crowd.fresh or b"connection: close" in lower:
                self._leave()
            self._end("ok" if head[9:12] == b"200" else "shed" if head[9:12] == b"503" else "broken")

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._end("broken")

    def refused(self) -> None:
        """There is no connection to be had."""
        self._crowd.loop.call_later(0.05, self._end, "broken")

    def _give_up(self) -> None:
        self._leave()
        self._end("late")

    def _leave(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(asyncio.Protocol())
            transport.abort()

    def _end(self, how: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._crowd.ended(how, time.monotonic() - self._asked)
            self._crowd.loop.call_soon(self.start)


class Crowd:
    """All clients, from `begin` on."""

    def __init__(self, port: int, path: str, size: int, *, fresh: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.fresh = fresh
        self._port = port
        self._size = size
        self._connecting: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys(("ok", "shed", "late", "broken"), 0)
        self._times: list[float] = []

    def begin(self) -> None:
        """Let the clients come, within half a second."""
        for number in range(self._size):
            self.loop.call_later(0.5 * number / self._size, Client(self).start)

    def connect(self, client: Client) -> None:
        task = self.loop.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: Client) -> None:
        try:
            await self.loop.create_connection(lambda: _Door(client), "127.0.0.1", self._port)
        except OSError:
            client.refused()

    def ended(self, how: str, seconds: float) -> None:
        self._counts[how] += 1
        if how == "ok":
            self._times.append(seconds)

    def forget(self) -> None:
        """Count anew."""
        self._counts = dict.fromkeys(self._counts, 0)
        self._times.clear()

    def seen(self, seconds: float) -> Seen:
        """Since it was last forgotten, so many seconds ago."""
        rates = {f"{how}_per_s": count / seconds for how, count in self._counts.items()}
        times = sorted(self._times) or [0.0]
        return Seen(
            self._size,
            seconds,
            p50_s=times[len(times) // 2],
            p99_s=times[len(times) * 99 // 100],
            **rates,
        )


class _Door(asyncio.Protocol):
    """A connection on its way to a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(self._client)
        self._client.connection_made(transport)


async def run(port: int, path: str, clients: int, seconds: float, *, fresh: bool = False) -> Seen:
    """Raises nothing: a server that is gone is `broken` requests."""
    crowd = Crowd(port, path, clients, fresh=fresh)
    crowd.begin()
    await asyncio.sleep(SETTLING_S)
    crowd.forget()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    return crowd.seen(time.monotonic() - began)


def main() -> None:
    port, path, clients, seconds, *more = sys.argv[1:]
    seen = asyncio.run(run(int(port), path, int(clients), float(seconds), fresh=more == ["fresh"]))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
