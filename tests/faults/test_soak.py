"""Growth over many files in its quick form: see soak.py for what each measures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from soak import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_nothing_grows(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
