"""The figures of scored micrographs: those of scikit-learn, drawn by group, and divided by what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from answered import THREE, drawn_scored, scored
from sklearn import metrics

from trainer.scoring.figures import MICROGRAPHS_A_SIZE_BIN, Scored, balanced_accuracy, figures, slices

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.choice(THREE, 60, p=[0.2, 0.2, 0.6]).tolist()
    answered = [t if random.random() < 0.6 else str(random.choice(THREE)) for t in true]
    seen = figures(scored(true, answered), THREE, 0)
    assert seen.confusion == tuple(
        map(tuple, metrics.confusion_matrix(true, answered, labels=THREE).tolist())
    )
    assert seen.accuracy == pytest.approx(metrics.accuracy_score(true, answered), abs=1e-4)
    assert seen.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(true, answered), abs=1e-4)
    expected = metrics.precision_recall_fscore_support(true, answered, labels=THREE)
    for index, label in enumerate(THREE):
        one = seen.classes[label]
        assert [one.precision, one.recall, one.f1] == pytest.approx(
            [part[index] for part in expected[:3]], abs=1e-4
        )
        assert one.micrographs == expected[3][index]
    assert seen.micrographs == sum(map(sum, seen.confusion)) == 60


def test_what_does_not_occur_is_unknown_and_not_zero() -> None:
    seen = figures(scored(["rod", "rod"], ["rod", "round"]), THREE, 0)
    cube, round_ = seen.classes["faceted"], seen.classes["round"]
    assert (cube.micrographs, cube.precision, cube.recall, cube.f1) == (0, None, None, None)
    assert cube.recall_interval is None
    assert (round_.micrographs, round_.precision, round_.recall, round_.f1) == (0, 0.0, None, 0.0)
    assert seen.balanced_accuracy == 0.5, "the mean over the classes that occur"


def test_decisions_are_counted() -> None:
    entries = scored(["rod"] * 3, ["rod"] * 3)
    entries[0] = entries[0].model_copy(update={"decision": "abstain"})
    seen = figures(entries, THREE, 0)
    assert seen.decisions == {"abstain": 1, "ungated": 2}
    assert seen.selective is not None
    assert [one.threshold for one in seen.selective.points] == [0.9, None], (
        "it comes last, whatever the reason"
    )


# --- abstaining -------------------------------------------------------------------------------------


def gated(given: Sequence[tuple[str, float, tuple[str, ...]]]) -> list[Scored]:
    """A rod each: (answer, probability, reasons) under a bundle with thresholds."""
    return [
        entry.model_copy(
            update={"probability": sure, "reasons": why, "decision": "abstain" if why else "accept"}
        )
        for entry, (_, sure, why) in zip(
            scored(["rod"] * len(given), [answer for answer, _, _ in given]), given, strict=True
        )
    ]


def test_what_is_accepted_is_judged_by_itself() -> None:
    seen = figures(
        gated(
            [
                ("rod", 0.9, ()),
                ("rod", 0.8, ()),
                ("round", 0.7, ()),
                ("round", 0.4, ("low_confidence",)),
                ("round", 0.99, ("blurred", "novel")),
            ]
        ),
        THREE,
        0,
    )
    assert seen.accepted is not None
    assert (seen.accepted.micrographs, seen.accepted.coverage) == (3, 0.6)
    assert seen.accepted.accuracy == pytest.approx(2 / 3, abs=1e-4)
    assert seen.accepted.interval[0] < 2 / 3 < seen.accepted.interval[1]
    assert seen.reasons == {"blurred": 1, "low_confidence": 1, "novel": 1}
    assert seen.selective is not None
    assert [one.threshold for one in seen.selective.points] == [0.9, 0.8, 0.7, 0.4, None]
    assert seen.selective.points[2].accuracy == seen.accepted.accuracy, (
        "the operating point lies on the curve"
    )


def test_where_nothing_is_accepted_there_is_no_accuracy() -> None:
    seen = figures(gated([("rod", 0.3, ("low_confidence",))] * 2), THREE, 0).accepted
    assert seen is not None
    assert (seen.micrographs, seen.coverage, seen.accuracy, seen.interval) == (0, 0, None, (0, 1))


def test_without_thresholds_there_is_a_curve_and_no_operating_point() -> None:
    seen = figures(scored(["rod"] * 3, ["rod", "rod", "round"]), THREE, 0)
    assert seen.accepted is None
    assert seen.selective is not None
    assert seen.selective.at_80.accuracy == pytest.approx(2 / 3, abs=1e-4)


# --- intervals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_contains_the_estimate(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.choice(THREE, 80).tolist()
    answered = [t if random.random() < 0.8 else str(random.choice(THREE)) for t in true]
    seen = figures(scored(true, answered), THREE, seed)
    low, high = seen.balanced_accuracy_interval
    assert low < seen.balanced_accuracy < high
    assert 0.05 < high - low < 0.35


def test_the_interval_is_drawn_by_group_and_beside_it_by_micrograph() -> None:
    """Ten micrographs of one group are no more evidence than one."""
    true = ["rod", "round"] * 40
    answered = ["rod", "round"] * 34 + ["round", "rod"] * 6
    alone = figures(scored(true, answered), THREE, 0)
    groups = [f"session{index // 10}" for index in range(80)]
    together = figures(scored(true, answered, groups), THREE, 0)
    assert (alone.groups, together.groups) == (80, 8)
    assert alone.balanced_accuracy == together.balanced_accuracy

    def width(interval: tuple[float, float] | None) -> float:
        assert interval is not None
        return interval[1] - interval[0]

    assert width(together.balanced_accuracy_interval) > 1.3 * width(alone.balanced_accuracy_interval)
    by_micrograph = together.balanced_accuracy_interval_by_micrograph
    assert width(by_micrograph) == pytest.approx(width(alone.balanced_accuracy_interval), abs=0.02)


def test_the_seed_decides_the_interval() -> None:
    entries = scored(["rod", "round"] * 20, ["rod", "round", "round", "round"] * 10)
    assert figures(entries, THREE, 1) == figures(entries, THREE, 1)
    assert figures(entries, THREE, 1) != figures(entries, THREE, 2)


def test_one_group_says_nothing_about_others() -> None:
    seen = figures(scored(["rod"], ["rod"]), THREE, 0)
    assert seen.balanced_accuracy_interval == (0.0, 1.0)


def test_balanced_accuracy_does_not_reward_the_largest_class() -> None:
    true = np.array([0] * 98 + [1] * 2)
    assert balanced_accuracy(true, np.zeros(100, dtype=np.intp)) == 0.5


def test_old_answers_are_calibrated_by_the_one_probability_that_is_known() -> None:
    old = figures(scored(["rod"] * 3, ["rod", "rod", "round"]), THREE, 0).calibration
    new = figures(drawn_scored(30), THREE, 0).calibration
    assert old is not None
    assert new is not None
    assert (old.brier, old.log_loss) == (None, None)
    assert old.error == pytest.approx(abs(0.9 - 2 / 3), abs=1e-4)
    assert new.brier is not None
    assert new.log_loss is not None


# --- slices ---------------------------------------------------------------------------------------


def told(**fields: object) -> list[Scored]:
    """Six micrographs in three groups, the last of them wrong; each field takes six values."""
    entries = scored(["rod"] * 6, ["rod"] * 5 + ["round"], groups=["a", "a", "b", "b", "c", "c"])
    return [
        entry.model_copy(update={name: values[at] for name, values in fields.items()})  # type: ignore[index]
        for at, entry in enumerate(entries)
    ]


@pytest.mark.parametrize(
    ("fields", "way", "expected"),
    [
        pytest.param({}, "group", {"a": (2, 2), "b": (2, 2), "c": (2, 1)}, id="group"),
        pytest.param(
            {"microscope": ["Titan"] * 4 + ["F20"] * 2},
            "microscope",
            {"F20": (2, 1), "Titan": (4, 4)},
            id="microscope",
        ),
        pytest.param(
            {"microscope": ["Titan", "", "", "", "F20", "F20"]},
            "microscope",
            {"F20": (2, 1), "Titan": (1, 1), "not known": (3, 3)},
            id="microscope of some",
        ),
        pytest.param(
            {"acquired": ["2024-03-04T23:00:00+00:00"] * 3 + ["2024-03-05T01:00:00+00:00"] * 3},
            "day of acquisition",
            {"2024-03-04": (3, 3), "2024-03-05": (3, 2)},
            id="day",
        ),
        pytest.param(
            {"file": ["rod/s1/a", "rod/s1/b", "rod/s1/c", "rod/s2/a", "rod/s2/b", "rod/s2/c"]},
            "sub-folder",
            {"s1": (3, 3), "s2": (3, 2)},
            id="sub-folder",
        ),
        pytest.param(
            {"told": [{"operator": "Ann"}] * 3 + [{"operator": "Bo"}] * 3},
            "operator",
            {"Ann": (3, 3), "Bo": (3, 2)},
            id="column of a table",
        ),
    ],
)
def test_accuracy_is_divided_by_what_is_known(
    fields: dict[str, object], way: str, expected: dict[str, tuple[int, int]]
) -> None:
    seen = {one.name: (one.micrographs, one.right) for one in slices(told(**fields))[way]}
    assert seen == expected
    assert list(seen)[-1] == "not known" or "not known" not in seen


def test_what_is_unknown_or_the_same_for_all_divides_nothing() -> None:
    assert set(slices(told(microscope=["Titan"] * 6))) == {"group"}
    alone = scored(["rod"] * 4, ["rod"] * 4)
    assert slices(alone) == {}, "each its own group"


def test_groups_that_are_sub_folders_are_told_once() -> None:
    entries = [
        entry.model_copy(update={"file": f"rod/{entry.group}/{at}.dm3"}) for at, entry in enumerate(told())
    ]
    assert set(slices(entries)) == {"group"}


def test_pixel_sizes_are_divided_into_equal_numbers() -> None:
    count = 3 * MICROGRAPHS_A_SIZE_BIN
    entries = [
        entry.model_copy(update={"pixel_size_nm": 0.1 * 1.1**at})
        for at, entry in enumerate(scored(["rod"] * count, ["rod"] * (count - 4) + ["round"] * 4))
    ]
    seen = slices(entries)["pixel size"]
    assert [one.micrographs for one in seen] == [MICROGRAPHS_A_SIZE_BIN] * 3
    assert [one.right for one in seen] == [8, 8, 4]
    assert seen[0].name == "0.1 to 0.195 nm"
    few = slices(entries[:8])
    assert "pixel size" not in few, "one range of all divides nothing"


def test_equal_pixel_sizes_stay_together() -> None:
    entries = [
        entry.model_copy(update={"pixel_size_nm": 0.5 if at < 20 else 2.0})
        for at, entry in enumerate(scored(["rod"] * 40, ["rod"] * 40))
    ]
    assert [(one.name, one.micrographs) for one in slices(entries)["pixel size"]] == [
        ("0.5 nm", 20),
        ("2 nm", 20),
    ]


def test_an_interval_counts_groups_not_micrographs() -> None:
    entries = told(microscope=["Titan"] * 4 + ["F20"] * 2)
    titan = next(one for one in slices(entries)["microscope"] if one.name == "Titan")
    assert titan.groups == 2
    assert titan.interval == pytest.approx((0.3424, 1.0), abs=1e-3), "two right of two"
