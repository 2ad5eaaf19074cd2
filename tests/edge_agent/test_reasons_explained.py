"""Every reason to abstain is explained to the microscopist, and has its picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_agent.decision import REASONS

REPOSITORY = Path(__file__).resolve().parents[2]
LOOKS_LIKE_ANOTHER = {"pixel_size_unknown": "uncalibrated"}


def test_the_readme_explains_the_reasons_in_their_order():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text.partition("| reason | what it means | what to do |")[2].partition("\n\n")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(REASONS)


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason not in LOOKS_LIKE_ANOTHER])
def test_a_reason_has_its_picture(reason):
    script = (REPOSITORY / "tests/benchmarks/guard_pictures.py").read_text(encoding="utf-8")

    assert f'"{reason}",' in script.partition("CASES = (")[2]
