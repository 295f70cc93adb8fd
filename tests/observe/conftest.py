"""The reactor of the kernel's tests, for the rooms above it."""

from __future__ import annotations

from tests.kernel.conftest import errors as errors
from tests.kernel.conftest import reactor as reactor
from tests.kernel.conftest import until as until
