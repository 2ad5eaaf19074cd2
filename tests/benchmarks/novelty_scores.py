"""Why novelty is computed as it is: ways to tell strange micrographs from those of the training's kind.

    python tests/benchmarks/novelty_scores.py FOLDS DATASET STRANGERS [--work DIR] [--each 10] [--seed 7]

FOLDS is the run of `edge-trainer crossvalidate` on DATASET, STRANGERS a folder with a sub-folder of pictures a
kind; simulated ones (`edge_agent.simulated_strangers`) come in addition. Statistics are of each fold's training
micrographs. Good pictures are the data set's training micrographs, each seen by the fold that held it out (the
other parts are left alone, as by `edge-trainer trust --folds`); strangers are seen by every fold. Pictures that
the agent refuses without any score (blank, saturated, by guards) are left in: here the score is asked alone.

Compared are Mahalanobis distance in k principal components, the same averaged over the first 1 to 24 (the
product's), distance to the nearest training pictures in 16 components, and their cosine; on four feature maps
(the narrowest at an eighth, a sixteenth and a thirty-second of the input's size, the second of which is the
product's, and the last); of means alone or of means and logarithms of spreads; beside maximum probability,
energy, and novelty and confidence together. Prints Markdown tables, asserts nothing: area under the ROC curve,
and the share refused where 95 % of good pictures are accepted, the worst kinds first, because a score is as
good as its worst kind (in brackets the 95 % interval of its area). The product's way was chosen by such a table:
strangers that had no part in the choice may fare worse. Five minutes of processor time, of which all but seconds
are kept in DIR for another run.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.decision import doubts
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.preprocessing import cut_tiles
from edge_agent.simulated_strangers import STRANGERS, draw_stranger
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_head import PROBABILITIES
from trainer.exporting.head_walk import find_logits
from trainer.exporting.node_writer import NodeWriter
from trainer.exporting.onnx_graph import OnnxGraph, measured_shapes
from trainer.fitting.run_folder import read_record
from trainer.preparing.crops import DataSet, load_dataset
from trainer.scoring.evaluation import readable, sources_of
from trainer.trusting.feature_tap import bottlenecks, feature_tap, pooled_nodes
from trainer.trusting.novelty import MOST_COMPONENTS, novelty_statistics
from trainer.trusting.operating_point import Goal, Judged, choose_thresholds, upper_limit
from trainer.trusting.strangers import auroc
from trainer.trusting.temperature import fit_temperature, tempered
from trainer.trusting.trusted_graph import bare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Score = Callable[[Values, Values], Callable[[Values, Values], Values]]
    """Mean and spread [n, channels] of training pictures to a function of others' to their scores [n]."""

ACCEPTED = 0.95
SIDE_PX = 1024
DRAWS = 500
COMPONENTS = (8, 12, 16, 24, 32)
NEIGHBOUR_COMPONENTS = 16
BOTH = "mean, log spread"
AVERAGED = f"Mahalanobis, averaged over 1 to {MOST_COMPONENTS} components"
PRODUCT = (AVERAGED, "1/16", BOTH)
SUM, EITHER = "novelty and confidence: sum of doubts", "novelty and confidence: either, at half the budget"
AT_A_GLANCE = (
    ("maximum probability", "", ""),
    ("energy", "", ""),
    ("Mahalanobis, 8 components", "1/16", BOTH),
    ("Mahalanobis, 16 components", "1/16", BOTH),
    ("Mahalanobis, 32 components", "1/16", BOTH),
    (f"nearest 5, {NEIGHBOUR_COMPONENTS} components", "1/16", BOTH),
    ("cosine, nearest 5", "last", "mean"),
    (AVERAGED, "1/8", BOTH),
    PRODUCT,
    (AVERAGED, "1/16", "mean"),
    (AVERAGED, "1/32", BOTH),
    (AVERAGED, "last", BOTH),
    (EITHER, "1/16", BOTH),
    (SUM, "1/16", BOTH),
)
"""What the README shows: the product's way, and what one change to it does."""


@dataclass(frozen=True, slots=True)
class Picture:
    kind: str
    """"" for one of the data set's."""
    group: str
    label: str
    asked: bool
    """Whether it counts as a good picture where it is held out."""


@dataclass(frozen=True, slots=True)
class Network:
    """A fold's bundle that also gives mean and spread of several maps."""

    bundle: Bundle
    held_out: frozenset[str]
    maps: tuple[str, ...]
    outputs: tuple[str, ...]
    session: Any


@dataclass(frozen=True, slots=True)
class Seen:
    """What every network made of every picture: arrays begin with [folds, pictures]."""

    pictures: list[Picture]
    held_out: list[frozenset[str]]
    labels: tuple[str, ...]
    probabilities: Values
    logits: Values
    maps: dict[str, tuple[Values, Values]]
    """Mean and spread of each map."""

    def training(self, fold: int) -> NDArray[np.intp]:
        return self._where(lambda one: not one.kind and one.group not in self.held_out[fold])

    def good(self, fold: int) -> NDArray[np.intp]:
        return self._where(lambda one: one.asked and one.group in self.held_out[fold])

    def strange(self, kind: str) -> NDArray[np.intp]:
        return self._where(lambda one: one.kind == kind)

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(one.kind for one in self.pictures if one.kind))

    def _where(self, wanted: Callable[[Picture], bool]) -> NDArray[np.intp]:
        return np.flatnonzero([wanted(one) for one in self.pictures])


@dataclass(frozen=True, slots=True)
class Row:
    way: tuple[str, str, str]
    """Score, map, and what of it."""
    area: dict[str, float]
    refused: dict[str, float]
    accepted: float
    good: Values
    strange: dict[str, Values]
    """The score of good pictures and of each kind's [folds, pictures]."""


def main() -> None:
    """Print the tables."""
    given = arguments()
    dataset = load_dataset(given.dataset)
    networks = [opened(folder) for folder in sorted(given.folds.glob("fold-*"))]
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        seen = observed(networks, dataset, given.strangers, given.each, given.seed, work)
    simulated = [kind for kind in seen.kinds if kind.startswith("simulated ")]
    real = [kind for kind in seen.kinds if kind not in simulated]
    good = sum(len(seen.good(fold)) for fold in range(len(networks)))
    counts = ", ".join(f"{kind} {len(seen.strange(kind))}" for kind in seen.kinds)
    print(f"{good} held-out micrographs; strangers, by each of {len(networks)} networks: {counts}\n")
    rows = [*of_confidence(seen), *of_novelty(seen), *of_both(seen)]
    shown = [row for way in AT_A_GLANCE for row in rows if row.way == way]
    groups = held_out(seen, np.array([[one.group for one in seen.pictures]] * len(networks)))
    print_table(shown, real, [], [interval(row, real, groups) for row in shown])
    print("\nEverything, the best worst kind first\n")
    rows.sort(key=lambda row: -min(row.area[kind] for kind in real))
    print_table(rows, real, simulated)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folds", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("strangers", type=Path)
    parser.add_argument("--work", type=Path, help="where what the networks saw is kept")
    parser.add_argument("--each", type=int, default=10, help="simulated pictures of each kind")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def opened(folder: Path) -> Network:
    """One fold, with mean and spread of four maps as outputs."""
    import onnx

    bundle = open_bundle(folder / "bundle")
    model = bare_model(bundle)
    maps = named_maps(model, bundle.manifest.preprocessing.input_px)
    outputs = [PROBABILITIES, find_logits(OnnxGraph(model))]
    for at, tensor in enumerate(maps.values()):
        write = NodeWriter(f"tap{at}", OnnxGraph(model).opset)
        outputs += pooled_nodes(write, tensor)
        model.graph.node.extend(write.nodes)
        model.graph.initializer.extend(write.constants)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    held_out = frozenset(read_record(folder).held_out)
    return Network(bundle, held_out, tuple(maps), tuple(outputs), onnx_session(model.SerializeToString()))


def named_maps(model: Any, input_px: int) -> dict[str, str]:
    """Tensors by what the tables call them."""
    passed = bottlenecks(model, PROBABILITIES)
    shapes = measured_shapes(model, passed, input_px)
    maps = [(shapes[name], name) for name in passed if len(shapes[name]) == 4 and shapes[name][2] > 1]
    maps = [(shape, name) for shape, name in maps if shape[1] >= 8]

    def narrowest(stride: int) -> str:
        there = [(shape[1], at) for at, (shape, _) in enumerate(maps) if shape[2] == input_px // stride]
        return maps[min(there)[1]][1]

    return {
        "1/8": narrowest(8),
        PRODUCT[1]: feature_tap(model, PROBABILITIES, input_px),
        "1/32": narrowest(32),
        "last": maps[-1][1],
    }


def observed(
    networks: list[Network], dataset: DataSet, strangers: Path, each: int, seed: int, work: Path
) -> Seen:
    """Show every picture to every network, unless `work` knows already what came of it."""
    files = sorted(file for file in strangers.glob("*/*") if file.is_file())
    asked = (dataset.fingerprint, *(one.bundle.sha256 for one in networks), *files, each, seed)
    store = work / f"seen-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.npz"
    if not store.exists():
        shown = [
            (picture, *outputs)
            for picture, inputs in pictures(networks[0].bundle, dataset, files, each, seed)
            for outputs in [asked_of(networks, inputs)]
        ]
        table = np.array([[str(value) for value in picture_row(one[0])] for one in shown])
        arrays = {
            f"{at}": np.stack([one[1 + at] for one in shown], axis=1) for at in range(len(shown[0]) - 1)
        }
        np.savez(store, table=table, **arrays)
    with np.load(store) as stored:
        found = [
            Picture(kind, group, label, asked == "True") for kind, group, label, asked in stored["table"]
        ]
        probabilities, logits, *pooled = (stored[f"{at}"].astype(float) for at in range(2 + 2 * 4))
    return Seen(
        pictures=found,
        held_out=[one.held_out for one in networks],
        labels=networks[0].bundle.manifest.labels,
        probabilities=probabilities,
        logits=logits,
        maps=dict(zip(networks[0].maps, zip(pooled[::2], pooled[1::2], strict=True), strict=True)),
    )


def picture_row(picture: Picture) -> tuple[str, str, str, bool]:
    return picture.kind, picture.group, picture.label, picture.asked


def pictures(
    bundle: Bundle, dataset: DataSet, files: list[Path], each: int, seed: int
) -> Iterator[tuple[Picture, NDArray[np.float32]]]:
    """The data set's, the given and the simulated ones, as network inputs [1, 1, rows, columns]."""
    rule = bundle.manifest.preprocessing
    asked = {source.file for source in sources_of(dataset.train)}
    sources = sources_of(dataset.kept)
    for at, (source, micrograph) in enumerate(readable(dataset, sources)):
        tell(f"{at + 1} of {len(sources)} micrographs")
        if not isinstance(micrograph, str):
            picture = Picture("", source.group, source.label, source.file in asked)
            yield picture, only_input(cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule))
    for file in files:
        try:
            micrograph = read_micrograph(file)
        except UnusableFile as error:
            print(f"not read: {error}")
            continue
        picture = Picture(file.parent.name, "", "", asked=False)
        yield picture, only_input(cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule))
    for number, kind in enumerate(STRANGERS):
        tell(f"simulated {kind}")
        for index in range(each):
            pixels = draw_stranger(kind, np.random.default_rng([seed, number, index]), SIDE_PX)
            yield Picture(f"simulated {kind}", "", "", asked=False), only_input(cut_tiles(pixels, None, rule))


def only_input(tiles: Any) -> NDArray[np.float32]:
    if len(tiles.tiles) > 1:
        sys.exit("the bundles cut several boxes of a micrograph: this compares descriptions of one")
    return tiles.tiles[0].values[None]


def tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"{what:50}", end="\r", file=sys.stderr)


def asked_of(networks: list[Network], inputs: NDArray[np.float32]) -> list[Values]:
    """Every output, [folds, channels]."""
    feeds = {networks[0].bundle.manifest.tensors.input.name: inputs}
    answers = [one.session.run(one.outputs, feeds) for one in networks]
    return [np.array([value.reshape(-1) for value in values]) for values in zip(*answers, strict=True)]


def of_confidence(seen: Seen) -> Iterator[Row]:
    """The baselines, at the temperature that the product would fit."""
    probabilities, logits = calibrated(seen)
    yield row_of(("maximum probability", "", ""), seen, -probabilities.max(axis=2))
    top = logits.max(axis=2)
    energy = -(top + np.log(np.exp(logits - top[:, :, None]).sum(axis=2)))
    yield row_of(("energy", "", ""), seen, energy)


def calibrated(seen: Seen) -> tuple[Values, Values]:
    """Probabilities and logits at the temperature of the held-out answers."""
    held = [(fold, at) for fold in range(len(seen.held_out)) for at in seen.good(fold)]
    temperature = fit_temperature(
        [seen.probabilities[fold, at][None] for fold, at in held],
        [seen.labels.index(seen.pictures[at].label) for _, at in held],
        [seen.pictures[at].group for _, at in held],
    )
    shape = seen.probabilities.shape
    warm = tempered(seen.probabilities.reshape(-1, shape[2]), temperature).reshape(shape)
    return warm, seen.logits / temperature


def of_novelty(seen: Seen) -> Iterator[Row]:
    """Every score on every map, of means alone and with spreads."""
    for where in seen.maps:
        for what in ("mean", BOTH):
            for name, score in scores().items():
                yield row_of((name, where, what), seen, away(seen, where, what, score))


def scores() -> dict[str, Score]:
    """All that measure how far a description is from the training's."""
    found: dict[str, Score] = {f"Mahalanobis, {k} components": partial(mahalanobis, k) for k in COMPONENTS}
    found[AVERAGED] = product
    for count in (1, 5):
        found[f"nearest {count}, {NEIGHBOUR_COMPONENTS} components"] = partial(nearest, count)
        found[f"cosine, nearest {count}"] = partial(cosine, count)
    return found


def away(seen: Seen, where: str, what: str, score: Score) -> Values:
    """A score of every picture by every fold, [folds, pictures]."""
    mean, spread = seen.maps[where]
    if what != BOTH:
        spread = np.ones_like(spread)  # what never changes is left out
    found = []
    for fold in range(len(seen.held_out)):
        training = seen.training(fold)
        found.append(score(mean[fold, training], spread[fold, training])(mean[fold], spread[fold]))
    return np.array(found)


def product(mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    """As bundles compute it."""
    return novelty_statistics("", mean, spread, micrographs=len(mean)).novelty


def mahalanobis(components: int, mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    whitened = whitening(components, mean, spread)
    return lambda mean, spread: np.linalg.norm(whitened(mean, spread), axis=1)


def nearest(count: int, mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    """Mean distance to the nearest training pictures."""
    whitened = whitening(NEIGHBOUR_COMPONENTS, mean, spread)
    known = whitened(mean, spread)

    def score(mean: Values, spread: Values) -> Values:
        apart = np.array([np.linalg.norm(known - one, axis=1) for one in whitened(mean, spread)])
        return np.sort(apart, axis=1)[:, :count].mean(axis=1)

    return score


def cosine(count: int, mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    """One less the mean cosine to the nearest training pictures, of all standardised channels."""
    standard = standardising(mean, spread)
    known = unit(standard(mean, spread))

    def score(mean: Values, spread: Values) -> Values:
        likeness = unit(standard(mean, spread)) @ known.T
        return 1 - np.sort(likeness, axis=1)[:, -count:].mean(axis=1)

    return score


def unit(rows: Values) -> Values:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def whitening(components: int, mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    """Principal components of training pictures, each of deviation 1."""
    standard = standardising(mean, spread)
    _, singular, axes = np.linalg.svd(standard(mean, spread), full_matrices=False)
    projection = axes[:components].T / (singular[:components] / math.sqrt(len(mean) - 1))
    return lambda mean, spread: standard(mean, spread) @ projection


def standardising(mean: Values, spread: Values) -> Callable[[Values, Values], Values]:
    floor = 1e-3 * float(spread.mean())  # the median of sparse features is 0

    def described(mean: Values, spread: Values) -> Values:
        return np.concatenate([mean, np.log(spread + floor)], axis=1)

    known = described(mean, spread)
    centre, scale = known.mean(axis=0), known.std(axis=0)
    scale[scale <= 1e-6 * scale.max()] = math.inf
    return lambda mean, spread: (described(mean, spread) - centre) / scale


def of_both(seen: Seen) -> Iterator[Row]:
    """The product's novelty and the confidence together."""
    confidence = calibrated(seen)[0].max(axis=2)
    novelty = away(seen, *PRODUCT[1:], product)
    good_confidence, good_novelty = held_out(seen, confidence), held_out(seen, novelty)
    half = 1 - (1 - ACCEPTED) / 2
    least, most = -upper_limit(-good_confidence, half), upper_limit(good_novelty, half)
    refused = (confidence < least) | (novelty > most)
    # Ranked by the rarer of the two among good pictures.
    rarity = np.maximum(rank(-good_confidence, -confidence), rank(good_novelty, novelty))
    yield row_of((EITHER, *PRODUCT[1:]), seen, rarity, refused)
    judged = [
        Judged(float(sure), float(strange), 0.0, passes=True, right=True)
        for sure, strange in zip(good_confidence, good_novelty, strict=True)
    ]
    limits = choose_thresholds(judged, Goal(ACCEPTED))
    used = np.array(
        [
            [sum(doubts(float(strange), float(sure), limits)) for strange, sure in zip(*fold, strict=True)]
            for fold in zip(novelty, confidence, strict=True)
        ]
    )
    yield row_of((SUM, *PRODUCT[1:]), seen, used, used > 1)


def rank(good: Values, values: Values) -> Values:
    """Share of good pictures whose value is below."""
    return np.searchsorted(np.sort(good), values) / len(good)


def held_out(seen: Seen, values: NDArray[Any]) -> NDArray[Any]:
    """Of the good pictures, each by the fold that did not see it."""
    return np.concatenate([values[fold, seen.good(fold)] for fold in range(len(values))])


def row_of(
    way: tuple[str, str, str], seen: Seen, values: Values, refused: NDArray[np.bool_] | None = None
) -> Row:
    """Judge a score [folds, pictures] kind by kind; where it does not say what is refused, its 95 % do."""
    good = held_out(seen, values)
    if refused is None:
        refused = values > upper_limit(good, ACCEPTED)
    strange = {kind: values[:, seen.strange(kind)] for kind in seen.kinds}
    return Row(
        way,
        area={kind: area(good, those) for kind, those in strange.items()},
        refused={kind: float(refused[:, seen.strange(kind)].mean()) for kind in seen.kinds},
        accepted=1 - float(held_out(seen, refused).mean()),
        good=good,
        strange=strange,
    )


def area(good: Values, strange: Values) -> float:
    return auroc(list(good), list(strange.ravel())) or 0.0


def interval(row: Row, kinds: list[str], groups: NDArray[np.str_]) -> tuple[float, float]:
    """95 % interval of the worst kind's area: good pictures drawn again by article, strange ones one by one."""
    rng = np.random.default_rng(0)
    names = np.unique(groups)
    members = {name: np.flatnonzero(groups == name) for name in names}
    found = []
    for _ in range(DRAWS):
        good = row.good[np.concatenate([members[name] for name in rng.choice(names, len(names))])]
        drawn = [row.strange[kind] for kind in kinds]
        found.append(
            min(area(good, those[:, rng.integers(0, those.shape[1], those.shape[1])]) for those in drawn)
        )
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def print_table(
    rows: list[Row],
    real: list[str],
    simulated: list[str],
    intervals: list[tuple[float, float]] | None = None,
) -> None:
    """One line a way: its worst kinds, then each kind."""
    groups = {"real": real, **({"simulated": simulated} if simulated else {})}
    kinds = [kind for group in groups.values() for kind in group]
    heads = [f"worst {name}: area | refused" for name in groups]
    names = [kind.removeprefix("simulated ").replace("_", " ") for kind in kinds]
    print(f"| score | map | of it | {' | '.join(heads)} | good accepted | {' | '.join(names)} |")
    print("|---" * (4 + 2 * len(groups) + len(kinds)) + "|")
    for at, row in enumerate(rows):
        sure = "" if intervals is None else " ({:.2f} to {:.2f})".format(*intervals[at])
        worst = [
            f"{min(row.area[kind] for kind in group):.3f}{sure} | {min(row.refused[kind] for kind in group):.0%}"
            for group in groups.values()
        ]
        each = [f"{row.area[kind]:.2f} {row.refused[kind]:.0%}" for kind in kinds]
        print(f"| {' | '.join(row.way)} | {' | '.join(worst)} | {row.accepted:.1%} | {' | '.join(each)} |")


if __name__ == "__main__":
    main()
