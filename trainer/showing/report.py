"""One HTML file that says what a bundle can and cannot do: figures, charts, pictures, and how to read them.

The figures are those of the evaluation in the bundle, or computed from its answers by the same code
(`scoring.figures`) where an older version left some out. Pictures and map need the data set; without it the page
says what is missing. Only this module knows what goes on the page; the words stand in `templates/report.html`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.files import write_durably
from edge_agent.model_bundle import open_bundle
from trainer.exporting.training_facts import read_training_facts
from trainer.fitting.backbones import BackboneError
from trainer.fitting.run_folder import RunError
from trainer.preparing.crop_table import dropped_files
from trainer.preparing.crops import load_dataset
from trainer.preparing.split import PARTS, PrepareError
from trainer.scoring.accuracy_curve import CURVE, LearningCurve, LearningCurveError
from trainer.scoring.embedding import EmbeddingError, embedding
from trainer.scoring.evaluation import Source, read_evaluation
from trainer.scoring.figures import figures
from trainer.scoring.intervals import share_interval
from trainer.showing import charts
from trainer.showing.chart_style import figure_svg, percent, short
from trainer.showing.class_counts import class_counts
from trainer.showing.faithfulness_section import faithfulness_section
from trainer.showing.gallery import choose, draw_pictures
from trainer.showing.learning_curve_chart import draw_learning_curve
from trainer.showing.trust_section import trust_section

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge_agent.model_bundle import Bundle, Manifest
    from trainer.exporting.training_facts import TrainingFacts
    from trainer.preparing.crops import DataSet
    from trainer.scoring.embedding import EmbeddingMap
    from trainer.scoring.evaluation import Evaluation
    from trainer.scoring.figures import Figures, Scored
    from trainer.showing.faithfulness_section import FaithfulnessSection
    from trainer.showing.gallery import Choice, Picture

    Progress = Callable[[str, int, int], None]

_TEMPLATE: Final = "report.html"
_CURVE_STORE: Final = "learning_curve"
"""Folder in the data set."""
_STRANGERS: Final = 8
_FEW: Final = 20


class ReportError(Exception):
    """A report cannot be made; the message says what was seen and what to do."""


@dataclass(frozen=True, slots=True)
class _Pictures:
    """What needs the data set; `absence` says why it is not there."""

    choice: Choice
    drawn: Mapping[int, Picture]
    map: EmbeddingMap | None
    map_absence: str
    absence: str


def write_report(
    bundle_path: Path,
    *,
    dataset: DataSet | None = None,
    out: Path | None = None,
    curve: Path | None = None,
    measure_curve: bool = True,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Path:
    """Write the report of an evaluated bundle and return the file.

    `dataset` is by default the one that the evaluation names, if it is still there. `out` is by default a file
    beside the bundle, `NAME-report.html`. `curve` is a recorded learning curve (file or folder); without it the one
    in the bundle is shown, else one is measured on the data set with frozen features (the first time minutes, then
    found again), unless `measure_curve` is off. `seed` chooses the pictures and lays out the map. The file appears
    whole or not at all.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        EvaluationError: the bundle was not evaluated.
        ReportError: `dataset` is not the one that was evaluated, or the file cannot be written.
        LearningCurveError: there is no curve at `curve`.

    """
    bundle = open_bundle(bundle_path)
    evaluation = read_evaluation(bundle)
    target = out if out is not None else bundle_path.parent / f"{bundle_path.name}-report.html"
    _make_folder(target)
    data, absence = _dataset(evaluation, dataset)
    pictures = _pictures(bundle, evaluation, data, absence, seed, progress)
    shown = _curve(bundle, data, curve, measure_curve, seed, progress)
    faithful = faithfulness_section(bundle, data, progress)
    progress("charts", 0, 1)
    text: str = _template().render(_page(bundle, evaluation, data, pictures, shown, faithful))
    progress("charts", 1, 1)
    try:
        write_durably(target, text.encode("utf-8", "replace"))
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def _make_folder(target: Path) -> None:
    """Before the work of minutes that would end in vain."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> ReportError:
    return ReportError(
        f"{target}: cannot be written ({error.strerror or error}); make room there, or name another --out"
    )


def _dataset(evaluation: Evaluation, given: DataSet | None) -> tuple[DataSet | None, str]:
    """The data set that was evaluated, or None and why it is not there."""
    if given is not None:
        if given.fingerprint != evaluation.dataset_fingerprint:
            raise ReportError(
                f"{given.root}: not the data set that {evaluation.bundle} was evaluated on; give that one, or run "
                f"edge-trainer evaluate on {given.root} first"
            )
        return given, ""
    if not evaluation.dataset:
        return None, "the evaluation does not name its data set (give it with --dataset)"
    try:
        found = load_dataset(Path(evaluation.dataset))
    except PrepareError as error:
        return None, f"the data set is not where it was ({error})"
    if found.fingerprint != evaluation.dataset_fingerprint:
        return None, f"the data set {evaluation.dataset} was prepared anew since the evaluation"
    return found, ""


def _pictures(
    bundle: Bundle,
    evaluation: Evaluation,
    data: DataSet | None,
    absence: str,
    seed: int,
    progress: Progress,
) -> _Pictures:
    choice = choose(evaluation.predictions, evaluation.labels, seed)
    if data is None:
        return _Pictures(choice, {}, None, absence, absence)
    sources = _sources(evaluation.predictions, data)
    seen, map_absence = None, ""
    try:
        seen = embedding(bundle, data, sources, strangers=_STRANGERS, seed=seed, progress=progress)
    except EmbeddingError as error:
        map_absence = str(error)
    strangers = [seen.rows[at] for at in seen.strangers] if seen is not None else []
    drawn = draw_pictures(
        bundle, data, sources, {*choice.all, *strangers}, large=choice.mistakes, progress=progress
    )
    return _Pictures(choice, drawn, seen, map_absence, "")


def _sources(predictions: Sequence[Scored], data: DataSet) -> tuple[Source, ...]:
    hashes = {crop.source: crop.sha256 for crop in data.kept}
    return tuple(
        Source(entry.file, entry.label, entry.group, hashes.get(entry.file), entry.near, entry.box_px)
        for entry in predictions
    )


def _curve(
    bundle: Bundle, data: DataSet | None, given: Path | None, measure: bool, seed: int, progress: Progress
) -> LearningCurve | str:
    """The learning curve to show, or why there is none."""
    if given is not None:
        return LearningCurve.read(given)
    if CURVE in bundle.manifest.sha256:
        try:
            return LearningCurve.read(bundle.path / CURVE)
        except LearningCurveError as error:
            return str(error)
    if data is None:
        return "none was recorded, and without the data set none can be measured"
    store = data.root / _CURVE_STORE
    try:
        known = LearningCurve.read(store)
        if (known.dataset_fingerprint, known.seed) == (data.fingerprint, seed):
            return known
    except LearningCurveError:
        pass  # measured below
    return _measured_curve(data, store, seed, progress) if measure else "none was recorded"


def _measured_curve(data: DataSet, store: Path, seed: int, progress: Progress) -> LearningCurve | str:
    try:
        from trainer.scoring.learning_curve import frozen_learning_curve

        measured = frozen_learning_curve(data, store, seed=seed, progress=progress)
        measured.write(store / CURVE)
    except (LearningCurveError, BackboneError, OSError, ImportError) as error:
        return f"none was recorded, and none could be measured: {error}"
    return measured


def _page(
    bundle: Bundle,
    evaluation: Evaluation,
    data: DataSet | None,
    pictures: _Pictures,
    curve: LearningCurve | str,
    faithful: FaithfulnessSection,
) -> dict[str, object]:
    """Everything that the template names."""
    known = _figures(evaluation)
    trust = trust_section(bundle, known, evaluation.part)
    training, training_absence = _training(bundle)
    return {
        "scopewatch": __version__,
        "manifest": bundle.manifest,
        "model_sha256": bundle.sha256,
        "evaluation": evaluation,
        "figures": known,
        "unit": "crop" if any(entry.box_px for entry in evaluation.predictions) else "micrograph",
        "wrong": known.micrographs - sum(known.confusion[at][at] for at in range(len(evaluation.labels))),
        "highest_error": 1 - share_interval(known.micrographs, known.micrographs)[0],
        "limits": _limits(bundle.manifest, known),
        "charts": _charts(evaluation, known, pictures, training, curve, {**trust.charts, **faithful.charts}),
        "curve": curve,
        "pictures": pictures,
        "faithful": faithful,
        "trust": trust,
        "training": training,
        "training_absence": training_absence,
        "counts": class_counts(bundle, data),
        "dropped": dropped_files(data.crops) if data is not None else None,
        "data": data,
        "parts": PARTS,
        "ranked": _ranked,
    }


def _figures(evaluation: Evaluation) -> Figures:
    """As recorded; what an older version did not compute follows from the answers it recorded."""
    if evaluation.figures.calibration is not None and evaluation.figures.selective is not None:
        return evaluation.figures
    return figures(evaluation.predictions, evaluation.labels, evaluation.seed)


def _ranked(entry: Scored, most: int = 4) -> list[tuple[str, float]]:
    """The likeliest classes of an answer, and the right one wherever it stands."""
    known = entry.probabilities or {entry.predicted: entry.probability}
    ranked = sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))
    return [pair for at, pair in enumerate(ranked) if at < most or pair[0] == entry.label]


def _training(bundle: Bundle) -> tuple[TrainingFacts | None, str]:
    try:
        facts = read_training_facts(bundle.path)
    except RunError as error:
        return None, str(error)
    absence = (
        "This bundle was exported by an older version, which did not keep the history of the training in it."
    )
    return facts, "" if facts is not None else absence


def _limits(manifest: Manifest, known: Figures) -> list[str]:
    """What a user must not expect, in sentences."""
    labels, sizes = list(manifest.labels), manifest.training_ranges.pixel_size_nm
    one_of = f"{', '.join(labels[:-1])} or {labels[-1]}"
    said = [f"It answers one of {one_of} to every micrograph, also to one that shows none of them."]
    if manifest.thresholds is not None:
        said = [
            f"It knows {one_of}, and nothing else. It refuses micrographs of other things where it can tell them; "
            "When it abstains says how often it cannot."
        ]
    else:
        said.append("It carries no thresholds: it answers however unsure it is. Look at the probability.")
    if sizes is None:
        said.append("It was trained on files without a calibrated pixel size and knows nothing of sizes.")
    else:
        span = f"from {sizes[0]:.3g} to {sizes[1]:.3g} nm"
        said.append(f"It was trained at pixel sizes {span}; beyond them it was never tried.")
    few = [f"{name} ({one.micrographs})" for name, one in known.classes.items() if one.micrographs < _FEW]
    if few:
        said.append(
            f"Few were scored of: {', '.join(few)}. With fewer than {_FEW} of a class its recall is known only "
            "roughly; see the intervals."
        )
    said.append(
        "Another microscope, detector, preparation or material than those it was trained on may lower every figure "
        "on this page. Score some of your own labelled micrographs before you rely on it."
    )
    return said


def _charts(
    evaluation: Evaluation,
    known: Figures,
    pictures: _Pictures,
    training: TrainingFacts | None,
    curve: LearningCurve | str,
    of_sections: Mapping[str, str],
) -> dict[str, Any]:
    """SVG by name; a chart that has nothing to show is not there. `of_sections` are those drawn elsewhere."""
    from markupsafe import Markup

    predictions, labels = evaluation.predictions, evaluation.labels
    drawn = {
        "confusion": charts.confusion_chart(known, labels),
        "accuracy": charts.accuracy_chart(
            _accuracy_rows(evaluation, known), "accuracy", "Accuracy with intervals"
        ),
    }
    if known.calibration is not None:
        drawn["reliability"] = charts.reliability_chart(known.calibration)
    for number, (way, each) in enumerate(known.slices.items()):
        drawn[f"by {way}"] = charts.slices_chart(each, f"slices-{number}", f"Accuracy by {way}")
    if any(entry.pixel_size_nm is not None for entry in predictions):
        drawn["pixel size"] = charts.pixel_size_chart(predictions, labels)
    if all(entry.probabilities for entry in predictions):
        drawn["probabilities"] = charts.probability_chart(predictions, labels)
    if pictures.map is not None:
        drawn["map"] = _map_chart(pictures.map, predictions, labels)
    if training is not None and all(member.history for member in training.members):
        drawn["history"] = charts.history_chart([(one.folder, one.history) for one in training.members])
    if isinstance(curve, LearningCurve):
        drawn["curve"] = figure_svg(lambda: draw_learning_curve(curve), "curve", "Learning curve")
    if evaluation.cross_validation is not None:
        pooled = evaluation.cross_validation.pooled
        drawn["folds confusion"] = charts.confusion_chart(pooled, tuple(pooled.classes), "folds-confusion")
    drawn |= of_sections
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes what it writes


def _map_chart(seen: EmbeddingMap, predictions: Sequence[Scored], labels: Sequence[str]) -> str:
    shown = [predictions[row] for row in seen.rows]
    numbered = {at: number for number, at in enumerate(seen.strangers, start=1)}
    return charts.embedding_chart(seen.points, shown, labels, numbered)


def _accuracy_rows(
    evaluation: Evaluation, known: Figures
) -> list[tuple[str, float, tuple[float, float] | None]]:
    by_micrograph = known.balanced_accuracy_interval_by_micrograph
    rows: list[tuple[str, float, tuple[float, float] | None]] = [
        ("class-balanced, drawn by group", known.balanced_accuracy, known.balanced_accuracy_interval),
        ("class-balanced, drawn by micrograph", known.balanced_accuracy, by_micrograph),
    ]
    rows += [
        (f"recall of {label}", one.recall, one.recall_interval)
        for label, one in known.classes.items()
        if one.recall is not None
    ]
    folds = evaluation.cross_validation
    if folds is not None:
        pooled = folds.pooled
        rows.append(
            (f"{folds.folds} folds, pooled", pooled.balanced_accuracy, pooled.balanced_accuracy_interval)
        )
        rows += [(f"fold {number}", value, None) for number, value in enumerate(folds.by_fold, start=1)]
    return rows


@cache
def _template() -> Any:  # noqa: ANN401
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "short": short}
    return environment.get_template(_TEMPLATE)
