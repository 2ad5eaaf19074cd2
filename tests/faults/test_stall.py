"""Shares that stall, drop and return, in their quick form: see stall.py for what each measures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from stall import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_no_file_is_lost(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
