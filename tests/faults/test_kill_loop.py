"""The quick tier of `kill_loop`: a tenth of a unit's kills, with every bar of the long one."""

from __future__ import annotations

import sys

import pytest
from harness import totals
from kill_loop import BARS, Session, run_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the process table of Linux")


def test_no_kill_loses_or_repeats_anything(tmp_path):
    figures = run_session(Session(kills=5, files=80, seed=20), tmp_path)

    assert figures["kills"] == 5
    assert figures["files"] == 80
    missed = {bar.name: figures.get(bar.name) for bar in BARS if bar.missed(float(figures.get(bar.name, 0)))}
    assert missed == {}, totals([figures]).get("trouble")
