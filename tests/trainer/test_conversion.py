"""Somebody's model -> plain ONNX: the same answers whatever kind of file, in a process that is held in bounds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from foreign_models import (
    CLASSES,
    PX,
    VGG,
    legacy_models,
    origin_models,
    pictures,
    small_network,
    small_onnx,
)
from toys import LONG_TIER

from trainer.importing.conversion import Converted, ConverterOutput, Limits, to_onnx
from trainer.importing.converter import CASES, MODEL, Request, Result, convert
from trainer.importing.foreign_file import ForeignModelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return legacy_models(tmp_path_factory)


@pytest.fixture(scope="module")
def network() -> Any:
    return small_network()


@pytest.fixture(scope="module")
def modern(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network of Keras 3 in every form."""
    folder = tmp_path_factory.mktemp("modern")
    network.save(folder / "net.keras")
    network.save(folder / "net.h5")
    network.export(folder / "net", verbose=False)
    return folder


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, to see that none stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def asked(folder: Path, source: Path, **options: Any) -> Result:
    """The conversion in this process, for speed."""
    folder.mkdir(exist_ok=True)
    return convert(Request(str(source), **options), folder)


def answer(model: bytes, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model)
    (put,) = session.get_inputs()
    return np.asarray(session.run(None, {put.name: shown})[0])


def stored_values(model: bytes) -> int:
    return sum(int(np.prod(one.dims)) for one in onnx.load_model_from_string(model).graph.initializer)


# --- every kind of file -----------------------------------------------------------------------------------------

MODERN = {"net.keras": "Keras 3 archive", "net.h5": "Keras HDF5 model", "net": "SavedModel"}


@pytest.mark.parametrize(("name", "kind"), MODERN.items(), ids=MODERN)
def test_a_model_of_keras_3_answers_the_same_as_onnx(
    network: Any, modern: Path, tmp_path: Path, name: str, kind: str
) -> None:
    result = asked(tmp_path / "out", modern / name, classes=CLASSES, seed=4)
    model = (tmp_path / "out" / MODEL).read_bytes()
    assert (result.kind, result.input_px) == (kind, PX)
    np.testing.assert_allclose(answer(model, pictures(PX)), network(pictures(PX), training=False), atol=1e-6)
    with np.load(tmp_path / "out" / CASES) as cases:
        assert len(cases.files) == 8
        for index in range(4):
            shown, expected = cases[f"input_{index}"], cases[f"output_{index}"]
            assert shown.dtype == np.float32
            np.testing.assert_allclose(answer(model, shown), expected, atol=1e-5)
            np.testing.assert_allclose(network(shown, training=False), expected, atol=1e-5)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)


LEGACY_FORMS = {
    "checkpoint": ("weights.hdf5.ckpt", VGG, "TensorFlow checkpoint"),
    "weights": ("weights.h5", VGG, "Keras HDF5 weights"),
    "model": ("model.h5", None, "Keras HDF5 model"),
    "archive": ("model.keras", None, "Keras 3 archive"),
    "SavedModel": ("saved_model", None, "SavedModel"),
}


@pytest.mark.parametrize("name", ["flat", "nested"])
@pytest.mark.parametrize(("file", "architecture", "kind"), LEGACY_FORMS.values(), ids=LEGACY_FORMS)
def test_a_model_of_keras_2_answers_as_keras_2_did(
    legacy: Path, tmp_path: Path, name: str, file: str, architecture: str | None, kind: str
) -> None:
    result = asked(tmp_path / "out", legacy / name / file, architecture=architecture, input_px=PX)
    assert result.kind == kind
    model = (tmp_path / "out" / MODEL).read_bytes()
    with np.load(legacy / name / "answers.npz") as truth:
        np.testing.assert_allclose(answer(model, truth["pictures"]), truth["answers"], atol=2e-6)


def test_a_network_is_plain_in_onnx_and_each_weight_is_stored_once(
    modern: Path, tmp_path: Path, network: Any
) -> None:
    asked(tmp_path / "out", modern / "net.keras")
    model = onnx.load_model_from_string((tmp_path / "out" / MODEL).read_bytes())
    assert [one.name for one in model.graph.input] == ["picture"]
    assert [one.name for one in model.graph.output] == ["answer"]
    assert [(one.domain, one.version) for one in model.opset_import if not one.domain] == [("", 17)]
    left = {node.op_type for node in model.graph.node}
    assert left & {"Shape", "Gather", "Slice", "Identity", "Cast"} == set()
    constants = {one.name for one in model.graph.initializer}
    assert all(
        set(node.input) - constants for node in model.graph.node
    )  # nothing is computed from weights alone
    parameters = network.count_params()
    assert 0.9 * parameters < stored_values(model.SerializeToString()) < parameters + 100
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 0  # any number of pictures


def test_a_layer_used_twice_is_stored_once(tmp_path: Path) -> None:
    import keras
    from keras import layers

    shared = layers.Conv2D(16, 3, padding="same")
    put = keras.Input((PX, PX, 16))
    inner = keras.Model(put, shared(shared(put)))
    picture = keras.Input((PX, PX, 3))
    x = inner(inner(layers.Conv2D(16, 3, padding="same")(picture)))
    model = keras.Model(picture, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    model.save(tmp_path / "net.keras")
    asked(tmp_path / "out", tmp_path / "net.keras")
    written = (tmp_path / "out" / MODEL).read_bytes()
    assert stored_values(written) < model.count_params() + 100
    np.testing.assert_allclose(answer(written, pictures(PX)), model(pictures(PX)), atol=1e-6)


def test_a_network_of_any_size_takes_the_one_that_is_asked_for(tmp_path: Path) -> None:
    model = small_network(px=None, channels=1)
    model.save(tmp_path / "net.keras")
    results = [asked(tmp_path / f"out{px}", tmp_path / "net.keras", input_px=px) for px in (48, None)]
    assert [result.input_px for result in results] == [48, None]
    written = (tmp_path / "out48" / MODEL).read_bytes()
    shown = pictures(56, channels=1)
    np.testing.assert_allclose(answer(written, shown), model(shown), atol=1e-6)


# --- what a network must be -------------------------------------------------------------------------------------


def refused_networks() -> dict[str, tuple[Any, dict[str, Any], str]]:
    import keras
    from keras import layers

    photo, second = keras.Input((PX, PX, 3), name="photo"), keras.Input((PX, PX, 3), name="second")
    mean = layers.GlobalAveragePooling2D()
    one, two = (layers.Dense(2, activation="softmax", name=name) for name in ("kind", "age"))
    wide = keras.Input((PX, 2 * PX, 3))
    row = keras.Input((9,))
    many = keras.Input((PX, PX, 12))
    return {
        "several outputs": (
            keras.Model(photo, [one(mean(photo)), two(mean(photo))]),
            {},
            r"has 2 outputs \(kind, age\); a classifier of one picture has one",
        ),
        "several inputs": (
            keras.Model([photo, second], one(mean(layers.Add()([photo, second])))),
            {},
            r"has 2 inputs \(photo, second\); a classifier of one picture has one",
        ),
        "no square": (
            keras.Model(wide, one(mean(wide))),
            {},
            r"its input \['\?', 32, 64, 3\] is no square picture",
        ),
        "twelve channels": (
            keras.Model(many, layers.Dense(2)(mean(many))),
            {},
            "no square picture of 1 or 3 channels",
        ),
        "a table": (
            keras.Model(row, layers.Dense(2)(row)),
            {},
            r"its input \['\?', 9\] is no picture of rows",
        ),
        "another size": (
            small_network(),
            {"input_px": 150},
            "takes pictures of 32 x 32 px only; leave --input-size 150 out",
        ),
        "labels": (
            small_network(),
            {"classes": 8},
            "answers with 3 numbers, and 8 labels are given; give one for each",
        ),
    }


@pytest.mark.parametrize("case", range(7))
def test_a_network_of_another_kind_is_refused_in_one_line(tmp_path: Path, case: int) -> None:
    name, (model, options, message) = list(refused_networks().items())[case]
    model.save(tmp_path / f"{name}.keras")
    with pytest.raises(ForeignModelError, match=message):
        asked(tmp_path / "out", tmp_path / f"{name}.keras", **options)


def test_a_file_of_weights_alone_asks_for_its_network(legacy: Path, tmp_path: Path) -> None:
    for file, what in (
        ("weights.hdf5.ckpt", "a TensorFlow checkpoint holds weights"),
        ("weights.h5", "an HDF5 file of weights"),
    ):
        with pytest.raises(ForeignModelError, match=what + r".*name it with --architecture NAME\[:LAYER\]"):
            asked(tmp_path / "out", legacy / "flat" / file)


def test_what_keras_cannot_read_is_told_with_what_to_do(tmp_path: Path, modern: Path) -> None:
    import h5py  # noqa: TID251

    shutil.copy(modern / "net.h5", tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][2]["config"]["filters"] = 9
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(
        ForeignModelError, match=r"Keras 3.* cannot read it .*; in the environment that it was made in, save"
    ):
        asked(tmp_path / "out", tmp_path / "net.h5")


# --- ONNX files -------------------------------------------------------------------------------------------------


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = small_onnx(tmp_path / "net.onnx")
    converted = to_onnx(path, input_px=48)
    assert converted.model == path.read_bytes()
    assert (converted.kind, converted.input_px, converted.cases) == ("ONNX file", 48, ())
    assert converted.facts == {"written with": "a lab"}


ONNX_REFUSED = {
    "external data": (
        {"external": True},
        {},
        "keeps its weights in other files .external data.; save it as one file",
    ),
    "several outputs": ({"outputs": 2}, {}, r"has 2 outputs \(answer, logits\)"),
    "several inputs": ({"inputs": 2}, {}, r"has 2 inputs \(picture, second\)"),
    "architecture": ({}, {"architecture": "vgg16"}, "holds its own network; leave --architecture out"),
}


@pytest.mark.parametrize(("made", "options", "message"), ONNX_REFUSED.values(), ids=ONNX_REFUSED)
def test_an_onnx_file_that_is_no_classifier_of_its_own_is_refused(
    tmp_path: Path, made: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message):
        to_onnx(small_onnx(tmp_path / "net.onnx", **made), **options)


# --- the converting process -------------------------------------------------------------------------------------


def test_the_whole_way_through_the_converting_process(network: Any, modern: Path, private: Path) -> None:
    told: list[tuple[str, int, int]] = []
    converted = to_onnx(modern / "net.keras", classes=CLASSES, progress=lambda *step: told.append(step))
    assert isinstance(converted, Converted)
    np.testing.assert_allclose(answer(converted.model, pictures(PX)), network(pictures(PX)), atol=1e-6)
    for shown, expected in converted.cases:
        np.testing.assert_allclose(answer(converted.model, shown), expected, atol=1e-5)
    assert {"tensorflow", "keras", "tf2onnx", "onnx"} <= converted.versions.keys()
    assert converted.facts["written with"].startswith("Keras 3.")
    assert [step for step, _, _ in told][:2] == ["reading the file", "opening the model"]
    assert all(at < of for _, at, of in told)
    assert dataclasses.asdict(converted)["sha256"] == converted.sha256
    assert not list(private.iterdir())


def test_a_refusal_in_the_converting_process_comes_back_as_one_line(
    modern: Path, tmp_path: Path, private: Path
) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes((modern / "net.h5").read_bytes()[:-2000])
    with pytest.raises(ForeignModelError, match="an HDF5 file that is damaged or cut off") as refused:
        to_onnx(path)
    assert isinstance(refused.value.__cause__, ConverterOutput)
    assert "\n" not in str(refused.value)
    assert not list(private.iterdir())


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


LIMITS = {
    "memory": (
        Limits(memory_bytes=2**22),
        "took more than 0.0039 GiB of memory and was stopped; convert it to ONNX",
    ),
    "time": (
        Limits(seconds=0.3),
        "took longer than 0 s and was stopped; convert it to ONNX where it was trained",
    ),
}


@pytest.mark.parametrize(("limits", "message"), LIMITS.values(), ids=LIMITS)
def test_a_conversion_beyond_its_limits_is_stopped(
    modern: Path, private: Path, limits: Limits, message: str
) -> None:
    before = children()
    with pytest.raises(ForeignModelError, match=message):
        to_onnx(modern / "net.keras", limits=limits)
    assert children() == before
    assert not list(private.iterdir())


def test_a_converting_process_that_dies_is_told_in_one_line(modern: Path, private: Path) -> None:
    before = children()  # not to be touched: Python's own helpers

    def kill(step: str, *_: int) -> None:
        if step == "opening the model":
            for child in children():
                if child not in before:
                    child.kill()

    with pytest.raises(ForeignModelError, match=r"its conversion broke off \(it ended with -9\)"):
        to_onnx(modern / "net.keras", progress=kill)
    assert not list(private.iterdir())


def test_an_interrupted_conversion_leaves_no_process_and_no_file(modern: Path, private: Path) -> None:
    def interrupt(step: str, *_: int) -> None:
        if step == "opening the model":
            raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        to_onnx(modern / "net.keras", progress=interrupt)
    assert children() == before
    assert not list(private.iterdir())


def test_nothing_beside_the_caller_is_imported_in_the_place_of_a_library(
    modern: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h5py.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.h5").write_bytes((modern / "net.h5").read_bytes()[:-2000])
    with pytest.raises(ForeignModelError, match="cut off"):
        to_onnx(tmp_path / "net.h5")


@LONG_TIER
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_origins_checkpoint_stays_within_its_memory(tmp_path: Path) -> None:
    folder = origin_models(tmp_path / "models")
    started = time.monotonic()
    converted = to_onnx(
        folder,
        architecture="inceptionv3:mixed7",
        input_px=150,
        classes=10,
        limits=Limits(memory_bytes=3 * 2**30),  # half of what it may take; the straight way took 11.6 GB
    )
    print(f"{time.monotonic() - started:.1f} s")
    with np.load(folder / "answers.npz") as truth:
        np.testing.assert_allclose(answer(converted.model, truth["pictures"]), truth["answers"], atol=1e-5)
    assert stored_values(converted.model) < 48_571_306 + 1000  # each weight once
