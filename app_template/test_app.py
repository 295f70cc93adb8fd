"""Run with `pytest`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app import app


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
