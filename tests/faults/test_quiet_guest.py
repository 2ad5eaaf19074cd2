"""The agent as a guest in its quick form: see quiet_guest.py for what each measures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from quiet_guest import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_nobody_is_disturbed(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
