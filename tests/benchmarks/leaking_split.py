"""How much does a split flatter that deals crops one by one, whatever micrograph they are from?

    python tests/benchmarks/leaking_split.py ../shared/data/labelled/emps [--fine-tune] [--work DIR]

The pictures are cut into quadrants (the origin's convention), and the same network is fitted to as many crops of
each class, drawn four ways: every third crop to test (the origin's rule), by micrograph, by article, and, since the
origin's rule also trains on more pictures, one crop in four of the pictures that the split by article trains on.
Each rule is turned six times, so that under each every crop is held out equally often; what differs is only which
crops are trained on. Prints class-balanced accuracy per held-out crop: mean and standard deviation over the six
turns, and how much each rule flatters against the split by article, with a bootstrap interval over articles. Then
calibration: mean probability minus accuracy, expected calibration error and the debiased one, of the held-out crops
of all turns together, intervals over articles; as the network answers, and after the temperature that fits each
turn's own validation crops, a sixth of all, drawn by the same rule. The last columns take that temperature to where
it would be used: to the networks of the split by article, on articles that they have not seen. Asserts nothing.

Without options, a logistic regression on the pooled features of the frozen pretrained network (six minutes of one
core; seconds, once the features are kept in --work). With --fine-tune, the whole training of `edge-trainer train`
with few epochs, 24 runs. Both go on in --work where they were interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.preprocessing import Preprocessing, TilePlan
from trainer.fitting.backbones import build_backbone
from trainer.fitting.features import shown, whole_features
from trainer.fitting.run_folder import Recipe
from trainer.preparing.crops import DataSet, Order, prepare
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import SplitRule, assign_parts, grouped_folds, read_labels_table
from trainer.scoring.calibration import calibration
from trainer.scoring.intervals import middle_95, resampled_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from trainer.preparing.crops import Crop
    from trainer.preparing.split import LabelsTable
    from trainer.scoring.calibration import Calibration

    Fitted = Callable[[str, Sequence[int], Sequence[int]], NDArray[np.float64]]
    """(name, places that are fitted, places that are asked about) -> logits [asked, classes]."""

CLASSES = ("round", "rod", "faceted")
RULES = ("every-third", "one-in-four", "micrograph", "column:paper_doi")
NAMES = {
    "every-third": "every third crop",
    "one-in-four": "one crop of each training picture",
    "micrograph": "by micrograph",
    "column:paper_doi": "by article",
}
TURNS = 6
RECIPE = Recipe(views=4, epochs=4, batch=16, keep="last")


@dataclass(frozen=True)
class Turn:
    """Which crops (by their place in the data set) are fitted, which are asked about, which set the temperature."""

    fitted: tuple[int, ...]
    held_out: tuple[int, ...]
    validation: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What the network of one turn says: logits [crops, classes]."""

    held_out: NDArray[np.float64]
    validation: NDArray[np.float64]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("emps", type=Path)
    parser.add_argument("--fine-tune", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "leaking_split")
    parser.add_argument("--input-px", type=int, default=448)
    given = parser.parse_args()
    table = read_labels_table(given.emps / "labels.csv", ["paper_doi"])
    dataset = quadrants(given.emps, given.work / f"dataset-{given.input_px}", given.input_px)
    turns = {rule: turned(dataset.kept, rule, table) for rule in RULES}
    turns = with_equal_counts(dataset, turns)
    fit = fine_tuned(dataset, given.work) if given.fine_tune else on_frozen_features(dataset, given.work)
    answers = {
        rule: [asked(fit, f"{rule}-{at}", turn) for at, turn in enumerate(turns[rule])] for rule in RULES
    }
    articles = [table.value(crop.source, "paper_doi") or crop.sha256 or "" for crop in dataset.kept]
    print(report(dataset, turns, answers, articles, given.fine_tune))
    targets = np.array([dataset.labels.index(crop.label) for crop in dataset.kept])
    print(calibration_report(targets, turns, answers, articles))
    print(f"\n`python {shlex.join(sys.argv)}`")


def asked(fit: Fitted, name: str, turn: Turn) -> Answers:
    """Fit one turn's network and ask it about what it has not seen."""
    logits = fit(name, turn.fitted, (*turn.held_out, *turn.validation))
    return Answers(logits[: len(turn.held_out)], logits[len(turn.held_out) :])


def quadrants(emps: Path, out: Path, input_px: int) -> DataSet:
    """All quadrants of the labelled pictures; continued where it was interrupted."""
    rule = Preprocessing(input_px=input_px, tiles=TilePlan(divisions=2))
    return prepare(
        emps,
        out,
        Order(
            preprocessing=rule,
            split=SplitRule(),
            cache_px=input_px,
            classes=CLASSES,
            screening=ScreeningRule(on=False),
        ),
        workers=1,
    )


def turned(crops: Sequence[Crop], rule: str, table: LabelsTable) -> list[Turn]:
    """Six turns of a rule: each crop is held out twice in all (once where it is one in four)."""
    if rule == "every-third":
        split = SplitRule(by=rule)
        parts = [assign_parts(crops, split, turn) for turn in range(TURNS)]
        return [Turn(*(places(part, name) for name in ("train", "test", "validation"))) for part in parts]
    if rule == "one-in-four":
        return one_in_four(crops, turned(crops, RULES[-1], table))
    column = SplitRule(by=rule).group_column
    named = [
        replace(crop, group=(table.value(crop.source, column) if column else "") or crop.group)
        for crop in crops
    ]
    at = {crop.crop_id: place for place, crop in enumerate(crops)}
    turns = []
    for seed in range(TURNS // 3):
        for fold in grouped_folds(named, 3, seed):
            # A quarter of the other two thirds validates: a sixth of all, as under the origin's rule.
            inner = grouped_folds([named[at[name]] for name in fold.train_ids], 4, seed)[0]
            ids = (inner.train_ids, fold.held_out_ids, inner.held_out_ids)
            turns.append(Turn(*(tuple(at[name] for name in part) for part in ids)))
    return turns


def one_in_four(crops: Sequence[Crop], by_article: Sequence[Turn]) -> list[Turn]:
    """Of each picture that the split by article would train on, one crop is held out: another one each time."""
    seen: Counter[str] = Counter()
    turns = []
    for turn in by_article:
        by_picture: defaultdict[str, list[int]] = defaultdict(list)
        for at in (*turn.fitted, *turn.validation):
            by_picture[crops[at].source].append(at)
        held = {mine[seen[picture] % len(mine)] for picture, mine in by_picture.items()}
        seen.update(by_picture.keys())
        every = sorted((*turn.fitted, *turn.validation))
        turns.append(Turn(tuple(at for at in every if at not in held), tuple(sorted(held))))
    return turns


def places(parts: Sequence[str], part: str) -> tuple[int, ...]:
    """Where a part stands."""
    return tuple(at for at, name in enumerate(parts) if name == part)


def with_equal_counts(dataset: DataSet, turns: dict[str, list[Turn]]) -> dict[str, list[Turn]]:
    """As many fitted crops of each class in every turn of every rule: the fewest that any has, drawn at random."""
    labels = [crop.label for crop in dataset.kept]
    tallies = [Counter(labels[at] for at in turn.fitted) for rule in RULES for turn in turns[rule]]
    fewest = {label: min(tally[label] for tally in tallies) for label in CLASSES}
    draw = np.random.default_rng(0)

    def trimmed(turn: Turn) -> Turn:
        chosen: list[int] = []
        for label in CLASSES:
            mine = [at for at in turn.fitted if labels[at] == label]
            chosen += draw.choice(mine, fewest[label], replace=False).tolist()
        return replace(turn, fitted=tuple(sorted(chosen)))

    return {rule: [trimmed(turn) for turn in turns[rule]] for rule in RULES}


def on_frozen_features(dataset: DataSet, work: Path) -> Fitted:
    """Logistic regression on what the pretrained network's last layer makes of a crop, averaged over the crop."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = pooled_features(dataset, work)
    targets = np.array([dataset.labels.index(crop.label) for crop in dataset.kept])

    def fitted(name: str, fit: Sequence[int], ask: Sequence[int]) -> NDArray[np.float64]:
        del name
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        )
        model.fit(features[list(fit)], targets[list(fit)])
        return np.asarray(model.decision_function(features[list(ask)]), dtype=np.float64)

    return fitted


def pooled_features(dataset: DataSet, work: Path) -> NDArray[np.float32]:
    """[crops, channels]; kept in `work`."""
    file = work / f"pooled-{dataset.fingerprint[:16]}.npy"
    if file.is_file():
        return np.asarray(np.load(file))
    backbone = build_backbone(RECIPE.backbone)
    low, high = backbone.value_range
    rows = []
    for at, crop in enumerate(dataset.kept):
        picture = (shown(dataset, crop) * (high - low) + low)[None, :, :, None]
        features = backbone.top(backbone.trunk(picture, training=False), training=False)
        rows.append(np.asarray(features)[0].mean(axis=(0, 1)))
        if at % 100 == 0:
            print(f"features: {at} of {len(dataset.kept)} crops", file=sys.stderr)
    np.save(file, np.stack(rows).astype(np.float32))
    return np.stack(rows).astype(np.float32)


def fine_tuned(dataset: DataSet, work: Path) -> Fitted:
    """The trainer's own staged fine-tuning; every crop is a group of its own, so that any can be left out."""
    from trainer.fitting.training import load_run, train

    crops = tuple(replace(crop, part="train", group=crop.crop_id) for crop in dataset.kept)
    loose = replace(dataset, crops=crops)
    whole: list[tuple[NDArray[np.float16], ...]] = []

    def fitted(name: str, fit: Sequence[int], ask: Sequence[int]) -> NDArray[np.float64]:
        fits = set(fit)
        without = frozenset(crop.crop_id for at, crop in enumerate(crops) if at not in fits)
        run = work / "runs" / name.replace(":", "-")
        train(loose, run, RECIPE, without_groups=without, validate=False, features=work / "views")
        _, network = load_run(run)
        if not whole:  # the frozen part is the same in every run
            whole.append(whole_features(loose, crops, network, work / "whole"))
        answers = [
            np.asarray(network.trainable(whole[0][at][None].astype(np.float32), training=False))[0]
            for at in ask
        ]
        print(f"{name}: fitted and asked", file=sys.stderr)
        return np.array(answers, dtype=np.float64)

    return fitted


def report(
    dataset: DataSet,
    turns: dict[str, list[Turn]],
    answers: dict[str, list[Answers]],
    articles: Sequence[str],
    fine_tune: bool,
) -> str:
    """The table of accuracies in Markdown."""
    targets = np.array([dataset.labels.index(crop.label) for crop in dataset.kept])
    hits = {rule: hit_rate(targets, turns[rule], answers[rule]) for rule in RULES}
    network = "fine-tuned" if fine_tune else "frozen, logistic regression"
    lines = [
        f"{len(dataset.kept)} quadrants of {len({crop.source for crop in dataset.kept})} pictures, "
        f"{len(set(articles))} articles; {RECIPE.backbone} ({network}), {len(turns[RULES[0]][0].fitted)} training "
        f"crops in each of {TURNS} turns.",
        "",
        "| split | test crops with a sibling of their picture in training | ... of their article "
        "| class-balanced accuracy per crop (mean ± standard deviation of the turns) "
        "| flatters by (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for rule in RULES:
        by_turn = [
            class_mean(
                targets[list(turn.held_out)], seen.held_out.argmax(axis=1) == targets[list(turn.held_out)]
            )
            for turn, seen in zip(turns[rule], answers[rule], strict=True)
        ]
        pictures = [crop.source for crop in dataset.kept]
        same = [f"{100 * siblings(turns[rule], names):.0f} %" for names in (pictures, articles)]
        low, high = interval(targets, hits[rule] - hits[RULES[-1]], articles)
        gain = class_mean(targets, hits[rule]) - class_mean(targets, hits[RULES[-1]])
        flatters = (
            "-" if rule == RULES[-1] else f"{100 * gain:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        )
        accuracy = f"{np.mean(by_turn):.3f} ± {np.std(by_turn, ddof=1):.3f}"
        lines.append(f"| {NAMES[rule]} | {same[0]} | {same[1]} | {accuracy} | {flatters} |")
    return "\n".join(lines)


def calibration_report(
    targets: NDArray[np.intp],
    turns: dict[str, list[Turn]],
    answers: dict[str, list[Answers]],
    articles: Sequence[str],
) -> str:
    """The table of calibrations in Markdown, before and after temperature."""
    plain = {rule: [1.0] * TURNS for rule in RULES}
    fitted = {
        rule: [
            temperature(seen.validation, targets[list(turn.validation)])
            for turn, seen in zip(turns[rule], answers[rule], strict=True)
        ]
        for rule in RULES
        if all(turn.validation for turn in turns[rule])
    }
    by_article = turns[RULES[-1]], answers[RULES[-1]]
    lines = [
        "",
        "| split | temperature | accuracy per crop | mean probability minus accuracy | calibration error "
        "| debiased | by article, at this temperature: probability minus accuracy | debiased |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        for temperatures in (plain[rule], fitted.get(rule)):
            if temperatures is None:
                continue
            own = pooled(targets, turns[rule], answers[rule], temperatures, articles)
            moved = pooled(targets, *by_article, temperatures, articles)
            name = f"{np.mean(temperatures):.2f}" if temperatures is not plain[rule] else "-"
            cells = (f"{own.accuracy:.3f}", own.gap, own.error, own.debiased, moved.gap, moved.debiased)
            lines.append(f"| {NAMES[rule]} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Pooled:
    """Calibration of the held-out crops of all turns, each figure with its interval over articles."""

    accuracy: float
    gap: str
    error: str
    debiased: str


def pooled(
    targets: NDArray[np.intp],
    turns: Sequence[Turn],
    answers: Sequence[Answers],
    temperatures: Sequence[float],
    articles: Sequence[str],
) -> Pooled:
    """Every held-out answer of every turn at its temperature; those of one article are one group."""
    places_asked = [at for turn in turns for at in turn.held_out]
    scaled = [
        softmax(seen.held_out / temperature) for seen, temperature in zip(answers, temperatures, strict=True)
    ]
    probabilities = np.concatenate(scaled)
    right = probabilities.argmax(axis=1) == targets[places_asked]
    confidence, groups = probabilities.max(axis=1), [articles[at] for at in places_asked]
    found: Calibration = calibration(confidence, right, groups, 0)
    gaps = np.stack([confidence - right, np.ones(len(right))], axis=1)
    sums = resampled_sums(gaps, groups, 0)
    assert sums is not None
    assert found.debiased_error is not None
    low, high = middle_95(sums[:, 0] / sums[:, 1])
    return Pooled(
        accuracy=float(right.mean()),
        gap=f"{gaps[:, 0].mean():+.3f} ({low:+.3f} to {high:+.3f})",
        error=ranged(found.error, found.error_interval),
        debiased=ranged(found.debiased_error, found.debiased_error_interval),
    )


def ranged(value: float, limits: tuple[float, float] | None) -> str:
    """A figure with its interval."""
    return f"{value:.3f}" if limits is None else f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def temperature(logits: NDArray[np.float64], targets: NDArray[np.intp]) -> float:
    """The one of the lowest negative log-likelihood, among 600 from 0.1 to 20."""
    tried = np.geomspace(0.1, 20, 600)
    losses = [
        -np.log(softmax(logits / one)[np.arange(len(targets)), targets] + 1e-12).mean() for one in tried
    ]
    return float(tried[int(np.argmin(losses))])


def hit_rate(
    targets: NDArray[np.intp], turns: Sequence[Turn], answers: Sequence[Answers]
) -> NDArray[np.float64]:
    """How often each crop was answered rightly, of the times that it was held out."""
    asked, right = np.zeros(len(targets)), np.zeros(len(targets))
    for turn, seen in zip(turns, answers, strict=True):
        held = np.array(turn.held_out)
        asked[held] += 1
        right[held] += seen.held_out.argmax(axis=1) == targets[held]
    return right / asked


def class_mean(targets: NDArray[np.intp], values: NDArray[np.generic]) -> float:
    """The mean over classes of the mean over crops."""
    return float(np.mean([values[targets == label].mean() for label in np.unique(targets)]))


def siblings(turns: Sequence[Turn], names: Sequence[str]) -> float:
    """Share of held-out crops with a fitted crop of the same name."""
    shares = []
    for turn in turns:
        there = {names[at] for at in turn.fitted}
        shares.append(np.mean([names[at] in there for at in turn.held_out]))
    return float(np.mean(shares))


def interval(
    targets: NDArray[np.intp], gains: NDArray[np.float64], articles: Sequence[str], draws: int = 4000
) -> tuple[float, float]:
    """95 % of the class-balanced gains of data sets made of as many articles, drawn with replacement."""
    members = defaultdict(list)
    for at, article in enumerate(articles):
        members[article].append(at)
    rows = [np.array(mine) for mine in members.values()]
    classes = np.unique(targets)
    # [articles, classes]: sums of gains and counts; a drawn data set is a sum of rows.
    sums = np.array([[gains[mine][targets[mine] == label].sum() for label in classes] for mine in rows])
    counts = np.array([[(targets[mine] == label).sum() for label in classes] for mine in rows])
    draw = np.random.default_rng(0)
    chosen = draw.integers(0, len(rows), (draws, len(rows)))
    found = (sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)).mean(axis=1)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
