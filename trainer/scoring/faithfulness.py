"""Whether a bundle's map shows what its answers hang on: every method its graph can give, measured beside chance.

Four questions, each with what knows nothing for comparison: does the answer suffer when the map's cells go
(`deletion`), does the map change when the network forgets (`randomisation`), does it point at what a person masked
(`pointing`), and what does it cost. Only this module knows which micrographs are asked, and in which order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import open_bundle
from trainer.exporting.bundle_writer import add_file
from trainer.preparing.split import tears_micrographs
from trainer.scoring.deletion import SUBSTITUTE
from trainer.scoring.evaluation import crop_sources, readable, sources_of
from trainer.scoring.faithfulness_record import (
    FAITHFULNESS,
    Faithfulness,
    FaithfulnessError,
    MethodFigures,
)
from trainer.scoring.map_measures import (
    Question,
    cascades,
    costs_of,
    curves_of,
    examples,
    maps_of,
    merged,
    pointed,
    right,
    two_curves,
)
from trainer.scoring.map_methods import (
    BASELINES,
    OCCLUSION,
    MapError,
    baseline_map,
    find_methods,
    own_method,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from edge_agent.model_bundle import Bundle
    from edge_agent.preprocessing import CamMap
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import Source
    from trainer.scoring.map_methods import Found, Shown

    Progress = Callable[[str, int, int], None]
    Maps = Mapping[str, Sequence[CamMap]]

COUNT: Final = 60
"""Micrographs measured unless more are asked for: the curves take 40 passes a micrograph and method."""


@dataclass(frozen=True, slots=True)
class _Data:
    """Which micrographs were asked about."""

    dataset: DataSet
    part: str
    of: int
    unreadable: dict[str, str]


def measure_faithfulness(
    bundle_path: Path,
    dataset: DataSet,
    part: Literal["train", "validation", "test"],
    *,
    masks: Path | None = None,
    count: int = COUNT,
    methods: Sequence[str] = (),
    occlusion: bool = False,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Faithfulness:
    """Measure the maps of a bundle on one part of a data set and put `faithfulness.json` into the bundle.

    `count` micrographs are drawn by chance. `methods` are by default all that the graph has a closed form for;
    `occlusion` adds the map that needs no closed form, at hundreds of passes a micrograph. `masks` is as in
    `evaluate`.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        MapError: no method of that name is known, or none of them can be had.
        FaithfulnessError: the part is empty, nothing of it can be read, or a mask does not fit.

    """
    bundle = open_bundle(bundle_path)
    found = find_methods(bundle, methods)
    wanted = [*found.bundles, *([OCCLUSION] if occlusion or OCCLUSION in methods else [])]
    if not wanted:
        raise MapError(f"{bundle_path}: none of these maps can be had: {_reasons(found)}; try --occlusion")
    sources, of = _sources(dataset, part, count, seed)
    seen, unreadable = _shown(bundle, dataset, sources, progress)
    question = Question(bundle, seen, [one.source.group for one in seen], seed, progress)
    result = _measured(question, found, wanted, masks, _Data(dataset, part, of, unreadable))
    add_file(bundle_path, FAITHFULNESS, (result.model_dump_json(indent=1, by_alias=True) + "\n").encode())
    return result


def _reasons(found: Found) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in found.absent.items()) or "the graph holds none"


def _sources(dataset: DataSet, part: str, count: int, seed: int) -> tuple[list[Source], int]:
    """The micrographs to measure, drawn by chance, and of how many."""
    crops = dataset.part(part)  # type: ignore[arg-type]
    every = crop_sources(crops) if tears_micrographs(dataset.split) else sources_of(crops)
    if not every:
        raise FaithfulnessError(f"{dataset.root}: no micrograph in the part {part}; give another --split")
    drawn = np.random.default_rng(seed).permutation(len(every))[:count]
    return [every[int(at)] for at in sorted(drawn)], len(every)


def _shown(
    bundle: Bundle, dataset: DataSet, sources: Sequence[Source], progress: Progress
) -> tuple[list[Shown], dict[str, str]]:
    classifier = Classifier(bundle, without_map=True)
    seen, unreadable = [], {}
    for done, (source, micrograph) in enumerate(readable(dataset, sources)):
        progress("classified", done, len(sources))
        if isinstance(micrograph, str):
            unreadable[source.file] = micrograph
        else:
            seen.append(shown(classifier, micrograph, source))
    progress("classified", len(sources), len(sources))
    if not seen:
        raise FaithfulnessError(f"{dataset.raw}: none of the {len(sources)} micrographs can be read any more")
    return seen, unreadable


def _measured(
    question: Question, found: Found, wanted: Sequence[str], masks: Path | None, data: _Data
) -> Faithfulness:
    maps: dict[str, Sequence[CamMap]] = {name: maps_of(question, found, name) for name in wanted}
    named = [*merged(maps), *((name,) for name in BASELINES)]
    pairs = list(zip(question.seen, maps[wanted[0]], strict=True))
    maps |= {name: [baseline_map(name, one, cam, question.seed) for one, cam in pairs] for name in BASELINES}
    different = {names[0]: maps[names[0]] for names in named}
    whole, blank, figures = _figures(question, found, named, different, masks)
    manifest = question.bundle.manifest
    return Faithfulness(
        bundle=f"{manifest.name}-{manifest.version}",
        model_sha256=question.bundle.sha256,
        dataset=str(data.dataset.root.resolve()),
        dataset_fingerprint=data.dataset.fingerprint,
        part=data.part,
        made=datetime.now(UTC).replace(microsecond=0),
        seed=question.seed,
        own=own_method(question.bundle),
        micrographs=len(question.seen),
        of=data.of,
        groups=len(set(question.groups)),
        right=sum(right(one) for one in question.seen),
        substitute=SUBSTITUTE,
        whole=whole,
        blank=blank,
        methods=figures,
        absent=dict(found.absent),
        examples=examples(
            question, {name: each for name, each in different.items() if name not in BASELINES}
        ),
        unreadable=data.unreadable,
    )


def _figures(
    question: Question, found: Found, named: Sequence[tuple[str, ...]], maps: Maps, masks: Path | None
) -> tuple[float, float, tuple[MethodFigures, ...]]:
    """Mean probability of the answer whole and blank, and the figures of each method."""
    against_masks = pointed(question, maps, masks)  # first: a mask that does not fit is known at once
    ends, curves = curves_of(question, maps)
    forgotten = cascades(question, {name: each for name, each in maps.items() if name in found.bundles})
    costs = costs_of(question, found.bundles)
    figures = []
    for names in named:
        first = names[0]
        deletion, insertion = two_curves(question, curves, first)
        figures.append(
            MethodFigures(
                names=names,
                baseline=first in BASELINES,
                cells=int(np.median([cam.values.size for cam in maps[first]])),
                deletion=deletion,
                insertion=insertion,
                pointing=against_masks.get(first),
                randomised=forgotten.get(first),
                costs={name: costs[name] for name in names if name in costs},
            )
        )
    whole, blank = (round(float(value), 4) for value in ends.mean(axis=0))
    return whole, blank, tuple(figures)
