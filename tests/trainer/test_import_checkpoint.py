"""A CNN that somebody trained elsewhere becomes a bundle: of every kind of file, with the maps others compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from foreign_models import CLASSES, INCEPTION_PX, LEGACY, PX, legacy_models, small_network, small_onnx
from onnx import helper
from PIL import Image
from test_cam_graph import REFUSED, onnx_network
from test_foreign_graph import network
from toys import LONG_TIER

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import UNKNOWN_DATASET
from trainer.exporting.cam_graph import by_method
from trainer.importing import import_checkpoint as importing
from trainer.importing.foreign_file import ForeignModelError
from trainer.importing.import_checkpoint import ImportOrder, import_checkpoint
from trainer.scoring.randomisation import redrawn, weight_layers

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle

LABELS = tuple("abcdefgh")[:CLASSES]
VIS_PX, VIS_CLASSES, RELATIVE = 48, 4, 1e-4


def order(**given: Any) -> ImportOrder:
    return ImportOrder(**{"labels": LABELS, "name": "foreign", **given})


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return legacy_models(tmp_path_factory)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("archive") / "compiled.keras"
    model = small_network()
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.save(file)
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.fromarray((np.random.default_rng(0).random((70, 90)) * 255).astype(np.uint8)).save(file)
    return file


def answered(bundle: Bundle, picture: Path) -> Any:
    return Classifier(bundle).classify(read_micrograph(picture))


def test_a_keras_archive_becomes_a_bundle_that_answers_and_points(
    archive: Path, picture: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    bundle = import_checkpoint(
        archive, tmp_path / "bundle", order(), progress=lambda step, done, total: steps.append(step)
    )
    manifest = bundle.manifest
    assert (manifest.cam.method, manifest.preprocessing.proportions) == ("hirescam", "square")
    assert manifest.tensors.cam is not None
    assert manifest.tensors.cam.shape[1] == 1
    assert manifest.parity.probabilities <= manifest.parity.tolerance
    assert manifest.parity.cam <= (manifest.parity.cam_tolerance or 0)
    assert "Keras 3 archive, SHA-256" in manifest.network.weights_origin
    assert Classifier(bundle).replay_golden().passed
    assert manifest.dataset_fingerprint == UNKNOWN_DATASET
    prediction = answered(bundle, picture)
    assert prediction.cam.box_px == (0, 0, 90, 70)
    assert prediction.cam.values.shape == (32, 32), "before the pooling"
    assert np.ptp(prediction.cam.values) > 0
    for label in LABELS:
        named = Classifier(bundle).classify(read_micrograph(picture), map_of=label)
        assert named.cam.label == label
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert "the network was trained elsewhere and imported" in card
    assert steps[0] != steps[-1] == "done"


@pytest.mark.parametrize("kind", ["weights.hdf5.ckpt", "weights.h5", "model.h5", "saved_model"])
def test_what_keras_2_left_behind(kind: str, legacy: Path, tmp_path: Path) -> None:
    source = legacy / "flat" / kind
    architecture = LEGACY["flat"] if "weights" in kind else None
    bundle = import_checkpoint(
        source, tmp_path / "bundle", order(architecture=architecture, input_px=PX, method="gradcam")
    )
    assert bundle.manifest.cam.method == "gradcam"
    with np.load(legacy / "flat" / "answers.npz") as stored:
        pictures, answers = (stored[name] for name in stored.files[:2])
    grey = np.repeat(pictures.mean(axis=-1)[:, None], 1, axis=1)[:1].astype(np.float32)
    assert answers.shape[1] == CLASSES
    probabilities, cam = Classifier(bundle).infer(grey)
    assert probabilities.shape == (1, CLASSES)
    assert cam is not None
    assert np.isfinite(cam).all()


@pytest.mark.long
@LONG_TIER
def test_a_checkpoint_of_inception_weights_alone(legacy: Path, picture: Path, tmp_path: Path) -> None:
    bundle = import_checkpoint(
        legacy / "inception" / "weights.hdf5.ckpt",
        tmp_path / "bundle",
        order(architecture=LEGACY["inception"], input_px=INCEPTION_PX, divisions=2),
    )
    prediction = answered(bundle, picture)
    assert len(prediction.tiles) == 4
    assert bundle.manifest.preprocessing.input_px == INCEPTION_PX


@pytest.mark.long
@LONG_TIER
def test_keras_vis_a_tape_and_the_graph_agree_on_real_crops(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "labelled" / "emps").glob("r*/*.jpg"))[::40][:4]
    crops = [Image.open(file).convert("L").resize((VIS_PX, VIS_PX)) for file in files]
    np.save(tmp_path / "pictures.npy", np.stack([np.asarray(crop, np.float32) / 255 for crop in crops]))
    said = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("keras_vis_maps.py"), tmp_path],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    labels = tuple("abcd")[:VIS_CLASSES]
    bundle = import_checkpoint(
        tmp_path / "model.h5", tmp_path / "bundle", order(labels=labels, method="gradcam")
    )
    classifier = Classifier(bundle)
    with np.load(tmp_path / "maps.npz") as stored:
        others = {name: stored[name] for name in stored.files}
    for index, shown in enumerate(np.load(tmp_path / "pictures.npy")):
        seen = classifier.infer(shown[None, None], every_class=True)[1]
        assert seen is not None
        raw = seen[0] / (seen.shape[2] * seen.shape[3])  # ours carries the number of cells
        for name, maps in others.items():
            apart = np.abs(raw - maps[index]).max() / np.abs(maps[index]).max()
            assert apart <= RELATIVE, name
    layers = weight_layers(onnx.load_model_from_string(bundle.model_bytes), "probabilities")
    drawn = redrawn(bundle, [name for layer in layers for name in layer], seed=0)
    one = np.load(tmp_path / "pictures.npy")[:1, None]
    np.testing.assert_allclose(
        Classifier(drawn).infer(one)[1], Classifier(by_method(drawn, "gradcam")).infer(one)[1], rtol=1e-4
    )
    by_place = by_method(bundle, "hirescam")  # lays the dense layer out by places; then back again
    again = Classifier(by_method(by_place, "gradcam"))
    for (seen, cam), (expected, expected_cam) in (
        (again.infer(one), classifier.infer(one)),
        (Classifier(by_method(by_place, "hirescam")).infer(one), Classifier(by_place).infer(one)),
    ):
        assert cam is not None
        assert expected_cam is not None
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        np.testing.assert_allclose(cam, expected_cam, atol=1e-4 * np.abs(expected_cam).max())


def test_keras_s_gelu_which_onnx_does_not_know(tmp_path: Path) -> None:
    import keras
    from keras import layers

    photo = keras.Input((PX, PX, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(photo))
    keras.Model(photo, layers.Dense(CLASSES, "softmax")(layers.Dense(8, "gelu")(x))).save(
        tmp_path / "gelu.keras"
    )
    bundle = import_checkpoint(tmp_path / "gelu.keras", tmp_path / "bundle", order())
    assert "Erf" in bundle.manifest.cam.description


def saved(model: Any, folder: Path) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def attention() -> Any:
    nodes, constants, _ = REFUSED["attention over the places"]
    model = onnx_network(*nodes, constants=constants)
    return model


def test_without_a_closed_form_occlusion_is_offered_and_taken(picture: Path, tmp_path: Path) -> None:
    file = saved(attention(), tmp_path)
    with pytest.raises(ForeignModelError) as caught:
        import_checkpoint(file, tmp_path / "bundle", order())
    assert str(caught.value) == (
        f"{file}: no map can be written into its graph: the node 'attention' (Softmax) has no closed form here. "
        "With --method occlusion the bundle is made without one, and edge-trainer explain draws occlusion maps"
    )
    assert not (tmp_path / "bundle").exists()
    bundle = import_checkpoint(file, tmp_path / "bundle", order(method="occlusion"))
    assert bundle.manifest.tensors.cam is None
    classifier = Classifier(bundle, without_map=True)
    assert classifier.replay_golden().passed


REFUSALS: dict[str, tuple[Any, ImportOrder, str]] = {
    "another number of labels": (
        network(),
        order(labels=("a", "b")),
        "it answers 3 classes, 2 labels are given",
    ),
    "a label twice": (
        network(),
        order(labels=("a", "b", "b")),
        "two or more different class names are wanted",
    ),
    "one label": (network(), order(labels=("a",)), "two or more different class names are wanted"),
    "another size": (network(), order(input_px=150), "its input is 16 x 16, --input-size says 150"),
    "an exact map that is none": (
        onnx_network(
            helper.make_node("Flatten", ["feat"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["logits"]),
            constants={"w": np.ones((256, 3), np.float32)},
        ),
        order(method="cam"),
        "use gradcam or hirescam",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_imported_is_told_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    model, given, reason = REFUSALS[case]
    file = saved(model, tmp_path)
    with pytest.raises(ForeignModelError, match=reason):
        import_checkpoint(file, tmp_path / "bundle", given)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_graph_whose_answers_changed_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = small_onnx(tmp_path / "model.onnx")
    monkeypatch.setattr(importing, "map_gap", lambda *_: 0.5)
    with pytest.raises(ForeignModelError, match="off the measured derivative of the logits"):
        import_checkpoint(file, tmp_path / "bundle", order(input_px=PX))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        import_checkpoint(tmp_path / "no.onnx", tmp_path / "bundle", order())
