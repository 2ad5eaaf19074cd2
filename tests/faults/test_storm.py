"""Storms in their quick form: see storm.py for what each measures, and for the full figures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from storm import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_no_file_is_lost(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
