"""Is a finer map possible, and is it a better one?

    python tests/benchmarks/finer_maps.py BUNDLE DATASET --masks DIR [--split validation] [--curves 54]

Compares on held-out micrographs, in one run and in turn, the map as shipped with larger inputs, with inputs moved
by a quarter of a cell to and fro (four maps interleaved to twice the cells each way), with mirrored views averaged,
with HiResCAM at the earliest tensor that it has a closed form for, and with the shipped map merely interpolated to
twice the cells, which costs nothing and knows nothing more. Prints a Markdown table and asserts nothing:

- class-balanced accuracy: of the variant's own answers;
- peak, energy: the pointing game and the energy on particles over the area they cover, for the class that the
  shipped network answers, where that is right; chance is the share of cells that would be hits, which finer cells
  lower;
- deletion, insertion: areas, judged by the shipped network at its own input size whatever made the map, so that
  all maps stand before one judge (`trainer.scoring.deletion`);
- ms: median of the network's time for one micrograph, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import Bundle, BundleRefused, open_bundle
from edge_agent.preprocessing import cut_tiles
from trainer.exporting.cam_graph import GraphError, append_maps, map_tensors
from trainer.preparing.crops import load_dataset
from trainer.scoring.deletion import areas, deletion_and_insertion, mean_interval, subject_of, with_values
from trainer.scoring.evaluation import readable, sources_of
from trainer.scoring.figures import balanced_accuracy
from trainer.scoring.map_methods import RANDOM, baseline_map, shown
from trainer.scoring.pointing import mask_of, pointing, pointing_figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.classifier import Prediction
    from edge_agent.micrograph import Micrograph
    from edge_agent.preprocessing import CamMap, Tiles
    from trainer.scoring.pointing import Pointing

    Ask = Callable[[Micrograph, str], Prediction]

LARGER_PX = (576, 640, 800)
FLIPS = ("identity", "flip_x", "flip_y", "rot180")
CELL_PX = 32
"""Of the shipped network's input: its map has 14 x 14 cells at 448 px."""


@dataclass
class Row:
    """What is gathered of one variant, micrograph by micrograph."""

    ask: Ask
    cells: list[int] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    pointed: list[Pointing] = field(default_factory=list)
    deletion: list[np.ndarray] = field(default_factory=list)
    insertion: list[np.ndarray] = field(default_factory=list)


def main() -> None:
    """Measure and print the table."""
    given = arguments()
    bundle, dataset = open_bundle(given.bundle), load_dataset(given.dataset)
    judge = Classifier(bundle)
    rows = variants(bundle, judge)
    rows["noise, 14 x 14"] = Row(lambda micrograph, label: judge.classify(micrograph, map_of=label))
    true, groups, pointed_groups, curve_groups = [], [], [], []
    sources = sources_of(dataset.part(given.split))
    for at, (source, micrograph) in enumerate(readable(dataset, sources)):
        if isinstance(micrograph, str):
            print(f"not read: {micrograph}")
            continue
        seen = shown(judge, micrograph, source)
        subject = subject_of(seen.tiles, probability(judge, seen.answer)) if at < given.curves else None
        mask = mask_of(source.file, given.masks, seen.shape_px) if seen.answer == source.label else None
        true.append(source.label)
        groups.append(source.group)
        pointed_groups += [source.group] if mask is not None else []
        curve_groups += [source.group] if subject is not None else []
        for name, row in rows.items():
            cam = asked(row, micrograph, seen.answer)
            if name.startswith("noise"):
                cam = baseline_map(RANDOM, seen, cam, 0)
            row.cells.append(cam.values.size)
            if mask is not None:
                row.pointed.append(pointing(cam, mask))
            if subject is not None:
                deletion, insertion = deletion_and_insertion(subject, cam, np.random.default_rng(at))
                row.deletion.append(deletion)
                row.insertion.append(insertion)
        if sys.stderr.isatty():
            print(f"{at + 1} of {len(sources)}", end="\r", file=sys.stderr)
    print_table(rows, true, dataset.labels, pointed_groups, curve_groups)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument(
        "--curves", type=int, default=1_000_000, help="micrographs with deletion and insertion"
    )
    return parser.parse_args()


def variants(bundle: Bundle, judge: Classifier) -> dict[str, Row]:
    """Everything that is compared, the shipped map first."""
    rule = bundle.manifest.preprocessing

    def as_shipped(micrograph: Micrograph, label: str) -> Prediction:
        return judge.classify(micrograph, map_of=label)

    rows = {"as shipped": Row(as_shipped)}
    rows["as shipped, interpolated"] = Row(
        lambda micrograph, label: interpolated(as_shipped(micrograph, label))
    )
    for side in LARGER_PX:
        rows[f"input {side} px"] = Row(classify_by(bundle, input_px=side))
    rows["moved inputs"] = Row(lambda micrograph, label: interleaved(judge, micrograph, label))
    earliest = at_earliest_tensor(bundle)
    if earliest is not None:
        try:
            rows["earlier tensor, HiResCAM"] = Row(classify_by(earliest))
        except BundleRefused as error:
            print(f"earlier tensor: left out: {error}")
    if rule.views == ("identity",):
        rows["mirrored views"] = Row(classify_by(bundle, views=FLIPS))
    return rows


def classify_by(bundle: Bundle, **changes: object) -> Ask:
    """The agent's own answer with another preprocessing."""
    rule = bundle.manifest.preprocessing.model_copy(update=changes)
    classifier = Classifier(
        replace(bundle, manifest=bundle.manifest.model_copy(update={"preprocessing": rule}))
    )
    return lambda micrograph, label: classifier.classify(micrograph, map_of=label)


def at_earliest_tensor(bundle: Bundle) -> Bundle | None:
    """HiResCAM at the earliest tensor from which the way to the logit has a closed form; says what stops it."""
    model = without_map(bundle)
    names = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    found = None
    for name in reversed(names):
        try:
            found = append_maps(without_map(bundle), "hirescam", input_px=448, tensor=name)
        except GraphError as error:
            print(
                f"earlier than {found.tensor if found else 'the last tensor'} {found and found.shape}: {error}"
            )
            break
    if found is None:
        return None
    named = map_tensors(found, None)
    every_class = named["cam_every_class"] or named["cam"]
    tensors = bundle.manifest.tensors.model_copy(update={"cam": every_class})
    manifest = bundle.manifest.model_copy(update={"cam": found.cam, "tensors": tensors})
    return replace(bundle, manifest=manifest, model_bytes=found.model.SerializeToString())


def without_map(bundle: Bundle) -> onnx.ModelProto:
    """The graph up to the probabilities, its tensor `cam` under another name."""
    names = bundle.manifest.tensors
    model = onnx.load_model_from_string(bundle.model_bytes)
    model = onnx.utils.Extractor(model).extract_model([names.input.name], [names.probabilities.name])
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = f"{node.name} of the network"
        for tensors in (node.input, node.output):
            tensors[:] = ["class_maps" if name == "cam" else name for name in tensors]
    return model


def probability(judge: Classifier, label: str) -> Callable[[Tiles], float]:
    """What the judge gives to a class."""
    place = judge.place_of(label)
    return lambda tiles: judge.answer_tiles(tiles).probabilities[place]


def asked(row: Row, micrograph: Micrograph, label: str) -> CamMap:
    """The variant's map of a class; its own answer and its time are noted."""
    seen = row.ask(micrograph, label)
    row.answers.append(seen.label)
    row.ms.append(seen.infer_ms)
    return seen.cam


def interleaved(judge: Classifier, micrograph: Micrograph, label: str) -> Prediction:
    """Four inputs, moved by a quarter of a cell up or down and left or right; their maps' cells side by side.

    A cell that saw the field moved by a quarter of its side lies a quarter beside its place: the four together
    are the cells of a grid of half the side, each in its middle.
    """
    tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, judge.bundle.manifest.preprocessing)
    shape = (int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1]))
    started = time.perf_counter()
    seen = {
        (down, across): judge.classify_tiles(moved(tiles, down, across), shape, map_of=label)
        for down in (0, 1)
        for across in (0, 1)
    }
    spent = 1000 * (time.perf_counter() - started)
    first = seen[0, 0]
    rows, columns = first.cam.values.shape
    values = np.empty((2 * rows, 2 * columns), dtype=np.float32)
    for (down, across), one in seen.items():
        values[down::2, across::2] = one.cam.values
    mean = np.mean([one.probabilities for one in seen.values()], axis=0)
    return replace(
        first,
        label=first.labels[int(mean.argmax())],
        probabilities=tuple(float(value) for value in mean),
        cam=replace(first.cam, values=values),
        infer_ms=spent,
    )


def moved(tiles: Tiles, down: int, across: int) -> Tiles:
    """Inputs whose cells lie a quarter of a cell above (0) or below (1) and left or right of their places."""
    step = CELL_PX // 4
    moved_values = []
    for tile in tiles.tiles:
        padded = np.pad(tile.values, ((0, 0), (step, step), (step, step)), mode="reflect")
        rows, columns = tile.values.shape[1:]
        top, left = 2 * step * down, 2 * step * across
        moved_values.append(np.ascontiguousarray(padded[:, top : top + rows, left : left + columns]))
    return with_values(tiles, moved_values)


def interpolated(seen: Prediction) -> Prediction:
    """The same map on twice the cells each way, linear between the cells' middles."""
    values = seen.cam.values
    for axis in (0, 1):
        length = values.shape[axis]
        at = np.clip((np.arange(2 * length) + 0.5) / 2 - 0.5, 0, length - 1)
        low = np.minimum(at.astype(int), max(length - 2, 0))
        part = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - part) + values.take(high, axis) * part
    return replace(seen, cam=replace(seen.cam, values=values.astype(np.float32)))


def print_table(
    rows: dict[str, Row],
    true: list[str],
    labels: tuple[str, ...],
    pointed_groups: list[str],
    curve_groups: list[str],
) -> None:
    """One line a variant; what follows a difference is its 95 % interval by group."""
    places = np.array([labels.index(one) for one in true])
    first = next(iter(rows.values()))
    print(
        f"{len(true)} micrographs, {len(pointed_groups)} with mask and right, {len(curve_groups)} with curves"
    )
    print(
        "| map | cells | class-balanced accuracy | peak (chance) | energy over area | deletion | insertion | "
        "deletion beside shipped | insertion beside shipped | ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        answers = np.array([labels.index(one) for one in row.answers])
        seen = pointing_figures(row.pointed, pointed_groups, 0) if row.pointed else None
        pointed = "- | -"
        if seen is not None:
            pointed = f"{seen.peak_on_particle:.2f} ({seen.chance:.2f}) | {seen.energy_over_share:.2f}"
            pointed += (
                ""
                if seen.energy_over_share_interval is None
                else " ({:.2f} to {:.2f})".format(*seen.energy_over_share_interval)
            )
        down, up = (areas(np.array(one)) for one in (row.deletion, row.insertion))
        base_down, base_up = (areas(np.array(one)) for one in (first.deletion, first.insertion))
        print(
            f"| {name} | {np.median(row.cells):.0f} | {balanced_accuracy(places, answers):.3f} | {pointed} | "
            f"{down.mean():.3f} | {up.mean():.3f} | {apart(down - base_down, curve_groups)} | "
            f"{apart(up - base_up, curve_groups)} | {np.median(row.ms):.0f} |"
        )


def apart(differences: np.ndarray, groups: list[str]) -> str:
    """A mean difference with its interval."""
    interval = mean_interval(differences, groups, 0)
    return f"{differences.mean():+.3f}" + (
        "" if interval is None else " ({:+.3f} to {:+.3f})".format(*interval)
    )


if __name__ == "__main__":
    main()
