"""A bundle gets its limits: it opens, it answers as was fitted, and an earlier one is never lost."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from limited import changed_manifest, fitted_bundle, without

from edge_agent import cli as agent
from edge_agent.classifier import Classifier
from edge_agent.decision import decide, doubts
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import UNKNOWN_DATASET, open_bundle
from trainer.exporting.bundle_writer import add_file
from trainer.preparing.split import SplitRule
from trainer.scoring.evaluation import EvaluationError, evaluate, sources_of
from trainer.trusting import trust as module
from trainer.trusting.trust import (
    Goal,
    NothingHeldOut,
    Strangers,
    TrustError,
    TrustOrder,
    trust,
    trust_in_place,
)
from trainer.trusting.trust_record import TRUST, TrustRecord, read_trust

if TYPE_CHECKING:
    from pathlib import Path

    from limited import Limited

    from edge_agent.preprocessing import View
    from trainer.trusting.held_out import HeldOut

NO_STRANGERS = Strangers(drawn=0)
QUICK = TrustOrder(strangers=NO_STRANGERS)

# --- the bundle that comes of it ------------------------------------------------------------------


def test_the_bundle_opens_and_replays_its_golden_cases_with_their_novelty(limited: Limited) -> None:
    bundle = open_bundle(limited.trusted)
    replay = Classifier(bundle).replay_golden()
    assert replay.passed
    with np.load(limited.trusted / "golden.npz") as golden:
        assert {name for name in golden.files if name.startswith("novelty_")} >= {"novelty_0", "novelty_1"}
    assert bundle.manifest.novelty is not None
    assert bundle.manifest.thresholds is not None
    assert (bundle.manifest.name, bundle.manifest.version) == ("toy", "2")


def test_what_was_measured_on_the_bundle_as_it_was_does_not_go_along(limited: Limited) -> None:
    before, after = (set(open_bundle(path).manifest.sha256) for path in (limited.bare, limited.trusted))
    assert before - after == {"evaluation.json", "faithfulness.json"}
    assert after - before == {TRUST}
    assert open_bundle(limited.trusted).sha256 != open_bundle(limited.bare).sha256


def test_held_out_micrographs_are_decided_as_was_recorded(limited: Limited) -> None:
    bundle = open_bundle(limited.trusted)
    classifier, accepted = Classifier(bundle), []
    for one in limited.record.held:
        micrograph = read_micrograph(limited.dataset.raw / one.file)
        seen = classifier.classify(micrograph)
        assert seen.label == one.predicted
        assert seen.probability == pytest.approx(one.probabilities[one.predicted], abs=1e-5)
        assert seen.novelty == pytest.approx(one.novelty, rel=1e-4)
        accepted.append(decide(seen, micrograph, bundle.manifest).decision == "accept")
    assert np.mean(accepted) == pytest.approx(limited.record.accepted, abs=1e-4)
    refused = np.mean([bool(one.guards) for one in limited.record.held])
    assert limited.record.accepted + refused >= 0.95


def test_the_record_says_what_a_reader_needs(limited: Limited) -> None:
    record, stored = limited.record, read_trust(open_bundle(limited.trusted))
    assert stored == record
    assert record.source == "the 24 micrographs of the part validation, which the network was not trained on"
    assert record.thresholds == open_bundle(limited.trusted).manifest.thresholds.model_dump() | {  # type: ignore[union-attr]
        "acceptance": record.accepted
    }
    assert record.temperature > 1
    assert record.after.confidence < record.before.confidence
    assert record.after.log_loss is not None
    right = [one.label == one.predicted for one in record.held]
    assert record.selective.points[-1].accuracy == pytest.approx(np.mean(right), abs=1e-4)
    refused = sum(bool(one.guards) for one in record.held)
    guarded = (
        f"{refused} of 24 held-out micrographs are refused by guards (tags or look), which no threshold moves"
    )
    assert record.notes == (
        "the held-out micrographs chose the epoch that was kept: temperature and limits flatter a little",
        *([guarded] if refused else []),
    )
    card = (limited.trusted / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.partition("\n---\n")[2].lstrip().startswith("# toy 2\n")
    assert "## When it does not answer" in card
    assert "the 24 micrographs of the part validation" in card


def test_the_agent_checks_and_uses_it(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(limited.dataset.raw / limited.dataset.test[0].source, tmp_path / "good.png")
    limits = open_bundle(limited.trusted).manifest.thresholds
    assert limits is not None
    for arguments in (["check"], ["classify", str(tmp_path / "good.png"), "--no-heatmap"]):
        monkeypatch.setattr(sys, "argv", ["edge-agent", *arguments, "--model", str(limited.trusted)])
        with pytest.raises(SystemExit) as caught:
            agent.main()
        assert not caught.value.code, capsys.readouterr().err
    told = json.loads((tmp_path / "good.png.json").read_bytes())["prediction"]
    assert told["decision"] in ("accept", "abstain")
    assert (told["novelty_threshold"], told["confidence_threshold"]) == (limits.novelty, limits.confidence)
    assert told["novelty"] > 0
    used = doubts(told["novelty"], told["probabilities"][told["label"]], limits)
    assert tuple(told["doubts"].values()) == pytest.approx(used, rel=1e-4)
    unsure = {"novel", "low_confidence", "unusual_and_unsure"} & set(told["reasons"])
    assert (sum(used) > 1) == bool(unsure)


def test_tiles_and_views_get_limits(limited: Limited, tmp_path: Path) -> None:
    views: tuple[View, ...] = ("identity", "flip_x")
    made = fitted_bundle(tmp_path / "b", limited.dataset, divisions=2, views=views)
    bundle, record = trust(made.path, limited.dataset, tmp_path / "t", QUICK)
    limits = bundle.manifest.thresholds
    assert limits is not None
    assert limits.tile_disagreement is not None
    assert limits.tile_disagreement >= np.quantile([one.tile_disagreement for one in record.held], 0.9)
    assert bundle.manifest.novelty is not None
    assert bundle.manifest.novelty.micrographs == 24, "not the 192 inputs"
    assert record.accepted >= 0.9


def test_an_imported_network_of_one_size_and_without_a_map_gets_limits(
    limited: Limited, tmp_path: Path
) -> None:
    made = fitted_bundle(tmp_path / "b", limited.dataset, form="no map, one size")
    path = changed_manifest(made.path, tmp_path / "c", dataset_fingerprint=UNKNOWN_DATASET)
    bundle, record = trust(path, limited.dataset, tmp_path / "t", QUICK)
    assert bundle.manifest.tensors.novelty is not None
    assert bundle.manifest.tensors.novelty.shape == (1,)
    assert Classifier(bundle, without_map=True).replay_golden().passed
    assert record.notes[0] == (
        "the network was trained elsewhere: whether it saw the held-out micrographs is not known"
    )
    assert not any("chose the epoch" in note for note in record.notes)


def test_limits_can_be_measured_again(limited: Limited, tmp_path: Path) -> None:
    order = TrustOrder(strangers=NO_STRANGERS, version="2", seed=5)
    _, again = trust(limited.trusted, limited.dataset, tmp_path / "again", order)
    same = {"made": limited.record.made, "strangers": limited.record.strangers}
    assert again.model_copy(update=same) == limited.record
    graphs = [
        onnx.load_from_string(open_bundle(path).model_bytes).graph
        for path in (limited.trusted, tmp_path / "again")
    ]
    assert len(graphs[0].node) == len(graphs[1].node)
    card = (tmp_path / "again" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.count("## When it does not answer") == 1


def test_by_folds_training_micrographs_are_measured_on_and_the_other_parts_are_left(
    limited: Limited,
    limited_folds: Path,
    limited_by_folds: tuple[object, tuple[HeldOut, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "held_out_by_folds", lambda *_: limited_by_folds[1])
    order = TrustOrder(folds=limited_folds, strangers=NO_STRANGERS, goal=Goal(0.8))
    bundle, record = trust(limited.bare, limited.dataset, tmp_path / "t", order)
    assert record.source.startswith("the 24 training micrographs, each as a network of the same recipe")
    assert {one.file for one in record.held} == {crop.source for crop in limited.dataset.train}
    assert {one.part for one in record.held} == {"fold-0", "fold-1", "fold-2"}
    assert record.acceptance == 0.8
    assert not any("chose the epoch" in note for note in record.notes)
    assert evaluate(bundle.path, limited.dataset, "test").warnings == ()


def test_what_a_reader_should_know_is_noted(limited: Limited, tmp_path: Path) -> None:
    few = without(limited.dataset, [crop.source for crop in limited.dataset.train[15:]])
    wrong = tuple(
        replace(crop, part="test", label=few.labels[at % 2]) for at, crop in enumerate(few.validation)
    )
    moved = replace(few, crops=wrong + few.train)
    order = replace(QUICK, part="test", goal=Goal(accuracy=1.0))
    bundle, record = trust(limited.bare, moved, tmp_path / "t", order)
    assert bundle.manifest.thresholds is not None
    assert bundle.manifest.tensors.novelty is None
    assert record.notes[0] == "no novelty is computed: novelty needs 20 training micrographs, there are 15"
    assert record.notes[-1].startswith(
        "no limit reaches an accuracy of 1: the strictest, at the middle of the"
    )
    assert not any("chose the epoch" in note for note in record.notes), "the test part chose nothing"


# --- what cannot be done --------------------------------------------------------------------------


def torn(data: Any) -> Any:
    return replace(data, split=SplitRule(by="every-third"))


@pytest.mark.parametrize(
    ("change", "data", "kind", "text"),
    [
        pytest.param(
            {}, lambda data: without(data, [crop.source for crop in data.validation[8:]]), NothingHeldOut,
            r"8 held-out micrographs of \d classes are too few for limits \(20 of two classes at the least\); "
            "label more, or give --folds of a cross-validation",
            id="too few",
        ),
        pytest.param(
            {}, lambda data: without(data, [crop.source for crop in data.validation]), NothingHeldOut,
            "0 held-out micrographs of 0 classes are too few", id="none",
        ),
        pytest.param(
            {}, torn, NothingHeldOut,
            "the split every-third puts crops of one micrograph into several parts, so no whole micrograph was",
            id="a torn split",
        ),
        pytest.param(
            {"dataset_fingerprint": "f00"}, lambda data: data, TrustError,
            "was trained on another data set than .*; give its own, or limits would be measured on micrographs",
            id="another data set",
        ),
        pytest.param(
            {}, lambda data: replace(data, labels=("cube", "disc", "stripes")), TrustError,
            "does not know the classes cube of", id="an unknown class",
        ),
        pytest.param(
            {"trained_parts": ("train", "validation", "test")}, lambda data: data, NothingHeldOut,
            "was trained on the part validation too; give --folds of a cross-validation", id="an ensemble of folds",
        ),
    ],
)  # fmt: skip
def test_limits_are_refused_where_nothing_was_held_out(
    limited: Limited, tmp_path: Path, change: dict[str, Any], data: Any, kind: type[Exception], text: str
) -> None:
    if "trained_parts" in change:
        network = open_bundle(limited.bare).manifest.network
        change = {"network": network.model_copy(update=change)}
    path = changed_manifest(limited.bare, tmp_path / "b", **change) if change else limited.bare
    with pytest.raises(kind, match=text) as caught:
        trust(path, data(limited.dataset), tmp_path / "t", QUICK)
    assert type(caught.value) is kind
    assert not (tmp_path / "t").exists()


def test_an_empty_folder_of_strangers_is_seen_before_any_work(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "learnt", lambda *_: pytest.fail("worked"))
    (tmp_path / "s").mkdir()
    with pytest.raises(TrustError, match="holds no pictures"):
        trust(
            limited.bare, limited.dataset, tmp_path / "t", replace(QUICK, strangers=Strangers(tmp_path / "s"))
        )


def test_another_bundle_is_not_written_over(limited: Limited, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(FileExistsError, match="exists; choose another folder or remove it first"):
        trust(limited.bare, limited.dataset, tmp_path / "t", QUICK)


def test_a_bundle_that_answers_otherwise_than_was_fitted_is_not_left(
    limited: Limited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Classifier.answer

    def off(self: Classifier, micrograph: Any) -> Any:
        answer = made(self, micrograph)
        return replace(answer, novelty=answer.novelty and answer.novelty * 1.01)

    monkeypatch.setattr(Classifier, "answer", off)
    with pytest.raises(
        TrustError, match=r"answers .*\.png otherwise than was fitted \(by 1\.0e-02\); do not"
    ):
        trust(limited.bare, limited.dataset, tmp_path / "t", QUICK)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param({}, 0.0, id="alike"),
        pytest.param({"probabilities": (0.25, 0.75)}, 0.05, id="probabilities"),
        pytest.param({"novelty": 0.44}, 0.1, id="novelty, of itself"),
        pytest.param({"novelty": float("nan")}, float("nan"), id="no number"),
        pytest.param({"novelty": None}, float("nan"), id="none"),
        pytest.param({"probabilities": (float("nan"), 1.0)}, float("nan"), id="no probability"),
    ],
)
def test_how_far_an_answer_is_off(seen: dict[str, Any], expected: float) -> None:
    fitted = SimpleNamespace(probabilities=(0.2, 0.8), novelty=0.4)
    off = SimpleNamespace(**(vars(fitted) | seen))
    assert module._apart(off, fitted) == pytest.approx(expected, nan_ok=True)  # type: ignore[arg-type]


# --- in place -------------------------------------------------------------------------------------


@pytest.fixture
def own(limited: Limited, tmp_path: Path) -> Path:
    """A copy of the bundle without limits, in a folder of its own."""
    return shutil.copytree(limited.bare, tmp_path / "own" / "toy-1")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def copied(limited: Limited) -> Any:
    """Stands for `trust`: a bundle that was made before."""

    def give(_: Path, __: Any, out: Path, *___: Any, **____: Any) -> Any:
        return open_bundle(shutil.copytree(limited.trusted, out)), limited.record

    return give


def test_in_place_the_new_bundle_stands_where_the_old_one_was(
    limited: Limited, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "trust", copied(limited))
    assert trust_in_place(own, limited.dataset, QUICK) == limited.record
    assert open_bundle(own).sha256 == open_bundle(limited.trusted).sha256
    assert names(own.parent) == ["toy-1"]


class _Stopped(BaseException):
    """What Ctrl-C raises, without stopping the tests."""


@pytest.mark.parametrize("at", ["within", "first rename", "second rename"])
def test_an_interrupted_or_failed_run_leaves_the_old_bundle(
    limited: Limited, own: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise _Stopped

    monkeypatch.setattr(module, "trust", stop if at == "within" else copied(limited))
    if at != "within":
        kind, place = type(own), {"first rename": "old", "second rename": own.name}[at]
        rename = kind.rename

        def interrupted(self: Path, target: Path) -> Path:
            if target.name == place and self.name == {"old": own.name, own.name: "new"}[place]:
                raise _Stopped
            return rename(self, target)

        monkeypatch.setattr(kind, "rename", interrupted)
    before = open_bundle(own)
    with pytest.raises(_Stopped):
        trust_in_place(own, limited.dataset, QUICK)
    monkeypatch.undo()
    assert open_bundle(own) == before
    assert names(own.parent) == ["toy-1"]


def test_too_few_held_out_leave_the_old_bundle(limited: Limited, own: Path) -> None:
    few = without(limited.dataset, [crop.source for crop in limited.dataset.validation[8:]])
    with pytest.raises(NothingHeldOut):
        trust_in_place(own, few, QUICK)
    assert open_bundle(own).manifest.thresholds is None
    assert names(own.parent) == ["toy-1"]


# --- what an evaluation says then -----------------------------------------------------------------

FLATTERS = "limits and temperature were measured on these micrographs: acceptance and calibration flatter"


def test_an_evaluation_on_the_micrographs_behind_the_limits_is_warned_of(
    limited: Limited, tmp_path: Path
) -> None:
    bundle = shutil.copytree(limited.trusted, tmp_path / "b")
    assert FLATTERS in evaluate(bundle, limited.dataset, "validation").warnings
    assert FLATTERS not in evaluate(bundle, limited.dataset, "test").warnings


def test_files_of_another_data_set_that_are_called_alike_are_not_these(
    limited: Limited, tmp_path: Path
) -> None:
    bundle = shutil.copytree(limited.trusted, tmp_path / "b")
    other = replace(limited.dataset, fingerprint="another")
    assert FLATTERS not in evaluate(bundle, other, "validation").warnings


def test_a_record_of_limits_that_cannot_be_read_stops_an_evaluation(limited: Limited, tmp_path: Path) -> None:
    bundle = shutil.copytree(limited.trusted, tmp_path / "b")
    record = json.loads((bundle / TRUST).read_bytes()) | {"temperature": "warm"}
    add_file(bundle, TRUST, json.dumps(record).encode())
    with pytest.raises(EvaluationError, match=r"trust\.json: not what this version reads \(temperature: "):
        evaluate(bundle, limited.dataset, "test")


def test_a_record_survives_its_file(limited: Limited) -> None:
    text = limited.record.model_dump_json(by_alias=True)
    assert TrustRecord.model_validate_json(text) == limited.record
    assert json.loads(text)["schema"] == "scopewatch.trust/1"


def test_sources_behind_limits_are_named_as_in_the_data_set(limited: Limited) -> None:
    files = {source.file for source in sources_of(limited.dataset.validation)}
    assert {one.file for one in limited.record.held} == files
