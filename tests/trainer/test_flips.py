"""Which answers a later bundle mends and which it breaks: counted, listed, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainer.scoring.evaluation import EvaluationError, Scored
from trainer.scoring.flips import Flips, compared, find_flips, flips_text, mcnemar

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet


def scored(file: str, predicted: str, probability: float = 0.9, group: str = "") -> Scored:
    return Scored(
        file=file,
        group=group or file,
        label="rod",
        predicted=predicted,
        probability=probability,
        decision="accept",
    )


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [
        pytest.param(0, 0, 1.0, id="nothing flipped"),
        pytest.param(1, 1, 1.0, id="as many either way"),
        pytest.param(1, 0, 1.0, id="one flip says nothing"),
        pytest.param(5, 0, 0.0625, id="five of five"),
        pytest.param(6, 0, 0.03125, id="six of six"),
        pytest.param(0, 6, 0.03125, id="six broken"),
        pytest.param(8, 2, 0.109375, id="eight of ten"),
        pytest.param(600, 600, 1.0, id="many"),
    ],
)
def test_mcnemar_is_a_coin_thrown_for_every_flip(fixed: int, broken: int, p: float) -> None:
    assert mcnemar(fixed, broken) == pytest.approx(p, abs=1e-12)


def test_what_changed_is_counted_and_listed() -> None:
    before = [
        scored("a", "rod"),
        scored("b", "round"),
        scored("c", "rod"),
        scored("d", "round"),
        scored("e", "round"),
    ]
    after = [
        scored("a", "rod"),
        scored("b", "rod", 0.6),
        scored("c", "round", 0.7),
        scored("d", "cube"),
        scored("e", "rod", 0.8, "d"),
    ]
    found = compared("test", before, after)
    assert (found.micrographs, found.groups, found.both_right, found.both_wrong) == (5, 5, 1, 1)
    assert [flip.file for flip in found.fixed] == ["e", "b"]
    assert [flip.file for flip in found.broken] == ["c"]
    text = flips_text(
        Flips(
            before="net-1",
            before_sha256="",
            after="net-2",
            after_sha256="",
            dataset_fingerprint="",
            sets=(found,),
            warnings=("beware",),
            unreadable={"f": "gone"},
        )
    )
    assert text.splitlines() == [
        "from net-1 to net-2",
        "test: 5 micrographs of 5 groups, 2 right before, 3 now: 2 fixed, 1 broken, 2 the same; "
        "p = 1 (McNemar, exact)",
        "  fixed   e: is rod, was round 0.90, now rod 0.80",
        "  fixed   b: is rod, was round 0.90, now rod 0.60",
        "  broken  c: is rod, was rod 0.90, now round 0.70",
        "warning: beware",
        "not read: f: gone",
    ]


def test_a_bundle_beside_itself_flips_nothing(shared_bundle: Path, dataset: DataSet) -> None:
    found = find_flips(shared_bundle, shared_bundle, dataset, "test")
    (one,) = found.sets
    assert (one.name, one.micrographs, one.fixed, one.broken, one.p_value) == ("test", 8, (), (), 1.0)
    assert found.warnings == (
        "micrographs of one group are not independent: where groups hold several, p is too small",
    )


def test_a_part_that_was_trained_on_is_said(shared_bundle: Path, dataset: DataSet) -> None:
    found = find_flips(shared_bundle, shared_bundle, dataset, "train")
    assert "toy-1 was trained on the part train: it says nothing about others" in found.warnings


def test_an_empty_part_is_refused(shared_bundle: Path, dataset: DataSet) -> None:
    from dataclasses import replace

    bare = replace(dataset, crops=dataset.train)
    with pytest.raises(EvaluationError, match="no micrograph in the part test; prepare with another split"):
        find_flips(shared_bundle, shared_bundle, bare, "test")
