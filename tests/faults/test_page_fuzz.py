"""A thousandth of the fuzzed requests: see page_fuzz.py for the full figures."""

from __future__ import annotations

import pytest
from cases import missed_when_quick, quick_cases
from page_fuzz import CASES, Making, routes


@pytest.mark.parametrize("case", quick_cases(CASES))
def test_nobody_reads_without_the_key_and_nothing_fails(case, tmp_path):
    assert missed_when_quick(case, tmp_path) == []


def test_the_requests_come_to_every_route_with_and_without_the_key():
    making = Making(8747, "k" * 64, "c" * 64, "w" * 64)
    requests = [making.of(number) for number in range(4000)]

    known = {path.partition("{")[0] for _, path in routes()}
    reached = {path for path in known if any(request.target.startswith(path) for request in requests)}
    assert reached == known
    assert {request.has_key for request in requests} == {True, False}
    assert {request.method for request in requests} >= {"GET", "HEAD", "POST", "PUT", "DELETE"}
