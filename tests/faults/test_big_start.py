"""Starting among finished files in its quick form: see big_start.py for what each measures."""

from __future__ import annotations

import pytest
from big_start import CASES
from cases import missed_when_quick, quick_cases


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_nothing_is_done_again(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
