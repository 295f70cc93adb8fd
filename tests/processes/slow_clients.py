"""A process of clients that never finish a request's head: `python -m tests.processes.slow_clients HOST PORT COUNT`.

Each sends a byte of its head four times a second, and comes back at once when it is turned away. Once all have come a
line says so, and at the end of input another says how often one had to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Drip: and so on\r\n" * 1000
PAUSE_S = 0.25


class Slow:
    """All of them. `returned` counts how often one came back."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self._address = host, port
        self._awaited = count
        self.there = asyncio.Event()
        self.returned = 0

    async def live(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(*self._address)
                self._awaited -= 1
                if not self._awaited:
                    self.there.set()
                await self._drip(reader, writer)
                writer.close()
            self.returned += 1

    async def _drip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = asyncio.ensure_future(reader.read(4096))
        for number in range(len(HEAD)):
            writer.write(HEAD[number : number + 1])
            done, _ = await asyncio.wait((answered,), timeout=PAUSE_S)
            if done:
                answered.exception()
                return


async def main(host: str, port: int, count: int) -> None:
    slow = Slow(host, port, count)
    clients = [asyncio.ensure_future(slow.live()) for _ in range(count)]
    await slow.there.wait()
    print("there", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for client in clients:
        client.cancel()
    print(slow.returned, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
