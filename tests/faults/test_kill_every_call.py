"""The quick tier of `kill_every_call`: a tenth of the points, at the calls that matter most."""

from __future__ import annotations

import pytest
from kill_every_call import BARS, run_unit
from power_loss import why_no_trace

REASON = why_no_trace()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.mark.parametrize(
    ("unit", "points"),
    [
        ("worker, overwritten, rename", 2),
        ("both, first, fsync", 3),
        ("both, no image, unlink", 1),
        ("journal, first, pwrite64", 3),
        ("start, first, pwrite64", 2),
    ],
)
def test_every_point_is_survived(unit, points):
    figures = run_unit(unit, most=points)

    assert figures["points"] >= points
    missed = {bar.name: figures.get(bar.name) for bar in BARS if bar.missed(float(figures.get(bar.name, 0)))}
    assert missed == {}, figures["trouble"]
