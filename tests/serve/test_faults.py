"""Faults of apps, and what is none."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from supervisor.serve.faults import ClientDisconnectedError, complain, is_news_of_the_end


@pytest.mark.parametrize(
    "failure",
    [
        None,
        asyncio.CancelledError(),
        ClientDisconnectedError("gone"),
        ClientDisconnect(),
        ExceptionGroup("", [ClientDisconnect(), ExceptionGroup("", [ClientDisconnectedError()])]),
    ],
)
def test_the_end_of_a_client_is_news_in_whatever_shape_it_comes(failure: BaseException | None) -> None:
    assert is_news_of_the_end(failure)


@pytest.mark.parametrize(
    "failure",
    [
        OSError("of the app's own"),
        KeyError("x"),
        SystemExit(0),
        ExceptionGroup("", [ClientDisconnect(), KeyError("x")]),
    ],
)
def test_a_fault_is_no_news(failure: BaseException) -> None:
    assert not is_news_of_the_end(failure)


def test_a_fault_is_one_line_that_names_the_request_and_no_target_breaks_it(capfd: pytest.CaptureFixture[str]) -> None:
    complain("GET", b"/a\xff", "why")
    assert capfd.readouterr().err == "holdfast: GET /a\\xff: why\n"
