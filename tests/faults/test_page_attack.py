"""Clients that disturb the page, in their quick form: see page_attack.py for what each measures."""

from __future__ import annotations

import sys

import pytest
from cases import missed_when_quick, quick_cases
from page_attack import CASES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors as Linux has them")


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_the_watching_is_not_disturbed(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []
