"""What stays together, what is dealt where: the invariants of every split, on made-up and drawn data."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.preparing.split import (
    PrepareError,
    SplitRule,
    assign_parts,
    grouped_folds,
    part_named,
    read_labels_table,
    tears_micrographs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """As much of a crop as a split looks at."""

    crop_id: str
    label: str
    group: str
    part: str = ""
    sha256: str | None = None
    kept: bool = True

    @property
    def source(self) -> str:
        return f"{self.label}/{self.crop_id}.dm3"


def pieces(*groups: tuple[str, str, int]) -> list[Piece]:
    """(group, label, number of crops) for each."""
    return [
        Piece(f"{group}-{label}-{at}", label, group, sha256=f"{group}-{at}")
        for group, label, number in groups
        for at in range(number)
    ]


def singles(**classes: int) -> list[Piece]:
    """As many groups of one crop as each class has."""
    return pieces(*((f"{label}{at}", label, 1) for label, number in classes.items() for at in range(number)))


def dealt(crops: list[Piece], rule: SplitRule, seed: int = 0) -> list[Piece]:
    parts = assign_parts(crops, rule, seed)
    return [replace(crop, part=part) for crop, part in zip(crops, parts, strict=True)]


def tally(crops: Iterable[Piece]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for crop in crops:
        counts[crop.label][crop.part] += 1
    return {label: dict(counter) for label, counter in counts.items()}


drawn_groups = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda at: f"g{at}"),
        st.sampled_from(["rod", "round", "cube"]),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda group: group[:2],
)


@pytest.mark.parametrize(
    ("classes", "rule", "expected"),
    [
        pytest.param(
            {"rod": 100, "round": 40},
            SplitRule(),
            {
                "rod": {"train": 65, "test": 20, "validation": 15},
                "round": {"train": 26, "test": 8, "validation": 6},
            },
            id="default fractions",
        ),
        pytest.param(
            {"rod": 10, "round": 10},
            SplitRule(test=0, validation=0.2),
            {"rod": {"train": 8, "validation": 2}, "round": {"train": 8, "validation": 2}},
            id="a part of nothing gets nothing",
        ),
        pytest.param(
            {"rod": 100, "round": 3},
            SplitRule(test=0.05, validation=0.05),
            {
                "rod": {"train": 90, "test": 5, "validation": 5},
                "round": {"train": 1, "test": 1, "validation": 1},
            },
            id="a class of three groups stands in every part",
        ),
        pytest.param(
            {"rod": 1, "round": 2},
            SplitRule(),
            {"rod": {"train": 1}, "round": {"train": 1, "test": 1}},
            id="too few groups: train first, then test",
        ),
    ],
)
def test_classes_are_divided_as_the_rule_says(classes, rule, expected):
    assert tally(dealt(singles(**classes), rule)) == expected


def torn(crops):
    """The groups that stand in more than one part."""
    placed = {(crop.group, crop.part) for crop in crops}
    return {group for group, part in placed if len({other for name, other in placed if name == group}) > 1}


@given(drawn_groups, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_group_is_ever_torn(groups, seed):
    crops = dealt(pieces(*groups), SplitRule(), seed)
    assert torn(crops) == set()
    parts = {(crop.group, crop.part) for crop in crops}
    assert len(parts) == len({crop.group for crop in crops})


@given(drawn_groups)
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_crops_decides_nothing(groups):
    crops = pieces(*groups)
    forwards = {crop.crop_id: crop.part for crop in dealt(crops, SplitRule())}
    backwards = {crop.crop_id: crop.part for crop in dealt(crops[::-1], SplitRule())}
    assert forwards == backwards


def test_a_seed_means_the_same_split_for_ever():
    """Recorded once; another answer would silently move micrographs of published data sets."""
    crops = singles(rod=6, round=6)
    held = [
        crop.group for crop in dealt(crops, SplitRule(test=0.34, validation=0), seed=1) if crop.part == "test"
    ]
    assert held == ["rod2", "rod3", "round3", "round4"]
    other = [
        crop.group for crop in dealt(crops, SplitRule(test=0.34, validation=0), seed=2) if crop.part == "test"
    ]
    assert other != held


def test_large_groups_still_leave_the_fractions_near():
    crops = pieces(
        *((f"s{at}", "rod", 4 + at % 9) for at in range(40)), *((f"t{at}", "round", 3) for at in range(30))
    )
    for label, counts in tally(dealt(crops, SplitRule())).items():
        total = sum(counts.values())
        assert counts["test"] / total == pytest.approx(0.2, abs=0.03), label
        assert counts["validation"] / total == pytest.approx(0.15, abs=0.03), label


def test_a_session_shared_by_classes_goes_to_one_part():
    crops = dealt(
        pieces(*((f"day{at}", label, 5) for at in range(20) for label in ("rod", "round"))), SplitRule()
    )
    assert torn(crops) == set()
    assert tally(crops)["rod"] == tally(crops)["round"] == {"train": 65, "test": 20, "validation": 15}


@given(drawn_groups, st.integers(2, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_folds_hold_every_crop_out_once_and_tear_no_group(groups, folds, seed):
    crops = pieces(
        *groups, *((f"own-{label}{at}", label, 1) for label in ("rod", "round", "cube") for at in range(4))
    )
    group = {crop.crop_id: crop.group for crop in crops}
    held: list[str] = []
    for fold in grouped_folds(crops, folds, seed):
        assert {*fold.train_ids, *fold.held_out_ids} == set(group)
        assert not {group[name] for name in fold.train_ids} & {group[name] for name in fold.held_out_ids}
        held += fold.held_out_ids
    assert sorted(held) == sorted(group)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_stratified(folds):
    crops = singles(round=186, rod=64, cube=51)
    label = {crop.crop_id: crop.label for crop in crops}
    for _, held_out in grouped_folds(crops, folds, seed=0):
        counts = Counter(label[name] for name in held_out)
        for name, total in (("round", 186), ("rod", 64), ("cube", 51)):
            assert total // folds <= counts[name] <= -(-total // folds)


def test_folds_differ_by_seed_and_leave_dropped_crops_out():
    crops = [*singles(rod=10, round=10), Piece("dropped", "rod", "rod0", kept=False)]
    folds = grouped_folds(crops, 5, seed=0)
    turned = grouped_folds(crops[::-1], 5, seed=0)
    assert [set(fold.held_out_ids) for fold in folds] == [set(fold.held_out_ids) for fold in turned]
    assert folds != grouped_folds(crops, 5, seed=1)
    assert not any("dropped" in (*fold.train_ids, *fold.held_out_ids) for fold in folds)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        pytest.param(1, "1 folds were asked for; a cross-validation needs at least 2", id="one fold"),
        pytest.param(
            4,
            "class 'rod' has 3 groups, 4 folds need at least 4; ask for fewer folds, "
            "or add micrographs of that class",
            id="a class with too few groups",
        ),
    ],
)
def test_impossible_folds_are_refused(folds, message):
    with pytest.raises(PrepareError) as refused:
        grouped_folds(singles(rod=3, round=9), folds, seed=0)
    assert str(refused.value) == message


def test_folds_that_would_lack_a_class_are_refused():
    """Three groups that share three classes in a ring cannot be halved."""
    ring = pieces(*((group, label, 1) for group in ("g-ab", "h-bc", "i-ca") for label in group[2:]))
    with pytest.raises(PrepareError) as refused:
        grouped_folds(ring, 2, seed=0)
    assert str(refused.value) == (
        "2 folds: one would hold out nothing of some class, because groups are shared by several classes; "
        "ask for fewer folds, or another seed than 0"
    )


EVERY_THIRD = SplitRule(by="every-third")


def test_every_third_crop_tests_and_every_sixth_validates():
    """The rule this project replaces: crops dealt one by one, whatever micrograph they are from."""
    crops = [
        replace(crop, crop_id=f"{crop.group}-{at % 4}")
        for at, crop in enumerate(pieces(*((f"m{at}", "rod", 4) for at in range(6)), ("n", "round", 2)))
    ]
    words = [part[:2] for part in assign_parts(crops, EVERY_THIRD, 0)]
    assert words == ["tr", "tr", "te", "va", "tr", "te"] * 4 + ["tr", "tr"]
    assert len(torn(dealt(crops, EVERY_THIRD))) == 7 - 1  # the two crops of the last micrograph both train


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_every_third_divides_each_class_and_its_turns_hold_every_crop_out_twice(rods, rounds, seed):
    crops = singles(rod=rods, round=rounds)
    for label, counts in tally(dealt(crops, EVERY_THIRD, seed)).items():
        total = {"rod": rods, "round": rounds}[label]
        assert total // 3 <= counts.get("test", 0) <= -(-total // 3)
        assert total // 6 <= counts.get("validation", 0) <= -(-total // 6)
    held = [
        crop.crop_id
        for turn in range(6)
        for crop in dealt(crops, EVERY_THIRD, seed + turn)
        if crop.part == "test"
    ]
    assert sorted(held) == sorted([crop.crop_id for crop in crops] * 2)


def test_every_third_counts_in_the_order_of_the_files():
    crops = singles(rod=9)
    parts = {crop.crop_id: crop.part for crop in dealt(crops, EVERY_THIRD)}
    assert {crop.crop_id: crop.part for crop in dealt(crops[::-1], EVERY_THIRD)} == parts


@given(drawn_groups, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_part_gets_something_of_a_class_where_it_can(groups, seed):
    """Groups of one class each; sessions that classes share may make it impossible."""
    crops = pieces(*((f"{group}-{label}", label, number) for group, label, number in groups))
    counts = tally(dealt(crops, SplitRule(), seed))
    for label, by_part in counts.items():
        number = len({crop.group for crop in crops if crop.label == label})
        assert len(by_part) == min(number, 3)
        assert by_part["train"] > 0


@pytest.mark.parametrize(
    ("by", "torn"),
    [("micrograph", False), ("folder", False), ("session", False), ("day", False), ("column:x", False),
     ("every-third", True)],
)  # fmt: skip
def test_which_rules_tear_micrographs(by, torn):
    assert tears_micrographs(SplitRule(by=by)) is torn


@pytest.mark.parametrize(
    ("word", "part"),
    [("train", "train"), ("Training", "train"), ("VAL", "validation"), (" valid ", "validation"),
     ("Validation", "validation"), ("test", "test"), ("testing", "test"), ("tests", None), ("", None)],
)  # fmt: skip
def test_words_for_parts(word, part):
    assert part_named(word) == part


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"by":"micrograph","test":0.2,"validation":0.15,"part_column":null}', id="plain"),
        pytest.param('{"by":"column:doi","test":0.2,"validation":0.15,"part_column":"split"}', id="a column"),
    ],
)
def test_rules_of_data_sets_of_the_first_version_are_read(text):
    rule = SplitRule.model_validate_json(text)
    assert (rule.part_folders, rule.session_gap_hours, rule.utc_offset_hours) == (False, 2.0, 0.0)
    assert SplitRule.model_validate_json(rule.model_dump_json()) == rule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"by": "sample"},
            "a split is by micrograph, folder, session, day, every-third or column:NAME, not by 'sample'",
            id="unknown",
        ),
        pytest.param({"by": "column: "}, "or column:NAME, not by 'column: '", id="no name"),
        pytest.param({"session_gap_hours": 0}, "greater than 0", id="no gap"),
        pytest.param({"session_gap_hours": float("nan")}, "finite", id="no number"),
        pytest.param({"utc_offset_hours": 15}, "less than or equal to 14", id="no time of this earth"),
        pytest.param(
            {"part_column": "split", "part_folders": True},
            "ready-made parts come from a column or from folders, not from both",
            id="parts from two places",
        ),
        pytest.param(
            {"by": "every-third", "part_folders": True},
            "every-third makes the parts itself; leave the ready-made ones out",
            id="parts that are there and made",
        ),
        pytest.param(
            {"test": 0.6, "validation": 0.4},
            "leave less than 0.05 for training",
            id="nothing left to train on",
        ),
        pytest.param({"test": 1.2}, "less than 1", id="not a fraction"),
        pytest.param({"tests": 0.2}, "Extra inputs are not permitted", id="misspelt"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        SplitRule(**options)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("file,doi,split\nrod/Größe.dm3,x,val\n", id="commas"),
        pytest.param(
            "\ufefffile;doi;split\r\nrod/Größe.dm3;x;VAL\r\n", id="a German spreadsheet: semicolons, mark"
        ),
        pytest.param("file\tdoi\tsplit\nrod/Größe.dm3\tx\tvalidation\n", id="tabs"),
        pytest.param("file,doi,split\nrod\\Größe.dm3,x,valid\n", id="backslashes"),
        pytest.param(
            "file,doi,split\nrod/Gro\u0308ße.dm3,x,val\n", id="decomposed accents, as macOS writes them"
        ),
        pytest.param(" file , doi , split \n./rod/Größe.dm3 , x , val \n", id="spaces and ./"),
        pytest.param("file,doi,split\nrod/Größe.dm3,x,val\nrod/Größe.dm3,x,val\n", id="one row twice"),
    ],
)
def test_tables_are_read_as_people_save_them(tmp_path: Path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode("utf-8"))
    table = read_labels_table(path, ["doi", "split"])
    assert table.value("rod/Größe.dm3", "doi") == "x"
    assert table.part("rod/Größe.dm3", "split") == "validation"
    assert table.covers("rod/Größe.dm3")
    assert table.without_file(["rod/Größe.dm3"]) == ()
    assert table.without_file([]) == ("rod/Größe.dm3",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, "the labels table cannot be read (No such file or directory)", id="missing"),
        pytest.param(
            "file,doi\nGröße,x".encode("cp1252"), 'is not UTF-8 text; save it as "CSV UTF-8"', id="cp1252"
        ),
        pytest.param(b"", "has no column 'file' (its columns: nothing); name one it has", id="empty"),
        pytest.param(
            b"name,doi\n", "has no column 'file' (its columns: name, doi); name one it has", id="no file"
        ),
        pytest.param(
            b"file,DOI\n", "has no column 'doi' (its columns: file, DOI); name one it has", id="no doi"
        ),
        pytest.param(
            b"file,doi\na,1\na,2\n",
            "row 3 says something else about a; keep one row",
            id="two answers about one file",
        ),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, data, message):
    path = tmp_path / "labels.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PrepareError) as refused:
        read_labels_table(path, ["doi"])
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_a_word_that_is_no_part_is_refused(tmp_path: Path):
    path = tmp_path / "labels.csv"
    path.write_text("file,split\nrod/a.dm3,holdout\nrod/b.dm3,\n", encoding="utf-8")
    table = read_labels_table(path, ["split"])
    assert table.part("rod/b.dm3", "split") is None
    with pytest.raises(PrepareError) as refused:
        table.part("rod/a.dm3", "split")
    assert str(refused.value) == (
        f"{path}: column 'split' says 'holdout' for rod/a.dm3; it takes train, val (or validation) and test"
    )
