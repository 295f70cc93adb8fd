"""Hooks of a worker: each called with who it is, and whatever one raises told as its failure."""

from __future__ import annotations

import pytest

from supervisor.errors import AppError
from supervisor.worker.hooks import WorkerHooks, WorkerInfo

WORKER = WorkerInfo("web", 2, 3)


def test_the_hook_of_that_name_is_told_which_worker_it_is() -> None:
    told: list[WorkerInfo] = []
    hooks = WorkerHooks(after_fork=told.append)
    for name in WorkerHooks.__slots__:
        hooks.call(name, WORKER)
    assert told == [WORKER]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no\nlicence"), "on_worker_start failed: RuntimeError: no licence"),
        (SystemExit(3), "on_worker_start failed: SystemExit: 3"),
        (KeyboardInterrupt(), "on_worker_start failed: KeyboardInterrupt"),
    ],
)
def test_what_it_raises_is_one_line_behind_a_traceback_without_our_frames(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(worker: WorkerInfo) -> None:
        raise error

    with pytest.raises(AppError) as caught:
        WorkerHooks(on_worker_start=fails).call("on_worker_start", WORKER)
    assert str(caught.value) == said
    traceback = capsys.readouterr().err
    assert "in fails" in traceback
    assert "supervisor/worker" not in traceback
