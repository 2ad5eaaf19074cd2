"""Nothing is given up; pauses grow, and one file's trouble does not keep its neighbours for long."""

from __future__ import annotations

import pytest

from edge_agent.retries import RetryRule, UnwritableFolders
from edge_agent.sidecar import Finding


@pytest.mark.parametrize(
    ("outcomes", "pauses"),
    [
        pytest.param(["incomplete"] * 8, [1, 2, 4, 8, 15, 30, 60, 60], id="incomplete: for ever"),
        pytest.param(["failed"] * 8, [1, 2, 4, 8, 15, 30, 60, 60], id="failed: for ever"),
    ],
)
def test_pauses_grow_to_a_minute(tmp_path, outcomes, pauses):
    rule = RetryRule()

    assert [rule.pause_after(Finding(tmp_path, outcome), 0.0) for outcome in outcomes] == pauses


def test_a_file_that_is_done_starts_afresh(tmp_path):
    rule = RetryRule()
    rule.pause_after(Finding(tmp_path, "incomplete"), 10.0)
    assert rule.incomplete_seconds(tmp_path, 25.0) == 15.0

    rule.forget(tmp_path)

    assert rule.incomplete_seconds(tmp_path, 25.0) == 0.0
    assert rule.pause_after(Finding(tmp_path, "incomplete"), 30.0) == 1


def test_one_file_whose_outputs_cannot_be_written_does_not_hold_its_neighbours_for_long(tmp_path):
    folders, now = UnwritableFolders(), 0.0
    for _ in range(5):
        again = folders.fail(tmp_path, now)
        assert folders.wait_seconds(tmp_path, now) < again
        now += folders.wait_seconds(tmp_path, now)
        assert folders.wait_seconds(tmp_path, now) == 0.0
        folders.succeed(tmp_path)
        now += again
