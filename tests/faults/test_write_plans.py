"""The quick tier of `write_plans`: half a unit with shorter pauses, and every bar of the long one."""

from __future__ import annotations

import sys

import pytest
import write_plans
from write_plans import BARS, QUIET_SECONDS, run_plans

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="writes with calls that only Linux has")


def test_nothing_is_answered_before_its_last_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(write_plans, "LONGEST_PAUSE_SECONDS", 2.5 * QUIET_SECONDS)
    monkeypatch.setattr(write_plans, "SPREAD_SECONDS", 4.0)
    figures = run_plans(50, 7, tmp_path)

    assert figures["plans"] == 50
    assert figures["sidecars read"] >= 50
    missed = {bar.name: figures.get(bar.name) for bar in BARS if bar.missed(float(figures.get(bar.name, 0)))}
    assert missed == {}, figures["trouble"]
