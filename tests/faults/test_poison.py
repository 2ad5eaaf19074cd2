"""Deadly, hanging and odd files in their quick form: see poison.py for what each measures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from poison import CASES


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_healthy_files_hardly_notice(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
