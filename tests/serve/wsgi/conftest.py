"""Both ways to run a WSGI app."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[4, 1], ids=["threads", "inline"])
def threads(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number
