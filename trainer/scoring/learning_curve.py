"""Measures accuracy against the number of training micrographs: a lab's first question is how many it needs.

Only this module knows how a smaller data set is drawn from a larger one: whole groups, nested (every smaller set is
part of each larger one) and stratified by class; the held-out groups of a fold are the same for all sizes. The data
set's own parts are set aside, as in a cross-validation.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.files import write_durably
from trainer.fitting.backbones import IMAGENET, build_backbone
from trainer.fitting.features import shown
from trainer.preparing.split import grouped_folds
from trainer.scoring.accuracy_curve import (
    CURVE,
    CurvePoint,
    LearningCurve,
    LearningCurveError,
    Measured,
    PowerLaw,
    Setting,
    concluded,
)
from trainer.scoring.cross_validation import cross_validate, fold_scores
from trainer.showing.learning_curve_chart import draw_learning_curve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from trainer.fitting.run_folder import Recipe
    from trainer.preparing.crops import Crop, DataSet

__all__ = [
    "CURVE",
    "CurvePoint",
    "LearningCurve",
    "LearningCurveError",
    "PowerLaw",
    "draw_learning_curve",
    "frozen_learning_curve",
    "full_learning_curve",
    "pooled_features",
]

FRACTIONS: Final = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
_REGULARISATION: Final = 0.01
"""scikit-learn's C on standardised features; on emps 0.001 to 0.1 gave the same curve within half a point."""
_SAVED_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class _Round:
    """One fold of one repeat: groups held out, and the groups to train on by size, smallest first."""

    held_out: frozenset[str]
    nested: tuple[frozenset[str], ...]


def frozen_learning_curve(
    dataset: DataSet,
    store: Path,
    *,
    backbone: str = "efficientnet-lite0",
    weights: str = IMAGENET,
    folds: int = 5,
    repeats: int = 3,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> LearningCurve:
    """Measure with a logistic regression on the pretrained backbone's averaged features.

    The features are computed once and kept in `store`, after which it takes seconds. Fine-tuning reaches more with
    the same micrographs; how the curve bends is alike. A class with fewer groups than `folds` lowers their number.

    Raises:
        LearningCurveError: a class has a single group.
        BackboneError: as `fitting.backbones.build_backbone`.

    """
    kept = dataset.kept
    folds = _possible(kept, folds)
    rounds = [one for repeat in range(repeats) for one in _rounds(kept, folds, fractions, seed + repeat)]
    features = pooled_features(dataset, store, backbone, weights, progress)
    scores = []
    for index, one in enumerate(rounds):
        scores.append(
            [_linear(kept, features, dataset.labels, groups, one.held_out) for groups in one.nested]
        )
        progress("learning curve", index + 1, len(rounds))
    setting = Setting(
        "frozen features", backbone, dataset.fingerprint, dataset.labels, folds, repeats, seed, _now()
    )
    return concluded(setting, _measured(kept, rounds, scores, fractions))


def full_learning_curve(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    *,
    folds: int = 5,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> LearningCurve:
    """Measure with real training: every fraction of every fold is a run of its own, scored as the agent would.

    All micrographs of the other folds are an ordinary cross-validation, done (or found) in `run`; the smaller sets
    lie in `run`/curve and share its views. Each is trained for as many steps as the whole, so that less data does
    not mean less training. What is finished is not computed again.

    Raises:
        LearningCurveError: a class has a single group.
        RunError: `run` holds another question.

    """
    whole = replace(dataset, crops=tuple(replace(crop, part="train") for crop in dataset.kept))
    recipe = recipe.model_copy(update={"keep": "last"})
    folds = _possible(whole.train, folds)
    rounds = _rounds(whole.train, folds, fractions, seed)
    complete = cross_validate(dataset, run, recipe, folds=folds, seed=seed, progress=progress)
    scores = []
    for index, one in enumerate(rounds):
        smaller = [
            _point_accuracy(whole, run, recipe, index, one, groups, seed, progress)
            for groups in one.nested[:-1]
        ]
        scores.append([*smaller, complete.by_fold[index]])
    setting = Setting(
        "fine-tuning", recipe.backbone, dataset.fingerprint, dataset.labels, folds, 1, seed, _now()
    )
    return concluded(setting, _measured(whole.train, rounds, scores, fractions))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _possible(crops: Sequence[Crop], folds: int) -> int:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for crop in crops:
        groups[crop.label].add(crop.group)
    label, fewest = min(((label, len(names)) for label, names in groups.items()), key=lambda pair: pair[1])
    if fewest < 2:
        raise LearningCurveError(
            f"class {label!r} has a single group: a learning curve needs at least 2 of each class, one to train "
            "on and one to hold out; add micrographs of another sample or session"
        )
    return min(folds, fewest)


def _rounds(crops: Sequence[Crop], folds: int, fractions: Sequence[float], seed: int) -> list[_Round]:
    by_group: defaultdict[str, list[Crop]] = defaultdict(list)
    for crop in crops:
        by_group[crop.group].append(crop)
    rounds = []
    for fold in grouped_folds(crops, folds, seed):
        held = set(fold.held_out_ids)
        held_out = frozenset(crop.group for crop in crops if crop.crop_id in held)
        rest = {group: members for group, members in by_group.items() if group not in held_out}
        rounds.append(_Round(held_out, _nested(rest, sorted({*fractions, 1.0}), seed)))
    return rounds


def _nested(
    groups: dict[str, list[Crop]], fractions: Sequence[float], seed: int
) -> tuple[frozenset[str], ...]:
    """Sets of groups with about these fractions of the micrographs; the smallest has every class."""
    order = _stratified_order(groups, seed)
    sizes = np.cumsum([_micrographs(groups[group]) for group in order])
    classes = {crop.label for members in groups.values() for crop in members}
    firsts = [
        next(
            at for at, name in enumerate(order, start=1) if any(crop.label == label for crop in groups[name])
        )
        for label in classes
    ]
    ends = [int(np.searchsorted(sizes, fraction * sizes[-1] - 1e-9)) + 1 for fraction in fractions]
    return tuple(frozenset(order[: max(end, *firsts)]) for end in ends)


def _stratified_order(groups: dict[str, list[Crop]], seed: int) -> list[str]:
    """Groups in a drawn order whose every beginning has the classes in about their proportions."""
    totals = Counter(crop.label for members in groups.values() for crop in members)
    waiting = sorted(groups, key=lambda name: hashlib.sha256(f"curve\0{seed}\0{name}".encode()).digest())
    taken: Counter[str] = Counter()
    order = []
    while waiting:
        there = {crop.label for name in waiting for crop in groups[name]}
        behind = min(sorted(there), key=lambda label: taken[label] / totals[label])
        group = next(name for name in waiting if any(crop.label == behind for crop in groups[name]))
        waiting.remove(group)
        taken.update(crop.label for crop in groups[group])
        order.append(group)
    return order


def _micrographs(crops: Sequence[Crop]) -> int:
    return len({crop.source for crop in crops})


def _measured(
    crops: Sequence[Crop],
    rounds: Sequence[_Round],
    scores: Sequence[Sequence[float]],
    fractions: Sequence[float],
) -> list[Measured]:
    """A point for each fraction; of several with the same micrographs (small data sets), the largest."""
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for crop in crops:
        sources[crop.group].add(crop.source)
    points: list[Measured] = []
    for at, fraction in enumerate(sorted({*fractions, 1.0})):
        nested = [one.nested[at] for one in rounds]
        counts = tuple(sum(len(sources[group]) for group in groups) for groups in nested)
        if points and points[-1].micrographs == counts:
            points.pop()
        values = tuple(float(score[at]) for score in scores)
        points.append(Measured(fraction, counts, tuple(map(len, nested)), values))
    return points


def _linear(
    crops: Sequence[Crop],
    features: NDArray[np.float32],
    labels: Sequence[str],
    train_groups: frozenset[str],
    held_out: frozenset[str],
) -> float:
    """Class-balanced accuracy of a logistic regression; the crops of one micrograph answer together."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.array([crop.group in train_groups for crop in crops])
    asked = [index for index, crop in enumerate(crops) if crop.group in held_out]
    targets = np.array([labels.index(crop.label) for crop in crops])
    head = LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), head).fit(features[rows], targets[rows])
    answers: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    true = {crops[index].source: targets[index] for index in asked}
    for index, probabilities in zip(asked, fitted.predict_proba(features[asked]), strict=True):
        answers[crops[index].source].append(probabilities)
    right: defaultdict[int, list[bool]] = defaultdict(list)
    for source, several in answers.items():
        right[true[source]].append(int(np.mean(several, axis=0).argmax()) == true[source])
    return float(np.mean([np.mean(hits) for hits in right.values()]))


def pooled_features(
    dataset: DataSet,
    store: Path,
    backbone: str = "efficientnet-lite0",
    weights: str = IMAGENET,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> NDArray[np.float32]:
    """What the pretrained backbone makes of every kept crop, averaged over the field: [crops, channels].

    Kept in `store`/pooled.npz; an interrupted computation goes on where it was.
    """
    kept, file = dataset.kept, store / "pooled.npz"
    content = hashlib.sha256(Path(weights).read_bytes()).hexdigest() if Path(weights).is_file() else weights
    key = json.dumps([dataset.fingerprint, backbone, content])
    rows = _stored(file, key)
    if len(rows) < len(kept):
        network = _pooling(backbone, weights)
        store.mkdir(parents=True, exist_ok=True)
        for index, crop in enumerate(kept[len(rows) :], start=len(rows) + 1):
            rows.append(network(shown(dataset, crop)))
            if index % _SAVED_EVERY == 0 or index == len(kept):
                _store(file, key, rows)
            progress("pretrained features", index, len(kept))
    return np.stack(rows)


def _pooling(backbone: str, weights: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import tensorflow as tf

    built = build_backbone(backbone, weights)
    low, high = built.value_range

    def pooled(picture: Any) -> Any:  # noqa: ANN401
        features = built.top(built.trunk(picture, training=False), training=False)
        return tf.reduce_mean(tf.cast(features, tf.float32), axis=(1, 2))

    spec = tf.TensorSpec((1, None, None, 1), tf.float32)
    traced = tf.function(pooled, input_signature=(spec,))
    return lambda grey: np.asarray(traced((grey * (high - low) + low)[None, :, :, None].astype(np.float32)))[
        0
    ]


def _stored(file: Path, key: str) -> list[NDArray[np.float32]]:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as there:
            return list(there["rows"]) if str(there["key"]) == key else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []  # none yet, or damaged: computed again


def _store(file: Path, key: str, rows: Sequence[NDArray[np.float32]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, key=np.array(key), rows=np.stack(rows))
    write_durably(file, buffer.getvalue())


def _point_accuracy(
    dataset: DataSet,
    run: Path,
    recipe: Recipe,
    fold: int,
    one: _Round,
    groups: frozenset[str],
    seed: int,
    progress: Callable[[str, int, int], None],
) -> float:
    """Train on some of a fold's groups and score what the fold holds out."""
    everything = frozenset(crop.group for crop in dataset.train)
    count = sum(crop.group in groups for crop in dataset.train)
    all_count = sum(crop.group not in one.held_out for crop in dataset.train)
    folder = run / "curve" / f"fold-{fold}-crops-{count}"
    scores = fold_scores(
        dataset,
        folder,
        _longer(recipe, count, all_count),
        one.held_out,
        unused=everything - one.held_out - groups,
        seed=seed,
        features=run / "features",
        progress=progress,
    )
    shutil.rmtree(folder / "bundle", ignore_errors=True)  # scored: nothing asks for it again
    return scores.balanced_accuracy


def _longer(recipe: Recipe, count: int, all_count: int) -> Recipe:
    """The recipe with as many more epochs as it takes to make the steps that all crops would make."""
    steps, all_steps = max(1, count // recipe.batch), max(1, all_count // recipe.batch)
    epochs = {
        name: math.ceil(getattr(recipe, name) * all_steps / steps) for name in ("head_epochs", "epochs")
    }
    return recipe.model_copy(update=epochs)
