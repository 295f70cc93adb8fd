"""Every fault of `faults`, on a real cluster under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.faults import FAULTS
from tests.processes.load import Report
from tests.processes.surroundings import Fault, Outcome, table, undergo


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cluster_holds_and_is_whole_again(fault: Fault, tmp_path: Path) -> None:
    outcome = undergo(fault, tmp_path, seed=1)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.failures == []
    assert outcome.clients.ok > 0


def test_the_table_has_a_row_for_each_with_what_was_lost_and_logged() -> None:
    held = Outcome("a", Report(requests=1234, lost=2), "warning web | gone", 1.25, ["2 % of a CPU"])
    rows = table([held, Outcome("b", skipped="no root"), Outcome("c", failures=["x"])]).splitlines()[2:]
    assert rows[0] == "| a | 2 of 1,234 | warning web / gone | 1.2 s | held; 2 % of a CPU |"
    assert rows[1] == "| b | - | - | - | skipped: no root |"
    assert rows[2].endswith("| FAILED |")


def test_a_long_line_of_the_log_is_cut() -> None:
    assert len(table([Outcome("a", told="x" * 500)])) < 300
