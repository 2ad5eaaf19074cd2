"""What belongs together: sub-folders, columns, sessions, days, and near-duplicates that join them."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.preparing.grouping import Grouping, Provenance, group_files, merge_groups, sessions
from trainer.preparing.split import PrepareError, SplitRule, read_labels_table, tears_micrographs


def taken(source: str, at: str = "", microscope: str = "Titan", near: str = "") -> Provenance:
    """A micrograph in class folders: the path says the sub-folders; `at` is its time on 4 March 2021, UTC."""
    acquired = f"2021-03-{at}" if at.count("T") else f"2021-03-04T{at}+00:00" if at else ""
    return Provenance(source, f"<{source}>", tuple(source.split("/")[1:-1]), acquired, microscope, near)


def groups(files: list[Provenance], by: str, **options: float) -> dict[str, str]:
    return dict(group_files(files, SplitRule(by=by, **options), None).groups)


@pytest.mark.parametrize(
    ("source", "by", "expected"),
    [
        pytest.param("rod/s1/a.dm3", "micrograph", "<rod/s1/a.dm3>", id="micrograph"),
        pytest.param(
            "rod/s1/a.dm3", "every-third", "<rod/s1/a.dm3>", id="every third: told as what it tears"
        ),
        pytest.param("rod/s1/a.dm3", "folder", "s1", id="sub-folder"),
        pytest.param("rod/s1/day 2/a.dm3", "folder", "s1", id="the first sub-folder, the coarser one"),
        pytest.param("rod/a.dm3", "folder", "<rod/a.dm3>", id="no sub-folder"),
        pytest.param("rod/a.dm3", "column:doi", "10.1/x", id="column"),
        pytest.param("rod/b.dm3", "column:doi", "<rod/b.dm3>", id="empty cell"),
        pytest.param("rod/c.dm3", "column:doi", "<rod/c.dm3>", id="no row"),
    ],
)
def test_rules_that_look_at_one_file(tmp_path, source, by, expected):
    (tmp_path / "labels.csv").write_text("file,doi\nrod/a.dm3,10.1/x\nrod/b.dm3,\n", encoding="utf-8")
    table = read_labels_table(tmp_path / "labels.csv", ["doi"])
    assert group_files([taken(source)], SplitRule(by=by), table).groups == {source: expected}


def test_a_column_needs_its_table():
    with pytest.raises(PrepareError) as refused:
        group_files([taken("rod/a.dm3")], SplitRule(by="column:doi"), None)
    assert str(refused.value) == "the split uses column 'doi' of a labels table; name that CSV file too"


def test_files_of_which_a_rule_knows_nothing_are_told(tmp_path):
    (tmp_path / "labels.csv").write_text("file,doi\nrod/a.dm3,\n", encoding="utf-8")
    table = read_labels_table(tmp_path / "labels.csv", ["doi"])
    files = [taken("rod/a.dm3"), taken("rod/s1/b.dm3")]
    notes = {
        by: group_files(files, SplitRule(by=by), table).notes for by in ("folder", "column:doi", "session")
    }
    assert notes == {
        "folder": ("files in no sub-folder, each a group of its own: 1 (rod/a.dm3)",),
        "column:doi": ("files with an empty doi, each a group of its own: 1 (rod/a.dm3)",),
        "session": (
            "files without a time, grouped by sub-folder: 1 (rod/s1/b.dm3)",
            "files without a time and in no sub-folder, each a group of its own: 1 (rod/a.dm3)",
        ),
    }


@pytest.mark.parametrize(
    ("files", "gap", "expected"),
    [
        pytest.param(
            [taken("a", "09:00:00"), taken("b", "11:00:00"), taken("c", "13:00:01")], 2.0, ["ab", "c"],
            id="a pause longer than the gap begins a session, one as long does not",
        ),
        pytest.param(
            [taken("a", "09:00:00"), taken("b", "11:00:00"), taken("c", "13:00:01")], 1.5, ["a", "b", "c"],
            id="a shorter gap",
        ),
        pytest.param(
            [taken("c", "10:00:00"), taken("a", "09:00:00"), taken("b", "09:30:00")], 0.6, ["abc"],
            id="the order of the files decides nothing",
        ),
        pytest.param(
            [taken("a", "09:00:00"), taken("b", "09:01:00", "JEOL"), taken("c", "09:02:00")], 2.0, ["b", "ac"],
            id="two microscopes at the same time",
        ),
        pytest.param(
            [taken("a", "04T23:30:00Z"), taken("b", "05T00:30:00Z")], 2.0, ["ab"], id="past midnight"
        ),
        pytest.param(
            [taken("a", "04T09:00:00+00:00"), taken("b", "04T10:30:00+01:00"), taken("c", "04T09:45:00")], 0.6,
            ["abc"], id="zones are read, none is UTC",
        ),
        pytest.param([taken("a"), taken("b", "04Tlunch")], 2.0, [], id="no time, no session"),
        pytest.param([taken("a", "09:00:00"), taken("a", "09:00:00")], 2.0, ["a"], id="two crops of one"),
    ],
)  # fmt: skip
def test_sessions(files, gap, expected):
    assert ["".join(session.sources) for session in sessions(files, gap)] == expected


def test_a_session_has_a_name_that_a_person_can_find():
    files = [taken("rod/a", "09:00:05"), taken("rod/b", "09:10:00"), taken("rod/c", "09:10:00", "")]
    assert groups(files, "session") == {
        "rod/a": "Titan 2021-03-04T09:00:05Z",
        "rod/b": "Titan 2021-03-04T09:00:05Z",
        "rod/c": "session 2021-03-04T09:10:00Z",
    }


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        pytest.param(0.0, ["04", "04", "05"], id="days of UTC"),
        pytest.param(9.0, ["05", "05", "06"], id="Japan: 4 March 16:00 UTC is 5 March, 01:00"),
        pytest.param(-8.0, ["04", "04", "05"], id="California"),
    ],
)
def test_a_day_is_the_sessions_that_began_on_it(offset, expected):
    files = [
        taken("evening", "04T22:30:00Z"),
        taken("the same session, past midnight", "05T00:20:00Z"),
        taken("another microscope, next evening", "05T22:00:00Z", "JEOL"),
    ]
    found = groups(files, "day", utc_offset_hours=offset)
    assert [found[file.source] for file in files] == [f"day 2021-03-{day}" for day in expected]


@pytest.mark.parametrize("by", ["session", "day"])
def test_a_file_without_a_time_goes_with_its_folder(by):
    files = [
        taken("rod/s1/a.dm3", "04T09:00:00Z"),
        taken("round/s1/exported.tif"),
        taken("rod/s2/b.dm3", "06T09:00:00Z"),
        taken("rod/s2/c.dm3", "08T09:00:00Z"),
        taken("rod/s2/exported.tif"),
        taken("rod/s3/d.tif"),
        taken("rod/s3/e.tif"),
        taken("rod/f.tif"),
    ]
    found = group_files(files, SplitRule(by=by), None)
    assert found.groups["round/s1/exported.tif"] == found.groups["rod/s1/a.dm3"]
    assert found.groups["rod/s2/b.dm3"] != found.groups["rod/s2/c.dm3"]
    assert {source: group for source, group in found.groups.items() if source.endswith(".tif")} == {
        "round/s1/exported.tif": found.groups["rod/s1/a.dm3"],
        "rod/s2/exported.tif": "s2",
        "rod/s3/d.tif": "s3",
        "rod/s3/e.tif": "s3",
        "rod/f.tif": "<rod/f.tif>",
    }
    assert found.notes == (
        f"files without a time, counted to the one {by} of their sub-folder: 1 (round/s1/exported.tif)",
        "files without a time, grouped by sub-folder: 3 (rod/s2/exported.tif, rod/s3/d.tif, rod/s3/e.tif)",
        "files without a time and in no sub-folder, each a group of its own: 1 (rod/f.tif)",
    )


@pytest.mark.parametrize(
    ("given_groups", "near", "expected"),
    [
        pytest.param({"a": "g", "b": "h"}, {}, {"a": "g", "b": "h"}, id="no clusters"),
        pytest.param({"a": "g", "b": "h"}, {"a": "", "b": ""}, {"a": "g", "b": "h"}, id="nothing is no cluster"),
        pytest.param({"a": "h", "b": "g"}, {"a": "n", "b": "n"}, {"a": "g", "b": "g"}, id="the first name stays"),
        pytest.param(
            {"a": "g", "b": "h", "c": "h", "d": "i", "e": "j"}, {"a": "n", "b": "n", "c": "m", "d": "m"},
            {"a": "g", "b": "g", "c": "g", "d": "g", "e": "j"}, id="a chain of clusters and groups",
        ),
        pytest.param({"a": "g"}, {"a": "n", "gone": "n"}, {"a": "g"}, id="a cluster whose others were dropped"),
    ],
)  # fmt: skip
def test_near_duplicates_join_groups(given_groups, near, expected):
    assert merge_groups(given_groups, near) == expected


def test_what_near_duplicates_joined_is_told_and_every_third_does_not_care():
    files = [taken("rod/s1/a", near="n1"), taken("rod/s2/b", near="n1"), taken("rod/s2/c"), taken("rod/s3/d")]
    assert group_files(files, SplitRule(by="folder"), None) == Grouping(
        {"rod/s1/a": "s1", "rod/s2/b": "s1", "rod/s2/c": "s1", "rod/s3/d": "s3"},
        ("near-duplicates joined groups (1 fewer); files that changed group: 2 (rod/s2/b, rod/s2/c)",),
    )
    apart = groups(files, "every-third")
    assert len(set(apart.values())) == 4


drawn_files = st.lists(
    st.tuples(
        st.sampled_from(["", "s1", "s2/d1", "s2/d2"]),
        st.none() | st.integers(0, 60 * 24 * 3),
        st.sampled_from(["", "Titan", "JEOL"]),
        st.sampled_from(["", "", "n1", "n2", "n3"]),
    ),
    max_size=40,
)
rules = st.builds(
    SplitRule,
    by=st.sampled_from(["micrograph", "folder", "session", "day"]),
    session_gap_hours=st.sampled_from([0.5, 2.0, 12.0]),
    utc_offset_hours=st.sampled_from([-8.0, 0.0, 5.5]),
)


def drawn(rows: list[tuple[str, int | None, str, str]]) -> list[Provenance]:
    begin = datetime(2021, 3, 4, tzinfo=UTC)
    return [
        Provenance(
            f"rod/{folders}/{at}", f"<{at}>", tuple(folders.split("/")) if folders else (),
            "" if minutes is None else (begin + timedelta(minutes=minutes)).isoformat(), microscope, near,
        )
        for at, (folders, minutes, microscope, near) in enumerate(rows)
    ]  # fmt: skip


@given(drawn_files, rules)
@settings(max_examples=80, deadline=None)
def test_every_file_has_a_group_and_what_is_alike_shares_it(rows, rule):
    files = drawn(rows)
    found = group_files(files, rule, None).groups
    assert set(found) == {file.source for file in files}
    assert all(found.values())
    together: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        together[f"near {file.near}" if file.near else file.source].add(found[file.source])
        together[f"content {file.content}"].add(found[file.source])
        if rule.by == "folder" and file.folders:
            together[f"folder {file.folders[0]}"].add(found[file.source])
    if rule.by in ("session", "day"):
        for session in sessions(files, rule.session_gap_hours):
            together[session.name] |= {found[source] for source in session.sources}
    assert all(len(names) == 1 for names in together.values())
    assert not tears_micrographs(rule)


@given(drawn_files, rules, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_files_decides_nothing(rows, rule, random):
    files = drawn(rows)
    shuffled = random.sample(files, len(files))
    assert group_files(files, rule, None).groups == group_files(shuffled, rule, None).groups
