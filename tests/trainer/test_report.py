"""The report: one file that needs nothing else, says what is missing, and takes every name literally."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from answered import EIGHT, THREE, Answered, answered, reopened

from trainer.exporting.bundle_writer import add_file
from trainer.exporting.training_facts import TrainedMember, TrainingFacts, training_json
from trainer.fitting.run_folder import Epoch, Recipe, RunRecord
from trainer.scoring.accuracy_curve import (
    CURVE,
    LearningCurve,
    LearningCurveError,
    Measured,
    Setting,
    concluded,
)
from trainer.scoring.evaluation import EVALUATION, EvaluationError, evaluate, read_evaluation
from trainer.showing import charts, report
from trainer.showing.report import ReportError, write_report

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet

VOID = {
    "meta",
    "link",
    "img",
    "br",
    "hr",
    "input",
    "use",
    "path",
    "rect",
    "line",
    "circle",
    "image",
    "polyline",
}


class Page(HTMLParser):
    """What a browser would make of the page: text, ids, sources; open elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.sources += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "action") and value
        ]
        assert not [name for name in known if name.startswith("on")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """All words with single spaces."""
        return " ".join(" ".join(self.words).split())


def made_page(made: Answered, data: DataSet | None = None, **options: object) -> Page:
    """The report of a bundle on its data set, without measuring a learning curve."""
    out = made.bundle.parent / "report.html"
    seen = write_report(made.bundle, dataset=data, out=out, measure_curve=False, **options)  # type: ignore[arg-type]
    assert seen == out
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Twenty-four calibrated micrographs of three classes, two answered wrong; evaluated; read only."""
    made = answered(tmp_path_factory.mktemp("plain"), wrong=(3, 8))
    evaluate(made.bundle, made.data, "test")
    return made


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, int, int]]:
    """What was told while the page was made."""
    return []


@pytest.fixture(scope="module")
def page(plain: Answered, steps: list[tuple[str, int, int]]) -> Page:
    """Its report."""
    return made_page(plain, plain.data, progress=lambda *step: steps.append(step))


@pytest.fixture(scope="module")
def bare(plain: Answered) -> Page:
    """Its report without the data set, where it lies unless another place is named."""
    written = write_report(plain.bundle, measure_curve=False)
    assert written == plain.bundle.parent / "bundle-report.html"
    return Page(written.read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file_and_no_script(page: Page) -> None:
    assert page.sources
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert {source[1:] for source in page.sources if source.startswith("#")} <= set(page.ids)
    assert page.tags.count("svg") >= 6


def test_the_figures_are_those_of_the_evaluation(plain: Answered, page: Page) -> None:
    seen = read_evaluation(reopened(plain)).figures
    assert "2 of 24 micrographs from 12 groups" in page.text
    low, high = (charts.percent(value) for value in seen.balanced_accuracy_interval)
    assert f"{charts.percent(seen.balanced_accuracy)} 95 %: {low} to {high} (by group)" in page.text
    assert seen.calibration is not None
    assert f"{seen.calibration.brier:.3f}" in page.text
    assert f"{seen.calibration.error:.3f}" in page.text


@pytest.mark.parametrize(
    "heading",
    [
        "Intended use and limits",
        "What is taken for what",
        "How sure the accuracy is",
        "Whether a probability can be taken at its word",
        "What the accuracy depends on",
        "Pixel size",
        "Held-out group",
        "Day of acquisition",
        "How many micrographs are needed",
        "Most confident mistakes",
        "Galleries",
        "Probabilities, class by class",
        "Map of what the network sees",
        "How it was trained",
        "The data set",
        "The bundle",
    ],
)
def test_every_section_is_there(page: Page, heading: str) -> None:
    assert heading in page.text


def test_mistakes_are_shown_by_name_with_their_probabilities(plain: Answered, page: Page) -> None:
    wrong = [entry for entry in read_evaluation(reopened(plain)).predictions if not entry.right]
    for entry in wrong:
        assert page.text.count(entry.file) >= 2, "among the mistakes and in its class"
        assert f"wrong: labelled {entry.label}" in page.text
    assert "bar " in page.text, "calibrated pictures have a scale bar"


def test_without_a_leak_it_says_so(page: Page) -> None:
    assert "No leak was found." in page.text
    assert "Beware" not in page.text


def test_equal_seeds_write_equal_files(plain: Answered, page: Page, tmp_path: Path) -> None:
    again = write_report(plain.bundle, dataset=plain.data, out=tmp_path / "b.html", measure_curve=False)
    assert again.read_bytes() == (plain.bundle.parent / "report.html").read_bytes()
    assert page.tags


def test_the_bundle_stays_as_it_is(plain: Answered, page: Page, bare: Page) -> None:
    assert set(reopened(plain).manifest.sha256) == {"model.onnx", "golden.npz", EVALUATION}
    assert page.tags
    assert bare.tags


# --- what may be missing --------------------------------------------------------------------------


def test_without_the_data_set_there_are_no_pictures_and_the_page_says_so(bare: Page) -> None:
    assert "Galleries need the micrographs: the data set is not where it was" in bare.text
    assert "There is no map: the data set is not where it was" in bare.text
    assert "The pictures cannot be shown" in bare.text
    assert "img" not in bare.tags
    assert "What is taken for what" in bare.text


def test_the_data_set_is_found_where_the_evaluation_says(
    plain: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def known(folder: Path) -> DataSet:
        asked.append(folder)
        return plain.data

    monkeypatch.setattr(report, "load_dataset", known)
    assert "img" in made_page(plain).tags
    assert asked == [plain.data.root]
    monkeypatch.setattr(report, "load_dataset", lambda _: replace(plain.data, fingerprint="other"))
    assert "was prepared anew since the evaluation" in made_page(plain).text


def test_another_data_set_is_refused(plain: Answered) -> None:
    other = replace(plain.data, fingerprint="other")
    with pytest.raises(ReportError, match="not the data set that tiny-1 was evaluated on"):
        write_report(plain.bundle, dataset=other)


def test_a_bundle_that_was_not_evaluated_is_refused(tmp_path: Path) -> None:
    made = answered(tmp_path, count=1)
    with pytest.raises(EvaluationError, match="not evaluated; run edge-trainer evaluate"):
        write_report(made.bundle, dataset=made.data)
    assert not list(tmp_path.glob("*.html"))


def test_pictures_that_are_gone_are_named(tmp_path: Path) -> None:
    made = answered(tmp_path, count=5, wrong=(1,))
    evaluate(made.bundle, made.data, "test")
    (made.data.raw / made.data.crops[1].source).unlink()
    page = made_page(made, made.data)
    assert "1 of 5 micrographs" in page.text
    assert "No such file or directory" in page.text
    assert "img" in page.tags


def test_an_older_evaluation_makes_a_report_too(tmp_path: Path) -> None:
    made = answered(tmp_path, count=8, wrong=(2,))
    new = evaluate(made.bundle, made.data, "test")
    older = [
        entry.model_copy(update={"probabilities": {}, "pixel_size_nm": None}) for entry in new.predictions
    ]
    kept = new.figures.model_copy(update={"calibration": None, "slices": {}})
    old = new.model_copy(update={"predictions": tuple(older), "figures": kept, "dataset": ""})
    add_file(made.bundle, EVALUATION, old.model_dump_json(by_alias=True).encode())
    page = made_page(made)
    assert "expected calibration error" in page.text
    assert "holds the probability of the answer only" in page.text
    assert "the evaluation does not name its data set" in page.text


# --- extremes -------------------------------------------------------------------------------------


def test_eight_classes_with_names_in_all_scripts(tmp_path: Path) -> None:
    made = answered(tmp_path, labels=EIGHT, count=16, wrong=(0, 1, 2, 3, 4, 5, 6, 7))
    evaluate(made.bundle, made.data, "test")
    page = made_page(made, made.data)
    for label in EIGHT:
        assert " ".join(label.split()) in page.text
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<nanowire>" not in raw
    assert html.escape("<nanowire>") in raw


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            {"count": 2, "group_of": 1},
            (
                "No answer was wrong. 2 right answers out of 2 still leave room for 66 % wrong ones",
                "There is no map: 2 micrographs can be read; a map needs at least 3.",
                "there is nothing to divide by",
            ),
            id="two micrographs, none wrong",
        ),
        pytest.param(
            {"count": 4, "group_of": 9, "calibrated": False},
            (
                "Not known: none of the files is calibrated.",
                "one group only: no interval",
                "Few samples: 4 answers in 1 bin",
            ),
            id="one group without pixel sizes",
        ),
        pytest.param(
            {"count": 3, "divisions": 2, "by": "every-third"},
            (
                "Beware: the figures on this page may be too good",
                "the split every-third puts crops of one micrograph into several parts",
                "crops from 2 groups",
            ),
            id="crops of torn micrographs",
        ),
    ],
)
def test_extremes(tmp_path: Path, options: dict[str, object], expected: tuple[str, ...]) -> None:
    made = answered(tmp_path, **options)  # type: ignore[arg-type]
    evaluate(made.bundle, made.data, "test")
    page = made_page(made, made.data)
    for words in expected:
        assert words in page.text


# --- training and learning curve ------------------------------------------------------------------


def test_an_older_bundle_says_that_it_kept_no_history(page: Page) -> None:
    assert "which did not keep the history of the training in it" in page.text
    assert "There is no learning curve: none was recorded." in page.text


def facts(members: int) -> TrainingFacts:
    """What an export records of some runs."""
    record = RunRecord(
        recipe=Recipe(),
        seed=7,
        dataset="/data",
        dataset_fingerprint="answered",
        labels=THREE,
        part={"train": 10},
        versions={"python": "3.11"},
        hardware="2 x <slow> cores",
    )
    history = (Epoch("head", 1, 1.0, 1.1, 0.5), Epoch("fine", 2, 0.5, 0.6, 0.75))
    return TrainingFacts(
        run="/run",
        dataset="/data",
        dataset_fingerprint="answered",
        trained_parts=("train",),
        seconds=90.0,
        members=tuple(
            TrainedMember(folder=f"member-{at}", record=record, history=history) for at in range(members)
        ),
    )


def test_training_and_learning_curve_of_the_bundle_are_shown(tmp_path: Path) -> None:
    made = answered(tmp_path, count=4)
    add_file(made.bundle, "training.json", training_json(facts(3)))
    add_file(made.bundle, CURVE, curve().json_bytes())
    evaluate(made.bundle, made.data, "test")
    page = made_page(made, made.data)
    assert page.text.count("member-") == 3
    assert "2 x <slow> cores" in page.text
    assert "0.5000 75 %" in page.text
    assert "1.5 min" in page.text
    assert "epochs 10" in page.text
    assert curve().statement in page.text
    assert "measured on another data set" not in page.text


def curve(fingerprint: str = "answered") -> LearningCurve:
    """A curve of two points."""
    measured = [Measured(0.5, (10, 10), (5, 5), (0.6, 0.7)), Measured(1, (20, 20), (10, 10), (0.7, 0.8))]
    made = datetime(2026, 1, 1, tzinfo=UTC)
    return concluded(Setting("frozen features", "toy", fingerprint, THREE, 2, 1, 0, made), measured)


def test_a_curve_that_is_named_is_shown(plain: Answered, tmp_path: Path) -> None:
    curve("other").write(tmp_path / CURVE)
    page = made_page(plain, plain.data, curve=tmp_path)
    assert curve().statement in page.text
    assert "measured on another data set" in page.text


def test_a_curve_is_measured_and_kept_where_none_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.scoring.learning_curve

    made = answered(tmp_path, count=4)
    evaluate(made.bundle, made.data, "test")
    calls: list[Path] = []

    def measured(data: DataSet, store: Path, **_: object) -> LearningCurve:
        calls.append(store)
        store.mkdir(parents=True, exist_ok=True)
        return curve(data.fingerprint)

    monkeypatch.setattr(trainer.scoring.learning_curve, "frozen_learning_curve", measured)
    for _ in range(2):
        file = write_report(made.bundle, dataset=made.data)
        assert curve().statement in Page(file.read_text(encoding="utf-8")).text
    assert calls == [made.data.root / "learning_curve"], "the second report found it"


def test_a_curve_that_cannot_be_measured_is_no_reason_to_have_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.scoring.learning_curve

    made = answered(tmp_path, count=4)
    evaluate(made.bundle, made.data, "test")

    def refused(*_: object, **__: object) -> LearningCurve:
        raise LearningCurveError("class 'rod' has a single group")

    monkeypatch.setattr(trainer.scoring.learning_curve, "frozen_learning_curve", refused)
    file = write_report(made.bundle, dataset=made.data)
    assert (
        "none could be measured: class 'rod' has a single group."
        in Page(file.read_text(encoding="utf-8")).text
    )


def test_a_curve_that_is_not_there_is_refused(plain: Answered, tmp_path: Path) -> None:
    with pytest.raises(LearningCurveError):
        write_report(plain.bundle, dataset=plain.data, curve=tmp_path)


# --- interrupted, refused ------------------------------------------------------------------------


def test_an_interrupted_report_leaves_the_old_file(plain: Answered, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")

    def stop(what: str, done: int, total: int) -> None:
        if what == "pictures" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(plain.bundle, dataset=plain.data, out=out, measure_curve=False, progress=stop)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "old")]


def test_a_folder_that_cannot_be_written_is_named(plain: Answered, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"file/report.html: cannot be written \(.*\); make room there"):
        write_report(plain.bundle, out=tmp_path / "file" / "report.html", measure_curve=False)


def test_progress_is_told(page: Page, steps: list[tuple[str, int, int]]) -> None:
    ends = {what: (done, total) for what, done, total in steps}
    assert all(done == total for done, total in ends.values())
    assert list(ends) == ["features", "pictures", "charts"]
    assert page.tags


def test_the_style_fits_to_print(plain: Answered, page: Page) -> None:
    raw = (plain.bundle.parent / "report.html").read_text(encoding="utf-8")
    assert "@media print" in raw
    assert re.search(r"@page \{[^}]*A4", raw)
    assert page.tags.count("h1") == 1
