"""The quick tier of `label_kills`: a few deaths at random moments and at the calls that matter most."""

from __future__ import annotations

import pytest
from label_kills import BARS, run_unit
from power_loss import why_no_trace

NO_TRACE = why_no_trace()


@pytest.mark.parametrize(
    ("unit", "kills"),
    [
        ("random 7", 5),
        *(
            pytest.param(call, 2, marks=pytest.mark.skipif(NO_TRACE is not None, reason=str(NO_TRACE)))
            for call in ("rename", "fsync", "pwrite64")
        ),
    ],
)
def test_what_was_acknowledged_outlives_every_death(unit, kills):
    figures = run_unit(unit, most=kills)

    assert figures["kills"] == kills
    missed = {bar.name: figures[bar.name] for bar in BARS if bar.missed(float(figures[bar.name]))}
    assert missed == {}, figures["trouble"]
