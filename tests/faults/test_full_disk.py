"""The quick tier of `full_disk`: each standing fault for seconds, some pages, every byte of a sidecar."""

from __future__ import annotations

import errno
import os

import pytest
from full_disk import BARS, STANDING, FullAfter, every_offset, run_unit, small_disk, why_not

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


@needs_a_small_disk
def test_the_disk_is_filled_although_somebody_else_took_room_just_then(tmp_path, monkeypatch):
    fallocate, asked = os.posix_fallocate, []

    def once_too_late(descriptor, offset, length):
        asked.append(length)
        if len(asked) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fallocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", once_too_late)
    with small_disk(tmp_path / "disk", 4) as disk:
        disk.leave(0)

        assert disk.free_bytes() == 0
        assert asked[0] == asked[1]


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
