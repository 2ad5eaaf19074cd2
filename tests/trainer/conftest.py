"""What the trainer's tests share: a toy data set, a network of two layers, one run of it and its bundle.

All of them are made once a session and read only; a test that changes one takes a copy.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from limited import Limited, Look, Spy, data_for_limits, draw_for_limits, fitted_bundle, fold_run
from toys import LABELS, RECIPE, draw_raw, prepared, toy_architecture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainer.fitting.backbones import Backbone
    from trainer.fitting.network import Network
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import CrossValidation
    from trainer.trusting.held_out import HeldOut


# Keras 3.15 reads a TensorFlow variable by np.array(variable); TensorFlow's __array__ predates NumPy 2's `copy`.
# Theirs to mend, harmless meanwhile (a copy is made either way), and it happens in every save_weights().
KERAS_ARRAY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Keras save weights in the tests of this folder, where every other warning is an error."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(KERAS_ARRAY))


@pytest.fixture(scope="session")
def toy_backbone() -> Iterator[None]:
    """`--backbone toy`, for this session."""
    from trainer.exporting import export
    from trainer.fitting import backbones

    table = {**backbones.architectures(), "toy": toy_architecture()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(backbones, "architectures", lambda: table)
        patched.setattr(export, "architectures", lambda: table)
        yield


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of 16 pictures."""
    return draw_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """16 crops to train, 8 to validate, 8 to test."""
    return prepared(raw, tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def network(toy_backbone: None) -> Network:
    """An untrained toy network."""
    from trainer.fitting.training import new_network

    return new_network(LABELS, RECIPE, seed=0)


@pytest.fixture(scope="session")
def shared_run(dataset: DataSet, toy_backbone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read only."""
    from trainer.fitting.training import train

    run = tmp_path_factory.mktemp("runs") / "run"
    train(dataset, run, RECIPE, seed=3)
    return run


@pytest.fixture(scope="session")
def shared_bundle(shared_run: Path, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of that run; read only."""
    from trainer.exporting.export import BundleNotes, export

    return export(
        shared_run, dataset, tmp_path_factory.mktemp("bundles") / "toy-1", BundleNotes("toy", "1")
    ).path


@pytest.fixture
def bundle(shared_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "toy-1"))


@pytest.fixture(scope="session")
def lite0() -> Backbone:
    """EfficientNet-Lite0 with its ImageNet weights; read only."""
    from trainer.fitting.backbones import build_backbone

    return build_backbone("efficientnet-lite0")


@pytest.fixture(scope="session")
def shared_ensemble(dataset: DataSet, toy_backbone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished members with the seeds 3 and 4; read only."""
    from trainer.fitting.ensemble import train_ensemble

    run = tmp_path_factory.mktemp("ensembles") / "run"
    train_ensemble(dataset, run, RECIPE.model_copy(update={"epochs": 1}), members=2, seed=3)
    return run


@pytest.fixture(scope="session")
def shared_folds(
    dataset: DataSet, toy_backbone: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CrossValidation]:
    """Two finished folds and their result; read only."""
    from trainer.scoring.cross_validation import cross_validate

    run = tmp_path_factory.mktemp("folds") / "run"
    recipe = RECIPE.model_copy(update={"epochs": 1, "keep": "best"})
    return run, cross_validate(dataset, run, recipe, folds=2)


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Limited:
    """A data set of 60 micrographs, a bundle of a tiny network, and the same with limits; read only."""
    from trainer.trusting import strangers
    from trainer.trusting.trust import Strangers, TrustOrder, trust

    root = tmp_path_factory.mktemp("limited")
    data = data_for_limits(draw_for_limits(root / "raw"), root / "data")
    bundle = fitted_bundle(root / "toy-1", data).path
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(strangers, "_SIDE_PX", 128)
        order = TrustOrder(strangers=Strangers(drawn=2), version="2", seed=5)
        trusted, record = trust(bundle, data, root / "toy-2", order)
    return Limited(data, bundle, trusted.path, record)


@pytest.fixture(scope="session")
def limited_folds(limited: Limited, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of that data set, of three folds; read only."""
    return fold_run(tmp_path_factory.mktemp("limited-folds"), limited.dataset)


@pytest.fixture(scope="session")
def limited_by_folds(limited: Limited, limited_folds: Path) -> tuple[list[Look], tuple[HeldOut, ...]]:
    """What the folds looked at, in their order, and what they made of the training micrographs."""
    from edge_agent.model_bundle import open_bundle
    from trainer.trusting import held_out

    with pytest.MonkeyPatch.context() as patched:
        spy = Spy()
        patched.setattr(held_out, "observe_all", spy)
        manifest = open_bundle(limited.bare).manifest
        held = held_out.held_out_by_folds(limited_folds, manifest, limited.dataset, lambda *_: None)
    return spy.looks, held
