"""The quick tier of `power_loss`: a tenth of the images, that the judge sees what it is for, the real order."""

from __future__ import annotations

import pytest
from power_loss import BARS, HISTORIES, judge_history, judge_order, order_faults, why_no_trace

NO_TRACE = why_no_trace()


@pytest.mark.parametrize("name", HISTORIES)
def test_no_crash_leaves_anything_but_old_or_new(name, tmp_path):
    figures = judge_history(HISTORIES[name], tmp_path, rounds=20, seed=1)

    assert figures["different images"] >= 10
    assert {bar.name: figures.get(bar.name, 0) for bar in BARS if figures.get(bar.name, 0)} == {}


@pytest.mark.parametrize(
    ("unheard", "name", "fault"),
    [
        pytest.param("fsync", "a new micrograph", "torn sidecars", id="files never forced to the disk"),
        pytest.param(
            "fsync_folder",
            "a new micrograph",
            "sidecars before their heatmaps",
            id="folders never forced to the disk",
        ),
        pytest.param(
            "fsync_folder",
            "a micrograph overwritten by another",
            "commits that were not on the disk",
            id="done before it is on the disk",
        ),
    ],
)
def test_the_judge_sees_a_commit_that_spares_the_disk(unheard, name, fault, tmp_path):
    figures = judge_history(HISTORIES[name], tmp_path, rounds=20, seed=1, unheard=frozenset({unheard}))

    assert figures.get(fault, 0) > 0


@pytest.mark.skipif(NO_TRACE is not None, reason=str(NO_TRACE))
def test_the_real_worker_keeps_the_order(tmp_path):
    figures = judge_order(tmp_path)

    assert figures["order faults of the real worker"] == 0, figures["trouble"]


SOUND = """\
7 openat(AT_FDCWD</x>, "/s/.scopewatch-1.tmp", O_WRONLY|O_CREAT|O_EXCL, 0666) = 8</s/.scopewatch-1.tmp>
7 write(8</s/.scopewatch-1.tmp>, ""..., 100) = 100
7 fsync(8</s/.scopewatch-1.tmp> <unfinished ...>
9 write(3</log>, ""..., 10) = 10
7 <... fsync resumed>) = 0
7 rename("/s/.scopewatch-1.tmp", "/s/a.dm3.heatmap.png") = 0
7 fsync(8</s>) = 0
7 openat(AT_FDCWD</x>, "/s/.scopewatch-2.tmp", O_WRONLY|O_CREAT|O_EXCL, 0666) = 8</s/.scopewatch-2.tmp>
7 write(8</s/.scopewatch-2.tmp>, ""..., 20) = 20
7 fsync(8</s/.scopewatch-2.tmp>) = 0
7 rename("/s/.scopewatch-2.tmp", "/s/a.dm3.json") = 0
7 fsync(8</s>) = 0
""".splitlines()


@pytest.mark.parametrize(
    ("without", "fault"),
    [
        pytest.param((), None, id="sound"),
        pytest.param(
            (2, 3, 4), "put into place before it was forced to the disk: /s/a.dm3.heatmap.png", id="heatmap"
        ),
        pytest.param(
            (6,),
            "sidecar put into place before these were forced to the disk: /s/a.dm3.heatmap.png",
            id="folder",
        ),
        pytest.param((9,), "put into place before it was forced to the disk: /s/a.dm3.json", id="sidecar"),
        pytest.param((11,), "never forced to the disk: /s/a.dm3.json", id="end"),
    ],
)
def test_a_trace_is_judged(without, fault, tmp_path):
    lines = [line for number, line in enumerate(SOUND) if number not in without]

    assert order_faults(lines, tmp_path.__class__("/s")) == ([] if fault is None else [fault])
