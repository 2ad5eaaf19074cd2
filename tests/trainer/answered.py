"""A data set whose right and wrong answers are known beforehand: labelled by what a tiny network answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from bundles import tiny_manifest, tiny_model
from PIL import Image

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.preprocessing import Preprocessing, TilePlan, plan_boxes
from edge_agent.simulation import SimulatedField, dm3_bytes
from trainer.exporting.bundle_writer import BundleFiles, write_bundle
from trainer.preparing.crops import Crop, DataSet
from trainer.preparing.split import SplitRule
from trainer.scoring.figures import Scored

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

THREE = ("faceted", "rod", "round")
EIGHT = (
    "Goldnanostäbchen, CTAB-stabilisiert, getrocknet auf Kohlefilm",
    "Наночастицы диоксида титана",
    "金属有機構造体 ZIF-8",
    'β-Ga₂O₃ <nanowire> & "twins"',
    "$\\alpha$-Fe_2O_3 spindles",
    "CdSe/ZnS",
    "graphène oxydé réduit",
    "x",
)
FIRST_DAY = datetime(2024, 3, 4, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Answered:
    """A bundle, and a data set on whose part "test" its answers are known."""

    bundle: Path
    data: DataSet


def field(seed: int, side_px: int = 64) -> NDArray[np.uint8]:
    """Noise on a pattern of some period: different enough for a network of random weights to differ on it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, : side_px + 24]
    wave = np.sin(x / random.uniform(1, 9)) * np.cos(y / random.uniform(1, 9))
    return np.clip(120 + 70 * wave + random.normal(0, 12, wave.shape), 0, 255).astype(np.uint8)


def answered(
    root: Path,
    *,
    labels: tuple[str, ...] = THREE,
    count: int = 24,
    wrong: Sequence[int] = (),
    calibrated: bool = True,
    group_of: int = 2,
    divisions: int = 1,
    by: str = "folder",
) -> Answered:
    """Write `count` micrographs; those at the places `wrong` are labelled otherwise than the network answers.

    Every `group_of` make a group (a sub-folder); calibrated ones are dm3 with pixel size, day and microscope.
    With `divisions` above 1 each is cut into tiles, which is what is then labelled.
    """
    bundle = _bundle(root / "bundle", labels, divisions)
    classifier = Classifier(bundle)
    crops: list[Crop] = []
    for index in range(count):
        file = root / ("a.dm3" if calibrated else "a.png")
        _save(file, index, calibrated)
        answer = classifier.classify(read_micrograph(file)).label
        label = labels[(labels.index(answer) + 1 + index) % len(labels)] if index in wrong else answer
        if label == answer and index in wrong:
            label = labels[(labels.index(answer) + 1) % len(labels)]
        source = f"{label.replace('/', '_')}/sample {index // group_of}/{index:03}{file.suffix}"
        (root / "raw" / source).parent.mkdir(parents=True, exist_ok=True)
        file.rename(root / "raw" / source)
        crops += _crops(root / "raw", source, label, f"sample {index // group_of}", bundle)
    return Answered(bundle.path, _dataset(root, labels, crops, by))


def _bundle(folder: Path, labels: tuple[str, ...], divisions: int) -> Bundle:
    rule = Preprocessing(input_px=48, tiles=TilePlan(divisions=divisions))
    manifest = tiny_manifest(labels, rule).model_copy(update={"dataset_fingerprint": "answered"})
    return write_bundle(folder, BundleFiles(tiny_model(labels)), manifest)


def _save(file: Path, index: int, calibrated: bool) -> None:
    if not calibrated:
        Image.fromarray(field(index)).save(file)
        return
    drawn = SimulatedField(
        drawn="round",
        clear=True,
        pixels=field(index).astype(np.int16),
        pixel_size_nm=0.2 * 1.2 ** (index % 12),
        magnification=10_000,
        voltage_kv=200,
    )
    file.write_bytes(dm3_bytes(drawn, acquired=FIRST_DAY + timedelta(days=index // 6)))


def _crops(raw: Path, source: str, label: str, group: str, bundle: Bundle) -> list[Crop]:
    content = hashlib.sha256((raw / source).read_bytes()).hexdigest()
    taken = read_micrograph(raw / source)
    shape = (int(taken.pixels.shape[0]), int(taken.pixels.shape[1]))
    boxes = plan_boxes(shape, taken.pixel_size_nm, bundle.manifest.preprocessing)
    whole = Crop(
        crop_id=f"{source} 0",
        source=source,
        sha256=content,
        label=label,
        group=group,
        box_px=boxes[0],
        shape_px=shape,
        pixel_size_nm=taken.pixel_size_nm,
        part="test",
        kept=True,
        reason="",
        cached="",
    )
    return [replace(whole, crop_id=f"{source} {at}", box_px=box) for at, box in enumerate(boxes)]


def _dataset(root: Path, labels: tuple[str, ...], crops: Sequence[Crop], by: str) -> DataSet:
    return DataSet(
        root=root / "data",
        labels=tuple(sorted({crop.label for crop in crops})),
        crops=tuple(crops),
        preprocessing=Preprocessing(input_px=48),
        raw=root / "raw",
        seed=0,
        fingerprint="answered",
        split=SplitRule(by=by),
        cache_px=48,
        notes=(),
    )


def reopened(made: Answered) -> Bundle:
    """The bundle as it lies there now."""
    return open_bundle(made.bundle)


def scored(
    true: Sequence[str], given: Sequence[str], groups: Sequence[str] | None = None, probability: float = 0.9
) -> list[Scored]:
    """Answers without probabilities, as older versions recorded them."""
    groups = groups or [f"g{index}" for index in range(len(true))]
    return [
        Scored(
            file=f"{i}.png", group=group, label=t, predicted=a, probability=probability, decision="ungated"
        )
        for i, (t, a, group) in enumerate(zip(true, given, groups, strict=True))
    ]


def drawn_scored(count: int, labels: Sequence[str] = THREE, seed: int = 0) -> list[Scored]:
    """Answers drawn by chance, calibrated, with the probabilities of all classes."""
    random = np.random.default_rng(seed)
    entries = []
    for index in range(count):
        probabilities = random.dirichlet(np.ones(len(labels)) * 0.6)
        true = labels[int(random.choice(len(labels), p=probabilities))]
        winner = int(probabilities.argmax())
        known = {label: float(value) for label, value in zip(labels, probabilities, strict=True)}
        entries.append(
            Scored(
                file=f"{true}/{index}.png",
                group=f"g{index // 3}",
                label=true,
                predicted=labels[winner],
                probability=float(probabilities[winner]),
                decision="ungated",
                probabilities=known,
            )
        )
    return entries
