"""The quick tier of `reload_loop`: a few edits, with every bar of the long one."""

from __future__ import annotations

import sys

import pytest
from harness import totals
from reload_loop import BARS, Session, run_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the process table of Linux")


def test_no_edit_loses_anything(tmp_path):
    figures = run_session(Session(edits=1, files=12, seed=20), tmp_path)

    assert figures["files"] == 12
    missed = {bar.name: figures.get(bar.name) for bar in BARS if bar.missed(float(figures.get(bar.name, 0)))}
    assert missed == {}, totals([figures]).get("trouble")
