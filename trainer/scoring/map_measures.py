"""Each measure of a bundle's maps by itself, over the micrographs of one question.

Only this module knows how the measures go through the micrographs, and which networks are open meanwhile: one at a
time, or two where their times are compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import BundleRefused
from trainer.scoring.deletion import Curve, curve_figures, deletion_and_insertion, subject_of
from trainer.scoring.faithfulness_record import Cost, Example, FaithfulnessError
from trainer.scoring.map_methods import BASELINES, OCCLUSION, bundle_of, graph_map, occlusion_map, same_maps
from trainer.scoring.pointing import MaskError, PointingFigures, mask_of, pointing, pointing_figures
from trainer.scoring.randomisation import (
    DRAWS,
    Alike,
    Randomised,
    alike,
    randomised,
    redrawn,
    stage_counts,
    unrelated,
    weight_layers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Bundle
    from edge_agent.preprocessing import CamMap, Tiles
    from trainer.scoring.map_methods import Found, Shown

    Progress = Callable[[str, int, int], None]
    Maps = Mapping[str, Sequence[CamMap]]

EXAMPLES: Final = 6
_TIMED_INPUTS: Final = 12
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Question:
    """What all measures need: a bundle, the micrographs it is asked about, and their groups."""

    bundle: Bundle
    seen: Sequence[Shown]
    groups: Sequence[str]
    seed: int
    progress: Progress


def right(seen: Shown) -> bool:
    """Whether the answer is the person's label."""
    return seen.answer == seen.source.label


def maps_of(question: Question, found: Found, name: str) -> list[CamMap]:
    """A method's maps of the answered classes, micrograph by micrograph."""
    ask = _asked(question.bundle, found, name)
    maps = []
    for done, one in enumerate(question.seen):
        question.progress(f"maps: {name}", done, len(question.seen))
        maps.append(ask(one))
    question.progress(f"maps: {name}", len(question.seen), len(question.seen))
    return maps


def _asked(bundle: Bundle, found: Found, name: str) -> Callable[[Shown], CamMap]:
    if name == OCCLUSION:
        bare = Classifier(bundle, without_map=True)
        return lambda seen: occlusion_map(bare, seen)
    classifier = Classifier(found.bundles[name])
    return lambda seen: graph_map(classifier, seen)


def merged(maps: Maps) -> list[tuple[str, ...]]:
    """Methods that gave the same maps stand together under the first one's name."""
    groups: list[list[str]] = []
    for name in maps:
        same = next((one for one in groups if same_maps(maps[one[0]], maps[name])), None)
        if same is None:
            groups.append([name])
        else:
            same.append(name)
    return [tuple(group) for group in groups]


def curves_of(question: Question, maps: Maps) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Probabilities whole and blank [micrographs, 2]; by method both curves [2, micrographs, steps + 1]."""
    classifier = Classifier(question.bundle, without_map=True)
    ends: list[tuple[float, float]] = []
    curves: dict[str, list[Any]] = {name: [] for name in maps}
    for done, one in enumerate(question.seen):
        question.progress("deletion and insertion", done, len(question.seen))
        subject = subject_of(one.tiles, _probability(classifier, one.answer))
        ends.append((subject.whole, subject.blank))
        for name, of_all in maps.items():
            draw = np.random.default_rng([question.seed, done])
            curves[name].append(deletion_and_insertion(subject, of_all[done], draw))
    question.progress("deletion and insertion", len(question.seen), len(question.seen))
    return np.array(ends), {name: np.array(each).swapaxes(0, 1) for name, each in curves.items()}


def _probability(classifier: Classifier, label: str) -> Callable[[Tiles], float]:
    place = classifier.place_of(label)
    return lambda tiles: classifier.answer_tiles(tiles).probabilities[place]


def two_curves(
    question: Question, curves: Mapping[str, NDArray[np.float64]], name: str
) -> tuple[Curve, Curve]:
    """Deletion and insertion of a method, beside those of the maps that know nothing."""
    deletion, insertion = (
        curve_figures(
            curves[name][at],
            {other: curves[other][at] for other in BASELINES},
            question.groups,
            question.seed,
        )
        for at in (0, 1)
    )
    return deletion, insertion


def pointed(question: Question, maps: Maps, masks: Path | None) -> dict[str, PointingFigures]:
    """By method the figures over right answers that have a mask."""
    seen: dict[str, list[Any]] = {name: [] for name in maps}
    groups = []
    for at, one in enumerate(question.seen):
        try:
            mask = mask_of(one.source.file, masks, one.shape_px) if right(one) else None
        except MaskError as error:
            raise FaithfulnessError(str(error)) from error
        if mask is not None:
            groups.append(one.source.group)
            for name, each in maps.items():
                seen[name].append(pointing(each[at], mask))
    figures = {name: pointing_figures(each, groups, question.seed) for name, each in seen.items() if each}
    return {name: one for name, one in figures.items() if one is not None}


def cascades(question: Question, maps: Maps) -> dict[str, Randomised]:
    """By method what becomes of its maps as the network forgets, from the last layer to the first."""
    import onnx

    answer = question.bundle.manifest.tensors.probabilities.name
    layers = weight_layers(onnx.load_model_from_string(question.bundle.model_bytes), answer)
    if not layers:
        return {}
    counts = stage_counts(len(layers))
    compared: dict[str, list[tuple[int, list[Alike]]]] = {name: [] for name in maps}
    for done, count in enumerate(counts):
        names = [name for layer in layers[:count] for name in layer]
        drawn = [redrawn(question.bundle, names, question.seed + draw) for draw in range(DRAWS)]
        for at, name in enumerate(maps):
            question.progress("weights drawn anew", done * len(maps) + at, len(counts) * len(maps))
            originals = [cam.values for cam in maps[name]]
            compared[name].append(
                (count, [alike(originals, _forgetful(question, one, name)) for one in drawn])
            )
    question.progress("weights drawn anew", len(counts) * len(maps), len(counts) * len(maps))
    return {
        name: randomised(
            stages,
            unrelated([cam.values for cam in maps[name]], question.seed),
            question.groups,
            question.seed,
        )
        for name, stages in compared.items()
    }


def _forgetful(question: Question, bundle: Bundle, name: str) -> list[NDArray[np.float32] | None]:
    """The maps of a network with random weights, for the classes that the untouched one answered."""
    given = bundle_of(bundle, name)
    if isinstance(given, str):
        return [None] * len(question.seen)
    try:
        classifier = Classifier(given)
        return [graph_map(classifier, one).values for one in question.seen]
    except BundleRefused:  # numbers beyond all bounds: nothing is left of the map
        return [None] * len(question.seen)


def costs_of(question: Question, mapped: Mapping[str, Bundle]) -> dict[str, Cost]:
    """What each of these networks with a map costs beside the bare one."""
    costs = {}
    for done, (name, bundle) in enumerate(mapped.items()):
        question.progress("timed", done, len(mapped))
        costs[name] = _cost(question, bundle)
    question.progress("timed", len(mapped), len(mapped))
    return costs


def _cost(question: Question, mapped: Bundle) -> Cost:
    """Time the bare network and the one with its map in turn, each first as often as the other."""
    bare, whole = Classifier(question.bundle, without_map=True), Classifier(mapped)
    inputs = [one.tiles.tiles[0].values[None] for one in question.seen[:_TIMED_INPUTS]]
    times: dict[str, list[float]] = {"bare": [], "whole": []}
    turns = [("bare", bare), ("whole", whole)]
    for round_ in range(_ROUNDS + 1):
        for values in inputs:
            for name, classifier in turns if round_ % 2 else reversed(turns):
                started = time.perf_counter()
                classifier.infer(values)
                if round_:  # the first round warms both up
                    times[name].append(1000 * (time.perf_counter() - started))
    bare_ms, with_map_ms = (float(np.median(times[name])) for name, _ in turns)
    return Cost(
        bare_ms=round(bare_ms, 2),
        with_map_ms=round(with_map_ms, 2),
        ratio=round(with_map_ms / bare_ms, 3),
        runs=len(times["bare"]),
    )


def examples(question: Question, maps: Maps) -> tuple[Example, ...]:
    """Some micrographs with their maps, the answered classes in turn, drawn by chance within each."""
    order = np.random.default_rng(question.seed).permutation(len(question.seen))
    by_answer: dict[str, list[int]] = {}
    for at in order:
        by_answer.setdefault(question.seen[at].answer, []).append(int(at))
    turns = sorted(
        (turn, answer, at) for answer, places in by_answer.items() for turn, at in enumerate(places)
    )
    return tuple(_example(question.seen[at], at, maps) for _, _, at in turns[:EXAMPLES])


def _example(seen: Shown, at: int, maps: Maps) -> Example:
    first = next(iter(maps.values()))[at]
    return Example(
        file=seen.source.file,
        box_px=seen.source.box_px,
        label=seen.source.label,
        answer=seen.answer,
        probability=round(seen.probability, 4),
        map_box_px=first.box_px,
        maps={name: _rows(each[at].values) for name, each in maps.items()},
    )


def _rows(values: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in values)
