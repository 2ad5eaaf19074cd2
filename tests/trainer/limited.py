"""What tests of limits are made on: sixty toy pictures, and a tiny network whose head was fitted to some of them.

No training framework is needed: the convolution is random, the head is a least-squares fit to what it gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from bundles import in_form, manifest_in_form, tiny_backbone, tiny_manifest
from toys import LABELS, RECIPE, draw_raw, prepared

from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from edge_agent.preprocessing import Preprocessing, TilePlan, cut_tiles
from trainer.exporting.bundle_writer import BundleFiles, onnx_session, write_bundle
from trainer.exporting.cam_head import append_cam_head
from trainer.fitting.run_folder import CONFIG, RunRecord
from trainer.preparing.split import SplitRule
from trainer.scoring.evaluation import sources_of
from trainer.trusting.observing import observe_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bundles import Form
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edge_agent.model_bundle import Bundle
    from edge_agent.preprocessing import View
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import Source
    from trainer.trusting.trust_record import TrustRecord

INPUT_PX = 80
"""The shorter side stays above what a look can be had of."""
SHARPENED = 3.0
"""Logits are too large by about this factor."""


@dataclass(frozen=True)
class Limited:
    """A bundle without limits, the same with them, and what they rest on."""

    dataset: DataSet
    bare: Path
    trusted: Path
    record: TrustRecord


@dataclass(frozen=True)
class Look:
    """A bundle's folder, and which sources it was shown together."""

    folder: Path
    sources: tuple[Source, ...]


class Spy:
    """Stands for `observe_all`, and notes which bundle looked at what."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def __call__(self, observer: Any, opened: Iterable[Any], count: int, progress: Any) -> Any:
        pairs = list(opened)
        self.looks.append(Look(observer.bundle.path, tuple(source for source, _ in pairs)))
        return observe_all(observer, pairs, count, progress)


def draw_for_limits(raw: Path) -> Path:
    """Two class folders of 30 pictures; one in nine lies in the wrong one, so that some answers are wrong."""
    draw_raw(raw, each=30)
    one, other = LABELS
    for seed in range(4, 30, 9):
        (raw / one / f"{one}{seed:02}.png").rename(raw / other / f"of {one} {seed:02}.png")
        (raw / other / f"{other}{seed:02}.png").rename(raw / one / f"of {other} {seed:02}.png")
    return raw


def data_for_limits(raw: Path, out: Path) -> DataSet:
    """A data set of 24 micrographs for training, 24 for validation, 12 for test."""
    return prepared(raw, out, split=SplitRule(test=0.2, validation=0.4), input_px=INPUT_PX)


def fitted_bundle(
    folder: Path,
    dataset: DataSet,
    *,
    sources: Sequence[Source] | None = None,
    divisions: int = 1,
    views: tuple[View, ...] = ("identity",),
    form: Form = "every class",
    seed: int = 0,
) -> Bundle:
    """Write a bundle whose head was fitted to the training part (or `sources`), too sure of itself."""
    rule = Preprocessing(input_px=INPUT_PX, tiles=TilePlan(divisions=divisions), views=views)
    taught = sources if sources is not None else sources_of(dataset.train)
    backbone = tiny_backbone(np.random.default_rng(seed))
    model = append_cam_head(backbone, *_head(backbone, dataset, taught, rule))
    manifest = tiny_manifest(LABELS, rule, "toy").model_copy(
        update={"dataset_fingerprint": dataset.fingerprint}
    )
    manifest = manifest_in_form(manifest, form)
    files = BundleFiles(in_form(model.SerializeToString(), form, len(LABELS), INPUT_PX), _others())
    return write_bundle(folder, files, manifest)


def _others() -> dict[str, bytes]:
    """What an evaluated bundle has beside; two of them hold for it as it was only."""
    return {
        "MODEL_CARD.md": b"# toy 1\n\nA toy.\n",
        "labels.csv": b"file,label,group,part\n",
        "evaluation.json": b"{}",
        "faithfulness.json": b"{}",
    }


def _head(
    backbone: ModelProto, dataset: DataSet, taught: Sequence[Source], rule: Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    session = onnx_session(backbone.SerializeToString())
    rows, wanted = [], []
    for source in taught:
        micrograph = read_micrograph(dataset.raw / source.file)
        for tile in cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule).tiles:
            (maps,) = session.run(None, {"x": tile.values[None]})
            rows.append([*maps.mean(axis=(0, 2, 3)), 1.0])
            wanted.append(SHARPENED * (2.0 * (np.array(LABELS) == source.label) - 1))
    solved = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0].astype(np.float32)
    return solved[:-1], solved[-1]


def fold_run(
    folder: Path, dataset: DataSet, *, folds: int = 3, views: tuple[View, ...] = ("identity",)
) -> Path:
    """What `edge-trainer crossvalidate` leaves that limits need: fold-N/run.json and fold-N/bundle."""
    groups = sorted({crop.group for crop in dataset.kept})
    for number in range(folds):
        held_out = tuple(groups[number::folds])
        taught = [source for source in sources_of(dataset.kept) if source.group not in held_out]
        fitted_bundle(folder / f"fold-{number}" / "bundle", dataset, sources=taught, seed=number)
        record = RunRecord(
            recipe=RECIPE,
            seed=0,
            dataset=str(dataset.root),
            dataset_fingerprint=dataset.fingerprint,
            labels=LABELS,
            part={},
            held_out=held_out,
            versions={},
            hardware="none",
        )
        (folder / f"fold-{number}" / CONFIG).write_text(record.model_dump_json())
    return folder


def changed_manifest(bundle: Path, copy: Path, **changes: object) -> Path:
    """A copy of a bundle whose manifest says something else."""
    made = open_bundle(bundle)
    others = {
        name: (bundle / name).read_bytes()
        for name in made.manifest.sha256
        if name not in ("model.onnx", "golden.npz")
    }
    return write_bundle(
        copy, BundleFiles(made.model_bytes, others), made.manifest.model_copy(update=changes)
    ).path


def without(dataset: DataSet, files: Sequence[str]) -> DataSet:
    """The data set with fewer crops, its name unchanged."""
    return replace(dataset, crops=tuple(crop for crop in dataset.crops if crop.source not in files))
