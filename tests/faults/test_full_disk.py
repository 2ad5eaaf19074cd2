"""The quick tier of `full_disk`: each standing fault for seconds, some pages, every byte of a sidecar."""

from __future__ import annotations

import errno

import pytest
from full_disk import BARS, STANDING, FullAfter, every_offset, run_unit, why_not

REASON = why_not()
needs_a_small_disk = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def missed(figures):
    return {bar.name: figures.get(bar.name) for bar in BARS if bar.missed(float(figures.get(bar.name, 0)))}


@needs_a_small_disk
@pytest.mark.parametrize("unit", [*STANDING, "page 66"])
def test_a_full_disk_costs_nothing_but_time(unit):
    figures = run_unit(unit, 3.0)

    assert figures["files"] >= 2
    assert figures.get("waited at the floor", 1) > 0
    assert missed(figures) == {}, figures["trouble"]


@pytest.mark.parametrize("earlier", [None, b"the earlier record " * 40])
def test_a_write_without_room_leaves_the_old_file_and_no_other(earlier, tmp_path):
    figures = every_offset(tmp_path, bytes(range(250)) * 4, earlier)

    assert figures["writes that ran out of room"] == 1000
    assert figures["torn after a write that ran out of room"] == 0, figures["trouble"]


def test_a_disk_that_is_full_after_some_bytes_takes_these_and_no_more(tmp_path):
    layer = FullAfter(3)
    descriptor = layer.create(tmp_path / "a")
    try:
        assert layer.write(descriptor, memoryview(b"12345")) == 3
        with pytest.raises(OSError, match="No space left") as caught:
            layer.write(descriptor, memoryview(b"45"))
    finally:
        layer.close(descriptor)
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == b"123"
