"""Run with `pytest`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app import app, ticks


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("GREETING", "Good morning")
    with TestClient(app) as client:
        yield client


def test_the_greeting_comes_from_the_environment(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Good morning from holdfast", "pid": os.getpid()}


def test_a_started_worker_is_healthy(client: TestClient) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


def test_the_events_end_when_the_worker_leaves() -> None:
    async def run() -> list[str]:
        draining = asyncio.Event()
        seen = []
        async for event in ticks(draining, 0.01):
            seen.append(event)
            if len(seen) == 3:
                draining.set()
        return seen

    assert [event.partition("\n")[0] for event in asyncio.run(run())] == ["id: 1", "id: 2", "id: 3"]
