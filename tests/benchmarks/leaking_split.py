"""How much does a split flatter that deals crops one by one, whatever micrograph they are from?

    python tests/benchmarks/leaking_split.py ../shared/data/labelled/emps [--fine-tune] [--work DIR]

The pictures are cut into quadrants (the origin's convention), and the same network is fitted to as many crops of
each class, drawn four ways: every third crop to test (the origin's rule), by micrograph, by article, and, since the
origin's rule also trains on more pictures, one crop in four of the pictures that the split by article trains on.
Each rule is turned six times, so that under each every crop is held out equally often; what differs is only which
crops are trained on. Prints class-balanced accuracy per held-out crop: mean and standard deviation over the six
turns, and how much each rule flatters against the split by article, with a bootstrap interval over articles.
Asserts nothing.

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from trainer.preparing.crops import Crop
    from trainer.preparing.split import LabelsTable

    Fitted = Callable[[str, Sequence[int], Sequence[int]], NDArray[np.intp]]

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
    """Which crops (by their place in the data set) are fitted, which are asked about."""

    fitted: tuple[int, ...]
    held_out: tuple[int, ...]


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
        rule: [fit(f"{rule}-{at}", turn.fitted, turn.held_out) for at, turn in enumerate(turns[rule])]
        for rule in RULES
    }
    articles = [table.value(crop.source, "paper_doi") or crop.sha256 or "" for crop in dataset.kept]
    print(report(dataset, turns, answers, articles, given.fine_tune))


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
        # What the rule calls validation is left out: nothing is chosen here.
        return [Turn(places(part, "train"), places(part, "test")) for part in parts]
    if rule == "one-in-four":
        return one_in_four(crops, turned(crops, RULES[-1], table))
    column = SplitRule(by=rule).group_column
    named = [
        replace(crop, group=(table.value(crop.source, column) if column else "") or crop.group)
        for crop in crops
    ]
    at = {crop.crop_id: place for place, crop in enumerate(crops)}
    return [
        Turn(tuple(at[name] for name in fold.train_ids), tuple(at[name] for name in fold.held_out_ids))
        for seed in range(TURNS // 3)
        for fold in grouped_folds(named, 3, seed)
    ]


def one_in_four(crops: Sequence[Crop], by_article: Sequence[Turn]) -> list[Turn]:
    """Of each picture that the split by article would train on, one crop is held out: another one each time."""
    seen: Counter[str] = Counter()
    turns = []
    for turn in by_article:
        by_picture: defaultdict[str, list[int]] = defaultdict(list)
        for at in turn.fitted:
            by_picture[crops[at].source].append(at)
        held = {mine[seen[picture] % len(mine)] for picture, mine in by_picture.items()}
        seen.update(by_picture.keys())
        turns.append(Turn(tuple(at for at in turn.fitted if at not in held), tuple(sorted(held))))
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
        return Turn(tuple(sorted(chosen)), turn.held_out)

    return {rule: [trimmed(turn) for turn in turns[rule]] for rule in RULES}


def on_frozen_features(dataset: DataSet, work: Path) -> Fitted:
    """Logistic regression on what the pretrained network's last layer makes of a crop, averaged over the crop."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = pooled_features(dataset, work)
    targets = np.array([dataset.labels.index(crop.label) for crop in dataset.kept])

    def fitted(name: str, fit: Sequence[int], held_out: Sequence[int]) -> NDArray[np.intp]:
        del name
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        )
        model.fit(features[list(fit)], targets[list(fit)])
        return np.asarray(model.predict(features[list(held_out)]), dtype=np.intp)

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

    def fitted(name: str, fit: Sequence[int], held_out: Sequence[int]) -> NDArray[np.intp]:
        fits = set(fit)
        without = frozenset(crop.crop_id for at, crop in enumerate(crops) if at not in fits)
        run = work / "runs" / name.replace(":", "-")
        train(loose, run, RECIPE, without_groups=without, validate=False, features=work / "views")
        _, network = load_run(run)
        if not whole:  # the frozen part is the same in every run
            whole.append(whole_features(loose, crops, network, work / "whole"))
        answers = [
            int(np.argmax(network.trainable(whole[0][at][None].astype(np.float32), training=False)))
            for at in held_out
        ]
        print(f"{name}: fitted and asked", file=sys.stderr)
        return np.array(answers, dtype=np.intp)

    return fitted


def report(
    dataset: DataSet,
    turns: dict[str, list[Turn]],
    answers: dict[str, list[NDArray[np.intp]]],
    articles: Sequence[str],
    fine_tune: bool,
) -> str:
    """The table in Markdown, with the command that made it."""
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
            class_mean(targets[list(turn.held_out)], seen == targets[list(turn.held_out)])
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
    return "\n".join([*lines, "", f"`python {shlex.join(sys.argv)}`"])


def hit_rate(
    targets: NDArray[np.intp], turns: Sequence[Turn], answers: Sequence[NDArray[np.intp]]
) -> NDArray[np.float64]:
    """How often each crop was answered rightly, of the times that it was held out."""
    asked, right = np.zeros(len(targets)), np.zeros(len(targets))
    for turn, seen in zip(turns, answers, strict=True):
        held = np.array(turn.held_out)
        asked[held] += 1
        right[held] += seen == targets[held]
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
