"""What stands on both sides of a split, how often, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.preparing.grouping import Provenance, group_files
from trainer.preparing.leaks import Leak, LeakReport, leak_report
from trainer.preparing.split import SplitRule, assign_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.preparing.leaks import Kinship
    from trainer.preparing.split import Part

RULE = SplitRule()


@dataclass(frozen=True)
class Piece:
    """As much of a crop as a leak report looks at."""

    source: str
    part: str
    crop_id: str = ""
    sha256: str | None = None
    group: str = ""
    near: str = ""
    acquired: str = ""
    microscope: str = ""
    kept: bool = True

    @property
    def label(self) -> str:
        return self.source.split("/")[0]


def kinships(report: LeakReport) -> list[tuple[Kinship, Part, Part, int, int]]:
    return [(leak.kinship, leak.held_out, leak.other, leak.crops, leak.of) for leak in report.leaks]


def pair(first: str = "train", second: str = "test", **common: str) -> list[Piece]:
    """Two files that have `common` in common."""
    return [Piece("rod/a", first, **common), Piece("round/b", second, **common)]


@pytest.mark.parametrize(
    ("crops", "expected", "worst"),
    [
        pytest.param([], [], "none", id="nothing"),
        pytest.param(pair(), [], "none", id="two files that have nothing in common"),
        pytest.param(
            [Piece("rod/a", "train"), Piece("rod/a", "test"), Piece("rod/a", "test"), Piece("rod/b", "test")],
            [("micrograph", "test", "train", 2, 3)], "leak", id="crops of one micrograph",
        ),
        pytest.param(pair(sha256="f"), [("content", "test", "train", 1, 1)], "leak", id="one content"),
        pytest.param(pair(near="n"), [("near-duplicate", "test", "train", 1, 1)], "leak", id="near-duplicates"),
        pytest.param(pair(group="g"), [("group", "test", "train", 1, 1)], "leak", id="one group"),
        pytest.param(
            pair(acquired="2021-03-04T09:00:00Z"), [("session", "test", "train", 1, 1)], "warning",
            id="one session",
        ),
        pytest.param(
            [Piece("rod/s1/a", "train"), Piece("round/s1/d2/b", "test")],
            [("sub-folder", "test", "train", 1, 1)], "warning", id="one sub-folder",
        ),
        pytest.param(
            pair("train", "validation", group="g"), [("group", "validation", "train", 1, 1)], "leak",
            id="what chooses the epoch was trained on",
        ),
        pytest.param(
            pair("validation", "test", group="g"), [("group", "test", "validation", 1, 1)], "leak",
            id="what is tested chose the epoch",
        ),
        pytest.param(
            pair(sha256="f", near="n", group="g", acquired="2021-03-04T09:00:00Z"),
            [("content", "test", "train", 1, 1)], "leak", id="told once, under the closest kinship",
        ),
        pytest.param(
            [*pair(group="g"), Piece("rod/a", "test", group="g"), Piece("rod/c", "test", group="g")],
            [("micrograph", "test", "train", 1, 3), ("group", "test", "train", 2, 3)], "leak",
            id="the closest first",
        ),
        pytest.param(
            [Piece("rod/a", "train", group="g"), Piece("rod/b", "test", group="g", kept=False),
             Piece("rod/c", "", group="g")],
            [], "none", id="dropped crops and crops in no part leak nothing",
        ),
        pytest.param(
            [Piece("rod/a", "train"), Piece("rod/b", "test")], [], "none", id="empty names relate nothing"
        ),
    ],
)  # fmt: skip
def test_kinships(crops, expected, worst):
    report = leak_report(crops, RULE)
    assert kinships(report) == expected
    assert report.worst == worst


def test_the_gap_of_the_rule_makes_the_sessions():
    crops = [
        Piece("rod/a", "train", acquired="2021-03-04T09:00:00Z"),
        Piece("rod/b", "test", acquired="2021-03-04T12:00:00Z"),
    ]
    assert leak_report(crops, RULE).worst == "none"
    assert leak_report(crops, SplitRule(session_gap_hours=4)).worst == "warning"


def test_shares_count_crops_and_leave_warnings_out():
    crops = [
        Piece("rod/s1/a", "train", near="n"),
        Piece("rod/s1/a", "test", near="n"),
        Piece("rod/s1/b", "test", near="n"),
        Piece("rod/s1/c", "test"),
        Piece("rod/d", "test"),
        Piece("rod/e", "validation"),
    ]
    report = leak_report(crops, RULE)
    assert (report.share(), report.share("validation"), report.share("test", "validation")) == (0.5, 0, 0)
    assert [leak.share for leak in report.leaks] == [0.25, 0.25, 0.25]


def test_a_person_can_read_the_report():
    crops = [
        *(Piece(f"rod/s{at % 9}/{at}", "train", near="n") for at in range(20)),
        *(Piece(f"rod/s{at % 9}/{at}", "test", near="n") for at in range(5)),
        *(Piece(f"round/s{at}/x", "test", acquired="2021-03-04T09:00:00Z") for at in range(7, 20)),
    ]
    assert leak_report(crops, SplitRule(by="every-third")).text() == (
        "LEAK: 5 of 18 test crops have a crop of the same micrograph in train "
        "(28 %; e.g. rod/s0/0; rod/s1/1; rod/s2/2)",
        "warning: 2 of 18 test crops have a micrograph of the same sub-folder in train "
        "(11 %; e.g. round/s7/x and rod/s7/7; round/s8/x and rod/s8/8)",
        "this split deals crops one by one, whatever micrograph they are from: for comparison only",
        "sessions were not compared for 20 of 33 micrographs: no acquisition time in the files",
    )


def test_parts_that_were_made_elsewhere_are_not_vouched_for():
    crops = pair(acquired="2021-03-04T09:00:00Z")
    assert leak_report(crops, SplitRule(part_folders=True)).caveats == (
        "the raw folder's own parts were taken: whether files in two of them were cut from one micrograph "
        "cannot be seen",
    )


@pytest.mark.parametrize(
    ("crops", "expected"),
    [
        pytest.param(
            [replace(crop, acquired=f"2021-03-0{at}T09:00Z") for at, crop in enumerate(pair(), start=1)],
            ("no micrograph, content, near-duplicate or group stands in two parts",),
            id="nothing found",
        ),
        pytest.param(
            pair(acquired="2021-03-04T09:00:00Z"),
            (
                "warning: 1 of 1 test crop has a micrograph of the same session in train "
                "(100 %; e.g. round/b and rod/a)",
                "no micrograph, content, near-duplicate or group stands in two parts",
            ),
            id="a warning is no leak",
        ),
    ],
)
def test_what_was_not_found_is_said(crops, expected):
    assert leak_report(crops, RULE).text() == expected


def test_a_small_share_is_not_said_to_be_nothing():
    assert "(1 %; e.g. rod/a)" in Leak("micrograph", "test", "train", 1, 900, 1, ("rod/a",)).text()


drawn_micrographs = st.lists(
    st.tuples(
        st.sampled_from(["rod", "round"]),
        st.sampled_from(["", "s1", "s2", "s3"]),
        st.integers(0, 12),
        st.sampled_from(["", "", "", "n1", "n2"]),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=40,
)


def split_up(rows: Sequence[tuple[str, str, int, str, int]], rule: SplitRule, seed: int) -> list[Piece]:
    """Micrographs (class, sub-folder, day, cluster, crops) through groups and parts, as prepare does it."""
    files = [
        Provenance(
            f"{label}/{folder}/{at}" if folder else f"{label}/{at}", f"<{at}>", (folder,) if folder else (),
            f"2021-03-{day + 1:02}T09:00:00+00:00", "Titan", near,
        )
        for at, (label, folder, day, near, _) in enumerate(rows)
    ]  # fmt: skip
    groups = group_files(files, rule, None).groups
    crops = [
        Piece(
            file.source, "", f"{file.source}-{at}", file.content, groups[file.source], file.near,
            file.acquired, file.microscope,
        )
        for file, row in zip(files, rows, strict=True)
        for at in range(row[4])
    ]  # fmt: skip
    parts = assign_parts(crops, rule, seed)
    return [replace(crop, part=part) for crop, part in zip(crops, parts, strict=True)]


@pytest.mark.parametrize("by", ["micrograph", "folder", "session", "day"])
@given(rows=drawn_micrographs, seed=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_no_rule_but_every_third_leaks(by, rows, seed):
    crops = split_up(rows, SplitRule(by=by), seed)
    report = leak_report(crops, SplitRule(by=by))
    assert report.worst != "leak"
    assert {leak.kinship for leak in report.leaks}.isdisjoint({"day": ["session"]}.get(by, [by, f"sub-{by}"]))
    assert crops == split_up(rows, SplitRule(by=by), seed)
    assert "train" in {crop.part for crop in crops}


@given(rows=drawn_micrographs, seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_report_counts_what_a_comparison_of_all_pairs_finds(rows, seed):
    rule = SplitRule(by="every-third")
    crops = split_up(rows, rule, seed)
    report = leak_report(crops, rule)
    train = [crop for crop in crops if crop.part == "train"]
    related = [
        any(one.source == other.source or (one.near and one.near == other.near) for other in train)
        for one in crops
        if one.part == "test"
    ]
    assert report.share() == pytest.approx(sum(related) / len(related) if related else 0)
