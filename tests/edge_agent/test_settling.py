"""When a file counts as quiet, and in which order those that do are taken. Times are those of the test."""

from __future__ import annotations

import pytest

from edge_agent.files import FileStamp
from edge_agent.watching.settling import LONGEST_WINDOW_SECONDS, QuietWindow, WaitingRoom

BASE = 1.0


def stamp(second: float, inode: int = 1, size: int = 10) -> FileStamp:
    return FileStamp(size, int(second * 1e9) + 7, 1, inode)


def test_without_any_pause_seen_the_window_is_the_configured_one():
    assert QuietWindow(BASE).seconds_for(stamp(5)) == BASE


@pytest.mark.parametrize(
    ("gap", "times_gap", "window"),
    [
        pytest.param(4.0, 4.0, 6.0, id="one and a half times the pause"),
        pytest.param(9.0, 4.0, 6.0, id="found late: the file's own times tell"),
        pytest.param(4.0, -100.0, 6.0, id="a time that is put back tells nothing"),
        pytest.param(4.0, 0.0, 6.0, id="a time that stands still tells nothing"),
        pytest.param(20.0, 20.0, 30.0, id="at most half a minute"),
        pytest.param(21.0, 21.0, BASE, id="later it is a new save"),
        pytest.param(0.5, 0.5, BASE, id="never below the configured one"),
    ],
)
def test_a_file_that_changed_after_it_was_quiet_shows_the_pauses_of_its_writer(gap, times_gap, window):
    quiet = QuietWindow(BASE)
    quiet.counted_as_quiet("a", stamp(100), seen=50.0, now=51.0)

    quiet.looked_at("a", stamp(100), now=50.0 + gap)
    assert quiet.seconds == BASE
    quiet.looked_at("a", stamp(100 + times_gap, size=11), now=50.0 + gap)

    assert quiet.seconds == pytest.approx(window)


def test_a_pause_through_several_looks_counts_from_the_first():
    quiet = QuietWindow(BASE)
    for now in (1.0, 2.0, 4.0, 8.0):
        quiet.counted_as_quiet("a", stamp(100), seen=now - 1.0, now=now)

    quiet.looked_at("a", stamp(200, size=11), now=10.0)

    assert quiet.seconds == pytest.approx(15.0)


def test_a_file_put_in_the_place_of_another_shows_no_pause():
    quiet = QuietWindow(BASE)
    quiet.counted_as_quiet("a", stamp(100), seen=0.0, now=1.0)

    quiet.looked_at("a", stamp(104, inode=2), now=4.0)

    assert quiet.seconds == BASE


def test_the_window_shrinks_with_files_that_stay_put():
    quiet = QuietWindow(BASE)
    quiet.counted_as_quiet("a", stamp(1), seen=0.0, now=1.0)
    quiet.looked_at("a", stamp(5), now=4.0)
    wide = quiet.seconds
    for number in range(10):
        quiet.counted_as_quiet(f"b{number}", stamp(9), seen=5.0, now=6.0)
    assert quiet.seconds == wide
    quiet.counted_as_quiet("c", stamp(9), seen=40.0, now=6.0 + LONGEST_WINDOW_SECONDS + 1)

    assert BASE < quiet.seconds < 0.7 * wide
    for number in range(100):
        quiet.counted_as_quiet(f"d{number}", stamp(9), seen=0.0, now=100.0 + number)
    assert quiet.seconds == BASE


def test_what_was_handed_out_is_remembered_in_a_bounded_way():
    quiet = QuietWindow(BASE)
    for number in range(5000):
        quiet.counted_as_quiet(str(number), stamp(1), seen=0.0, now=1.0)

    quiet.looked_at("0", stamp(5), now=4.0)
    assert quiet.seconds == BASE
    quiet.looked_at("4999", stamp(5), now=4.0)
    assert quiet.seconds > BASE


def test_a_time_in_whole_seconds_asks_for_more_than_a_step_of_fat():
    whole = FileStamp(10, 5_000_000_000, 1, 1)

    assert QuietWindow(BASE).seconds_for(whole) == pytest.approx(2.1)
    assert QuietWindow(3.0).seconds_for(whole) == 3.0


def test_a_file_that_never_rests_is_waited_for_with_patience_that_ends():
    quiet = QuietWindow(BASE)
    quiet.counted_as_quiet("a", stamp(1), seen=0.0, now=1.0)
    quiet.looked_at("a", stamp(5), now=4.0)

    assert quiet.seconds_for(stamp(6), waited_seconds=59.0) == 6.0
    assert quiet.seconds_for(stamp(6), waited_seconds=61.0) == BASE


def taken(room: WaitingRoom, now: float) -> list[str]:
    room.ripen(now)
    names = []
    while (path := room.next_ripe()) is not None:
        room.forget(path)
        names.append(path)
    return names


@pytest.mark.parametrize(("newest_first", "order"), [(False, "bca"), (True, "acb")])
def test_what_is_due_is_taken_by_age(newest_first, order):
    room = WaitingRoom(newest_first=newest_first)
    for path, second, due in (("a", 3, 1.0), ("b", 1, 2.0), ("c", 2, 1.5), ("late", 0, 9.0)):
        room.put(path, stamp(second), 0.0, due)

    assert taken(room, 2.0) == list(order)
    assert (len(room), room.ripe, room.next_due) == (1, 0, 9.0)


def test_a_later_entry_overtakes_an_earlier_one():
    room = WaitingRoom(newest_first=False)
    room.put("a", stamp(1), 0.0, 1.0)
    room.put("a", stamp(2), 0.5, 1.5)
    assert taken(room, 1.0) == []
    room.ripen(1.5)
    assert room.ripe == 1
    room.put("a", stamp(3), 1.6, 2.6)

    assert room.ripe == 0
    assert taken(room, 2.0) == []
    assert taken(room, 2.6) == ["a"]
    assert taken(room, 9.0) == []


def test_the_oldest_is_the_one_unanswered_for_longest_in_other_hands_too():
    room = WaitingRoom(newest_first=False)
    assert room.oldest_since is None
    room.put("a", stamp(1), 1.0, 2.0)
    room.put("b", stamp(1), 5.0, 6.0)
    room.take("a")
    assert room.oldest_since == 1.0
    room.put("a", stamp(2), 9.0, 10.0, again=True)

    assert room.oldest_since == 1.0
    assert room.waited_seconds("a", 11.0) == 10.0
    room.forget("a")
    assert room.oldest_since == 5.0


def test_what_was_asked_for_is_kept_through_changes():
    room = WaitingRoom(newest_first=False)
    room.put("a", stamp(1), 0.0, 1.0, again=True)
    room.put("b", stamp(1), 0.0, 1.0, forced=True)
    room.mark_unhinted("b")
    room.put("a", stamp(2), 0.0, 1.0)
    room.put("b", stamp(2), 0.0, 1.0)

    waiting = [room.get("a"), room.get("b")]

    assert [(w.again, w.forced, w.unhinted) for w in waiting] == [(True, False, False), (False, True, True)]
