"""Another operating point: the same network and measurements, the line drawn elsewhere, no micrograph opened."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trusted
from limited import fitted_bundle

from edge_agent.classifier import Classifier
from edge_agent.decision import unsure
from edge_agent.model_bundle import Thresholds, open_bundle
from trainer.exporting import onnx_metadata
from trainer.exporting.bundle_writer import add_file, onnx_session
from trainer.scoring.evaluation import evaluate
from trainer.scoring.selective import risk_coverage
from trainer.trusting import moving as module
from trainer.trusting.moving import move_operating_point
from trainer.trusting.operating_point import Goal, doubt_of
from trainer.trusting.trust_record import TrustError, TrustRecord, read_trust

if TYPE_CHECKING:
    from pathlib import Path

    from limited import Limited


def reasons(one: Any, limits: Thresholds) -> tuple[str, ...]:
    return (
        *one.guards,
        *unsure(one.novelty, one.probabilities[one.predicted], one.tile_disagreement, limits),
    )


def test_the_same_goal_gives_the_same_limits_and_the_same_figures(limited: Limited, tmp_path: Path) -> None:
    bundle, moved = move_operating_point(limited.trusted, tmp_path / "b", Goal(), seed=5)
    before, after = limited.record, moved
    assert before.thresholds.keys() == after.thresholds.keys()
    for name, value in before.thresholds.items():
        assert after.thresholds[name] == (value if value is None else pytest.approx(value, rel=1e-4))
    unmoved = {"made", "thresholds"}
    assert after.model_dump(exclude=unmoved) == before.model_dump(exclude=unmoved)
    assert read_trust(bundle) == moved


@pytest.mark.parametrize("wanted", [0.5, 0.7])
def test_fewer_are_accepted_where_fewer_are_asked_for(
    limited: Limited, tmp_path: Path, wanted: float
) -> None:
    bundle, moved = move_operating_point(limited.trusted, tmp_path / "b", Goal(wanted), version="3")
    limits = bundle.manifest.thresholds
    assert limits is not None
    accepted = [one for one in moved.held if not reasons(one, limits)]
    assert moved.accepted == limits.acceptance == round(len(accepted) / len(moved.held), 4)
    assert wanted <= moved.accepted < limited.record.accepted
    assert moved.accepted_accuracy == round(np.mean([one.label == one.predicted for one in accepted]), 4)
    assert (moved.acceptance, bundle.manifest.version) == (wanted, "3")
    assert limits.confidence > limited.record.thresholds["confidence"]  # type: ignore[operator]
    assert moved.held == limited.record.held


def test_the_network_stays_and_its_file_says_the_new_limits(limited: Limited, tmp_path: Path) -> None:
    bundle, _ = move_operating_point(limited.trusted, tmp_path / "b", Goal(0.6))
    before = open_bundle(limited.trusted)
    assert bundle.sha256 != before.sha256, "another operating point is another file"
    told = onnx_metadata.read(bundle.model_bytes)["scopewatch.decision"]["thresholds"]
    assert bundle.manifest.thresholds is not None
    assert told == bundle.manifest.thresholds.model_dump()
    picture = np.random.default_rng(0).normal(size=(1, 1, 80, 96)).astype(np.float32)
    names = ["probabilities", "cam", "novelty"]
    for one, other in zip(
        *(onnx_session(each.model_bytes).run(names, {"micrograph": picture}) for each in (before, bundle)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert Classifier(bundle).replay_golden().passed
    assert bundle.manifest.temperature == before.manifest.temperature


def test_figures_of_the_old_limits_do_not_go_along(limited: Limited, tmp_path: Path) -> None:
    measured = shutil.copytree(limited.trusted, tmp_path / "measured")
    evaluate(measured, limited.dataset, "test")
    add_file(measured, "faithfulness.json", b"{}")
    bundle, _ = move_operating_point(measured, tmp_path / "b", Goal(0.6))
    assert set(bundle.manifest.sha256) == set(open_bundle(limited.trusted).manifest.sha256)
    card = (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("## When it does not answer") == 1
    before = (limited.trusted / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card != before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"confidence": 0.9}, {"confidence": 0.9}, id="confidence"),
        pytest.param({"novelty": 0.7}, {"novelty": 0.7}, id="novelty"),
        pytest.param(
            {"confidence": 0.0, "novelty": 5.0}, {"confidence": 0.0, "novelty": 5.0}, id="both, very lax"
        ),
        pytest.param({"confidence": 1.0}, {"confidence": 1.0}, id="nothing is that sure"),
    ],
)
def test_limits_can_be_given_by_hand(
    limited: Limited, tmp_path: Path, given: dict[str, float], expected: dict[str, float]
) -> None:
    bundle, moved = move_operating_point(limited.trusted, tmp_path / "b", Goal(), **given)  # type: ignore[arg-type]
    limits = bundle.manifest.thresholds
    assert limits is not None
    assert limits.model_dump().items() >= expected.items()
    assert moved.accepted == round(np.mean([not reasons(one, limits) for one in moved.held]), 4)
    refused = {name for one in moved.held for name in reasons(one, limits)}
    if given.get("confidence") == 1.0:
        assert (moved.accepted, moved.accepted_accuracy) == (0.0, 0.0)
        assert "low_confidence" in refused
    if given.get("novelty") == 5.0:
        assert not refused & {"novel", "low_confidence"}


def test_strangers_are_decided_anew(limited: Limited, tmp_path: Path) -> None:
    lax, strict = (
        move_operating_point(
            limited.trusted, tmp_path / name, Goal(), confidence=confidence, novelty=novelty
        )[1]
        for name, confidence, novelty in (("lax", 0.0, 1e6), ("strict", 1.0, 0.01))
    )
    for one, other in zip(lax.strangers, strict.strangers, strict=True):
        assert one.abstained == sum(map(bool, one.guards)), one.kind
        assert other.abstained == other.pictures
        assert set(one.reasons) == {reason for why in one.guards for reason in why}
        assert other.reasons["novel"] == 2
        assert (one.novelty_auroc, one.novelty, one.confidence) == (
            other.novelty_auroc, other.novelty, other.confidence,
        )  # fmt: skip


def test_the_order_by_doubt_follows_the_limits(limited: Limited, tmp_path: Path) -> None:
    record = trusted.trust_record()
    areas = []
    for novelty in (0.8, 1e6):
        bundle, moved = move_with(record, limited, tmp_path / str(novelty), Goal(), novelty=novelty)
        score = [-doubt_of(module._judged(one), bundle.manifest.thresholds) for one in moved.held]
        right = [one.label == one.predicted for one in moved.held]
        groups = [one.group for one in moved.held]
        assert moved.selective == risk_coverage(np.array(score), np.array(right), groups, 0)
        areas.append(moved.selective.area)
    assert areas[0] != areas[1]


def test_an_accuracy_is_aimed_at_and_a_miss_is_noted(limited: Limited, tmp_path: Path) -> None:
    record = trusted.trust_record()
    _, plain = move_with(record, limited, tmp_path / "1", Goal(0.9))
    _, missed = move_with(record, limited, tmp_path / "2", Goal(accuracy=1))
    assert missed.notes[-1].startswith("no limit reaches an accuracy of 1: the strictest, ")
    between = (plain.accepted_accuracy + missed.accepted_accuracy) / 2
    _, moved = move_with(record, limited, tmp_path / "3", Goal(0.9, accuracy=between))
    assert plain.accepted_accuracy < between <= moved.accepted_accuracy
    assert missed.accepted < moved.accepted < plain.accepted
    assert moved.notes == record.notes
    _, again = move_with(missed, limited, tmp_path / "4", Goal())
    assert again.notes == record.notes, "a note of another goal goes"


def move_with(
    record: TrustRecord, limited: Limited, folder: Path, goal: Goal, novelty: float | None = None
) -> Any:
    """Move the limits of a bundle with this record."""
    bundle = shutil.copytree(limited.trusted, folder / "with")
    add_file(bundle, "trust.json", record.model_dump_json(by_alias=True).encode())
    return move_operating_point(bundle, folder / "moved", goal, novelty=novelty)


def test_records_without_guards_of_strangers_are_moved_too(limited: Limited, tmp_path: Path) -> None:
    _, moved = move_with(trusted.trust_record(), limited, tmp_path, Goal(0.9))
    assert [kind.abstained > 0 for kind in moved.strangers] == [True] * 4
    assert 0.9 <= moved.accepted < 0.93


def test_disagreement_of_tiles_counts_for_strangers_too(limited: Limited, tmp_path: Path) -> None:
    record = limited.record
    seen = {"novelty": (0.1, 0.1), "confidence": (0.99, 0.99), "tile_disagreement": (0.0, 0.9)}
    kind = record.strangers[0].model_copy(update={"guards": ((), ()), **seen})
    held = tuple(
        one.model_copy(update={"tile_disagreement": 0.01 * at}) for at, one in enumerate(record.held)
    )
    noted = record.model_copy(update={"strangers": (kind,), "held": held})
    _, moved = move_with(noted, limited, tmp_path, Goal())
    assert (moved.strangers[0].abstained, moved.strangers[0].reasons) == (1, {"tiles_disagree": 1})
    assert moved.thresholds["tile_disagreement"] == pytest.approx(0.23)


# --- what cannot be moved -------------------------------------------------------------------------


def test_without_limits_there_is_nothing_to_move(limited: Limited, tmp_path: Path) -> None:
    with pytest.raises(
        TrustError, match="toy-1: has no limits to be moved; run edge-trainer trust on it first"
    ):
        move_operating_point(limited.bare, tmp_path / "b", Goal())
    assert not (tmp_path / "b").exists()


def test_a_graph_without_novelty_has_no_limit_of_it(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fitted_bundle(tmp_path / "made", limited.dataset)
    monkeypatch.setattr(module, "read_trust", lambda _: limited.record)
    with pytest.raises(TrustError, match="made: its graph gives no novelty; leave --novelty out"):
        move_operating_point(made.path, tmp_path / "b", Goal(), novelty=1.0)


def test_another_folder_is_not_written_over(limited: Limited, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists; choose another folder or remove it first"):
        move_operating_point(limited.trusted, tmp_path, Goal())


def test_no_micrograph_is_opened(limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("trainer.scoring.evaluation.read_micrograph", refuse)
    monkeypatch.setattr("trainer.trusting.strangers.read_micrograph", refuse)
    assert dataclasses.is_dataclass(move_operating_point(limited.trusted, tmp_path / "b", Goal(0.8))[0])
