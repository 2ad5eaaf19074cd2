"""A day that leaves the usual range is told once; nothing counts twice; no disk and no damage stops the work."""

from __future__ import annotations

import json
import logging
import math
import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drift import DRIFT_NAME, LEAST_FILES, MOST_DAYS, Drift, Tally
from edge_agent.files import FileLayer
from edge_agent.logs import StandingFaults
from edge_agent.protocol import Ready, UsualRanges
from edge_agent.sidecar import Finding

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MODEL = Ready("m", "1", "ab" * 32, usual=UsualRanges(confidence=(0.5, 1.0), contrast=(0.05, 0.25)))
GOOD = Finding(
    Path("/d/a.dm3"),
    "classified",
    label="rod",
    probability=0.9,
    model_sha256=MODEL.sha256,
    novelty=0.4,
    contrast=0.2,
    pixel_size_nm=0.12,
)
UNSURE = replace(GOOD, probability=0.2)
PALE = replace(GOOD, contrast=0.01)


class Bench:
    """An agent's statistics, a clock set by hand, and what was said."""

    def __init__(self, state: Path, caplog):
        caplog.set_level(logging.INFO, "edge_agent.drift")
        self.state, self.caplog = state, caplog
        self.now, self.seconds = NOON, 0.0
        self.writes = []
        self.disk = Disk(self.writes)
        self.start()

    def start(self):
        self.drift = Drift(
            self.state, clock=lambda: self.now, monotonic=lambda: self.seconds, layer=self.disk
        )

    def restart(self):
        self.drift.save(at_once=True)
        self.start()

    def note(self, finding, times=1, model=MODEL):
        for _ in range(times):
            self.drift.note(finding, model)

    def warned(self):
        """The quantities that were warned of so far."""
        return [text.partition(" has left")[0] for text in self._said(logging.WARNING) if " has left" in text]

    def welcomed(self):
        return [text.partition(" is back")[0] for text in self._said(logging.INFO) if " is back" in text]

    def _said(self, level):
        return [record.getMessage() for record in self.caplog.records if record.levelno == level]

    def of(self, quantity):
        return [number for number in self.drift.numbers() if number.quantity == quantity]


class Disk(FileLayer):
    """Counts the writes, and fails when told to."""

    fails = False

    def __init__(self, writes):
        super().__init__("status")
        self.writes = writes

    def replace(self, source, target):
        if self.fails:
            raise OSError(28, "No space left on device")
        self.writes.append(target)
        super().replace(source, target)


@pytest.fixture
def bench(tmp_path, caplog):
    return Bench(tmp_path, caplog)


@pytest.mark.parametrize(
    ("findings", "warned"),
    [
        pytest.param([(UNSURE, LEAST_FILES - 1)], [], id="too few files to tell"),
        pytest.param([(UNSURE, LEAST_FILES)], ["confidence"], id="all below"),
        pytest.param([(replace(GOOD, contrast=0.3), LEAST_FILES)], ["contrast"], id="all above"),
        pytest.param([(UNSURE, 300)], ["confidence"], id="once, however many"),
        pytest.param([(GOOD, 10), (UNSURE, 10)], [], id="just half"),
        pytest.param([(GOOD, 10), (UNSURE, 11)], ["confidence"], id="one more than half"),
        pytest.param(
            [(PALE, 10), (replace(GOOD, contrast=0.9), 10), (GOOD, 5)],
            [],
            id="wide, but the median is inside",
        ),
        pytest.param([(replace(GOOD, probability=0.5), 30)], [], id="the end belongs to the range"),
        pytest.param([(replace(UNSURE, contrast=0.01), 30)], ["confidence", "contrast"], id="two quantities"),
        pytest.param([(replace(GOOD, novelty=99.0), 30)], [], id="a range that the model does not know"),
        pytest.param([(replace(UNSURE, outcome="unreadable"), 30)], [], id="not classified"),
        pytest.param([(replace(UNSURE, model_sha256="cd" * 32), 30)], [], id="the answer of another model"),
        pytest.param([(replace(UNSURE, inferred=False), 30)], [], id="renamed: the answer counted before"),
        pytest.param([(PALE, 19), (replace(GOOD, contrast=None), 9)], [], id="unknown is not counted"),
        pytest.param([(PALE, 20), (GOOD, 100), (PALE, 300)], ["contrast"], id="left twice on one day"),
        pytest.param(
            [(PALE, 20), (replace(GOOD, contrast=0.9), 100)], ["contrast", "contrast"], id="on either side"
        ),
    ],
)
def test_a_day_has_left_when_more_than_half_of_at_least_twenty_files_lie_on_one_side(bench, findings, warned):
    for finding, times in findings:
        bench.note(finding, times)

    assert bench.warned() == warned


def test_the_warning_says_what_was_seen_what_is_usual_since_when_and_what_to_do(bench):
    bench.note(GOOD, 5)
    bench.note(UNSURE, 15)

    assert bench.caplog.messages == [
        "confidence has left the usual range: 15 of 20 files of 2026-05-03 (UTC) lie below 0.5 to 1, mean 0.375, "
        "since 2026-05-03; check some of these answers by eye, and train with such micrographs where they are wrong"
    ]


def test_the_log_that_admits_one_complaint_of_a_kind_a_minute_admits_each_of_these(bench):
    rule = StandingFaults()
    bench.note(replace(UNSURE, contrast=0.01), LEAST_FILES)

    assert [rule.filter(record) for record in bench.caplog.records] == [True, True]


def test_statistics_are_those_of_the_files(bench):
    values = [0.031, 0.2, 0.25, 0.9, 0.2]
    for value in values:
        bench.note(replace(GOOD, contrast=value))

    (seen,) = bench.of("contrast")

    assert (seen.day, seen.files, seen.below, seen.above) == (NOON.date(), 5, 1, 1)
    assert seen.mean == pytest.approx(statistics.mean(values))
    assert seen.standard_deviation == pytest.approx(statistics.stdev(values))
    assert (seen.usual, seen.left) == ((0.05, 0.25), None)


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=30))
def test_any_measured_numbers_are_counted_and_can_be_kept(values):
    tally = Tally()
    for value in values:
        tally = tally.plus(value, (-1.0, 1.0))

    assert Tally.model_validate_json(tally.model_dump_json()) == tally
    assert (tally.files, tally.below) == (len(values), sum(value < -1.0 for value in values))
    assert tally.mean == pytest.approx(statistics.mean(values), rel=1e-6, abs=1e-6 * max(map(abs, values)))


def test_a_quantity_without_a_usual_range_is_averaged_and_not_judged(bench):
    bench.note(GOOD, 30)

    (seen,) = bench.of("pixel_size_nm")

    assert (seen.files, seen.mean, seen.below, seen.above) == (30, pytest.approx(0.12), 0, 0)
    assert (seen.usual, seen.left) == (None, None)


def test_one_file_has_no_standard_deviation_and_no_file_no_numbers(bench):
    assert bench.drift.numbers() == ()

    bench.note(GOOD)

    assert bench.of("contrast")[0].standard_deviation is None


@pytest.mark.parametrize("absurd", [1e101, -1e300], ids=["huge", "negative"])
def test_a_number_that_nobody_measured_is_not_counted(bench, absurd):
    bench.note(replace(GOOD, pixel_size_nm=absurd), 3)

    assert bench.of("pixel_size_nm") == []
    assert bench.of("contrast")[0].files == 3


def test_after_a_restart_the_day_goes_on_and_nothing_is_said_again(bench):
    bench.note(UNSURE, 15)
    bench.restart()
    bench.note(UNSURE, 15)
    bench.restart()
    bench.note(UNSURE, 15)

    assert bench.warned() == ["confidence"]
    assert bench.of("confidence")[0].files == 45


def test_what_was_said_is_kept_at_the_next_opportunity_so_that_a_kill_does_not_repeat_it(bench):
    bench.note(UNSURE)
    bench.drift.save()
    bench.note(UNSURE, 24)
    bench.drift.save()

    bench.start()
    bench.note(UNSURE, 25)

    assert bench.warned() == ["confidence"]


def test_every_day_is_judged_by_itself_and_knows_since_when(bench):
    bench.note(UNSURE, 30)
    bench.now += DAY
    bench.note(UNSURE, 19)
    assert bench.warned() == ["confidence"]

    bench.note(UNSURE)

    assert bench.warned() == ["confidence", "confidence"]
    assert "files of 2026-05-04 (UTC)" in bench.caplog.messages[-1]
    assert "since 2026-05-03" in bench.caplog.messages[-1]


def test_a_day_begins_at_midnight_utc(bench):
    bench.now = datetime(2026, 5, 3, 23, 59, 59, tzinfo=UTC)
    bench.note(UNSURE, 19)
    bench.now += timedelta(seconds=2)
    bench.note(UNSURE, 19)

    assert bench.warned() == []
    assert [(seen.day.day, seen.files) for seen in bench.of("confidence")] == [(4, 19), (3, 19)]


def test_a_later_day_inside_is_told_once(bench):
    bench.note(UNSURE, 30)
    bench.note(GOOD, 300)
    assert bench.welcomed() == []

    bench.now += DAY
    bench.note(GOOD, 19)
    bench.restart()
    assert bench.welcomed() == []
    bench.note(GOOD, 100)
    bench.now += DAY
    bench.note(GOOD, 100)

    assert bench.welcomed() == ["confidence"]
    assert bench.caplog.messages[-1] == (
        "confidence is back in the usual range: 20 files of 2026-05-04 (UTC) have the mean 0.9, "
        "usual is 0.5 to 1; it had left on 2026-05-03"
    )


def test_who_left_on_the_other_side_is_not_back(bench):
    bench.note(PALE, 30)
    bench.now += DAY
    bench.note(replace(GOOD, contrast=0.9), 30)
    assert (bench.warned(), bench.welcomed()) == (["contrast"] * 2, [])
    assert "since 2026-05-04" in bench.caplog.messages[-1]

    bench.now += DAY
    bench.note(GOOD, 30)

    assert bench.welcomed() == ["contrast"]


def test_numbers_are_of_today_and_of_the_last_day_with_files(bench):
    bench.note(UNSURE, 30)
    bench.now += 3 * DAY
    assert [(seen.day.day, seen.left) for seen in bench.of("confidence")] == [(3, True)]

    bench.note(GOOD, 20)

    assert [(seen.day.day, seen.left) for seen in bench.of("confidence")] == [(6, False), (3, True)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(MODEL, sha256="cd" * 32), id="another model"),
        pytest.param(replace(MODEL, usual=UsualRanges(confidence=(0.6, 1.0))), id="other usual ranges"),
    ],
)
def test_another_model_starts_anew(bench, other):
    bench.note(UNSURE, 30)
    bench.drift.meet(other)
    assert bench.drift.numbers() == ()

    bench.note(replace(UNSURE, model_sha256=other.sha256), 30, other)

    assert bench.warned() == ["confidence", "confidence"]
    assert bench.of("confidence")[0].files == 30


def test_the_same_model_after_a_restart_is_no_other(bench):
    bench.note(UNSURE, 30)
    bench.restart()
    bench.drift.meet(replace(MODEL, pid=4711))

    assert bench.of("confidence")[0].files == 30


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: b"", id="empty"),
        pytest.param(lambda text: text[:100], id="cut off"),
        pytest.param(lambda text: bytes(len(text)), id="zeros after a power cut"),
        pytest.param(lambda text: text.replace(b"drift/1", b"drift/2"), id="newer"),
        pytest.param(lambda text: text.replace(b'"below":30', b'"below":-1'), id="a number that cannot be"),
        pytest.param(lambda text: b" " * 2**21 + text, id="far too long"),
        pytest.param(lambda text: b"[" * 100_000, id="a thousand brackets"),
    ],
)
def test_a_file_that_cannot_be_read_is_begun_anew_and_told_once(bench, change):
    bench.note(UNSURE, 30)
    bench.drift.save(at_once=True)
    file = bench.state / DRIFT_NAME
    file.write_bytes(change(file.read_bytes()))
    bench.caplog.clear()

    bench.start()
    bench.restart()

    assert bench.drift.numbers() == ()
    assert bench.caplog.messages == [
        f"{file}: damaged, or of another version; the statistics of the days start anew"
    ]
    bench.note(UNSURE, 30)
    assert bench.warned() == ["confidence"]


def test_whatever_is_damaged_counting_goes_on(bench):
    chance = random.Random(0)
    bench.note(replace(UNSURE, contrast=0.01), 30)
    bench.drift.save(at_once=True)
    file = bench.state / DRIFT_NAME
    sound = file.read_bytes()
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] = chance.choice(b'0123456789eE.-+,"{}[]: \xff\0')
        file.write_bytes(damaged)
        bench.start()
        bench.note(UNSURE, 21)

        assert bench.of("confidence")[0].files >= 21
        assert all(math.isfinite(seen.mean) for seen in bench.drift.numbers())


def test_it_is_written_at_most_once_a_minute_and_at_the_end(bench):
    for second in range(150):
        bench.seconds = float(second)
        bench.note(GOOD)
        bench.drift.save()
    assert len(bench.writes) == 3

    bench.drift.save(at_once=True)
    bench.drift.save(at_once=True)

    assert len(bench.writes) == 4
    assert [path.name for path in bench.state.iterdir()] == [DRIFT_NAME]


def test_a_disk_that_fails_harms_nothing_is_told_once_and_tried_again(bench):
    bench.disk.fails = True
    for minute in range(5):
        bench.seconds = 61.0 * minute
        bench.note(GOOD)
        bench.drift.save()
    assert bench.caplog.messages == [
        f"{bench.state / DRIFT_NAME}: cannot be written (No space left on device); the work and the tries go on"
    ]

    bench.disk.fails = False
    bench.seconds += 61.0
    bench.drift.save()
    bench.start()

    assert bench.of("contrast")[0].files == 5


def test_the_last_31_days_are_kept(bench):
    for _ in range(MOST_DAYS + 5):
        bench.note(GOOD)
        bench.now += DAY
    bench.drift.save(at_once=True)

    days = [day["day"] for day in json.loads((bench.state / DRIFT_NAME).read_bytes())["days"]]

    assert (len(days), days[0], days[-1]) == (MOST_DAYS, "2026-05-08", "2026-06-07")


def test_days_of_a_clock_that_was_wrong_are_dropped(bench):
    bench.note(GOOD)
    bench.now += 365 * DAY
    bench.note(GOOD)
    bench.now = NOON
    bench.note(GOOD)

    assert [(seen.day, seen.files) for seen in bench.of("contrast")] == [(NOON.date(), 2)]
