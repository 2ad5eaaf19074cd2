"""Renames, culling, names, mirrors and clocks in their quick form: see folders.py for what each measures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from folders import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_answers_stay_with_their_files(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
