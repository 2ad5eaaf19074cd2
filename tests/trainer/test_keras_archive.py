"""Keras files that want more than to be a network: each is refused, by name, before Keras or HDF5 acts on it."""

from __future__ import annotations

import copy
import json
import zipfile
from typing import TYPE_CHECKING, Any

import h5py  # noqa: TID251 - what the trainer reads
import numpy as np
import pytest

from trainer.importing.foreign_file import ForeignModelError
from trainer.importing.hdf5_file import plain_hdf5, text_attribute
from trainer.importing.keras_archive import unpack
from trainer.importing.keras_config import read_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONV = {
    "module": "keras.layers",
    "class_name": "Conv2D",
    "config": {"name": "conv", "filters": 4, "kernel_size": [3, 3], "activation": "relu"},
    "registered_name": None,
}
MODEL = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {"name": "net", "layers": [CONV]},
    "registered_name": "Sequential",
    "compile_config": {"loss": {"class_name": "MyLoss", "module": "mine", "config": {}}},
}


def with_layer(**changes: Any) -> dict[str, Any]:
    model = copy.deepcopy(MODEL)
    model["config"]["layers"].append({**copy.deepcopy(CONV), **changes})  # type: ignore[index]
    return model


def function(name: object, module: str = "builtins") -> dict[str, Any]:
    return {"class_name": "function", "config": name, "module": module, "registered_name": "function"}


# --- the description --------------------------------------------------------------------------------------------

REFUSED = {
    "Lambda": (
        with_layer(class_name="Lambda", config={"name": "mine", "function": {"class_name": "__lambda__"}}),
        r"the Lambda 'mine' carries Python code of its own, which is never run; export it to ONNX",
    ),
    "a lambda as an argument": (
        with_layer(
            config={"name": "conv", "activation": {"class_name": "__lambda__", "config": {"value": "4w"}}}
        ),
        r"a __lambda__ of the Conv2D 'conv' carries Python code",
    ),
    "another model from the disk": (
        with_layer(class_name="TFSMLayer", config={"name": "in", "filepath": "/srv/attack"}),
        r"the TFSMLayer 'in' loads another model from the disk",
    ),
    "a pickle": (with_layer(class_name="TorchModuleWrapper"), "TorchModuleWrapper 'conv' holds a pickle"),
    "a vocabulary": (
        with_layer(class_name="StringLookup", config={"name": "words", "vocabulary": "/etc/passwd"}),
        r"the StringLookup 'words' reads a vocabulary file",
    ),
    "a registered custom layer": (
        with_layer(class_name="Attention", registered_name="lab>Attention"),
        r"the Attention 'conv' \(registered as 'lab>Attention'\) is a custom layer",
    ),
    "a custom layer by the name of a built-in one": (
        with_layer(registered_name="lab>Conv2D"),
        r"the Conv2D 'conv' \(registered as 'lab>Conv2D'\) is a custom layer",
    ),
    "a custom layer of another module": (
        with_layer(module="lab.layers"),
        "the Conv2D 'conv' is a custom layer",
    ),
    "a module that only begins like Keras": (
        with_layer(module="keras_lab"),
        "the Conv2D 'conv' is a custom layer",
    ),
    "any function of Python": (
        with_layer(class_name="Popen", module="subprocess", config={"args": ["sh"]}),
        r"a Popen of the Sequential 'net' is a custom layer",
    ),
    "a function of Keras that is no layer (CVE-2025-8747)": (
        with_layer(
            class_name="function", module="keras.utils", config="get_file", registered_name="get_file"
        ),
        r"calls the function 'get_file', which is no activation of Keras",
    ),
    "a function of Python as activation": (
        with_layer(config={"name": "conv", "activation": function("eval")}),
        r"the Conv2D 'conv' calls the function 'eval'",
    ),
    "switching safe mode off (CVE-2025-9906)": (
        with_layer(class_name="enable_unsafe_deserialization", module="keras.config", config={}),
        "enable_unsafe_deserialization of the Sequential 'net' is a custom layer",
    ),
    "a class that is no text": (with_layer(class_name=["Conv2D"]), "is a custom layer"),
    "a part without a class": (
        with_layer(config={"a": {"module": "os", "config": "system"}}),
        "without a class",
    ),
    "an operation of Keras 2": (
        with_layer(class_name="TFOpLambda", config={"name": "tf.math.divide", "function": "math.divide"}),
        r"the TFOpLambda 'tf.math.divide' is an operation of Keras 2 that Keras 3 does not know; export it to ONNX",
    ),
    "no model": ({"layers": []}, "names no model"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_nothing_but_built_in_parts_is_ever_made(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message) as refused:
        read_config(json.dumps(config), tmp_path / "net.keras")
    assert str(refused.value).startswith(f"{tmp_path / 'net.keras'}: ")


@pytest.mark.parametrize(
    "config",
    [
        MODEL,
        with_layer(config={"activation": function("softmax")}),
        with_layer(class_name="Model", config=MODEL["config"]),
    ],
    ids=["plain", "activation as a function", "nested"],
)
def test_built_in_parts_pass_and_what_is_for_training_is_left_out(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    plain = read_config(json.dumps(config), tmp_path)
    assert plain["config"]["layers"][0] == CONV
    assert "compile_config" not in plain


BROKEN = {
    "cut": ('{"class_name": "Seq', "no sound JSON"),
    "a name twice": (
        '{"class_name": "Lambda", "class_name": "Sequential", "config": {}}',
        "a name is given twice",
    ),
    "deep": (
        '{"class_name": "Sequential", "config": ' + "[" * 500 + "]" * 500 + "}",
        "nested deeper than 80",
    ),
    "very deep": ("[" * 100_000, "no sound JSON"),
    "long": ('"' + "x" * 2**25 + '"', "32 MiB of text"),
    "a list": ("[1]", "names no model"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_description_that_is_no_description_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ForeignModelError, match=message):
        read_config(text, tmp_path / "net.h5")


def test_what_keras_2_wrote_is_put_into_the_words_of_keras_3(tmp_path: Path) -> None:
    inner = {
        "module": "tf_keras.src.engine.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
        "config": {
            "layers": [{**CONV, "class_name": "BatchNormalization", "config": {"axis": [3]}}],
            "input_layers": [["photo", 0, 0]],
            "output_layers": [["last", 0, 0]],
        },
    }
    plain = read_config(json.dumps({**MODEL, "config": {"layers": [inner]}}), tmp_path)["config"]["layers"][0]
    assert (plain["module"], plain["registered_name"]) == ("keras.src.models.functional", None)
    assert plain["config"]["output_layers"] == ["last", 0, 0]
    assert plain["config"]["layers"][0]["config"]["axis"] == 3


# --- the archive ------------------------------------------------------------------------------------------------


def archive(path: Path, members: dict[str, bytes], *, twice: str | None = None) -> Path:
    whole = {
        "config.json": json.dumps(MODEL).encode(),
        "metadata.json": b'{"keras_version": "3.9"}',
        "model.weights.h5": b"weights",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (whole | members).items():
            if data is not None:
                file.writestr(name, data)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate"):
                file.writestr(twice, b"{}")
    return path


def test_an_archive_of_three_members_is_taken_apart(tmp_path: Path) -> None:
    taken = unpack(archive(tmp_path / "net.keras", {}), tmp_path)
    assert taken.config["class_name"] == "Sequential"
    assert taken.weights.read_bytes() == b"weights"
    assert "3.9" in taken.metadata


ARCHIVES = {
    "a path out of the folder": ({"../../evil.py": b"x"}, r"holds '../../evil.py', which no plain model has"),
    "an absolute path": ({"/etc/cron.d/evil": b"x"}, "which no plain model has"),
    "assets": (
        {"assets/layers/string_lookup/vocabulary.txt": b"x"},
        "vocabularies, code or weights in parts",
    ),
    "weights in parts": ({"model_00001.weights.h5": b"x"}, "weights in parts"),
    "no weights": ({"model.weights.h5": None}, r"lacks model.weights.h5; save it again"),
    "a bomb of weights": (
        {"model.weights.h5": bytes(2**25)},
        r"its model.weights.h5 says it has 33554432 bytes",
    ),
    "a bomb of text": ({"metadata.json": bytes(2**22)}, r"its metadata.json says it has 4194304 bytes"),
}


@pytest.mark.parametrize(("members", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_with_anything_else_in_it_is_not_unpacked(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    with pytest.raises(ForeignModelError, match=message):
        unpack(archive(tmp_path / "net.keras", members), folder)
    assert not list(folder.iterdir())


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignModelError, match="holds a member twice"):
        unpack(archive(tmp_path / "net.keras", {}, twice="config.json"), tmp_path)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "net.keras", {"model.weights.h5": np.random.default_rng(0).bytes(5000)})
    data = bytearray(path.read_bytes())
    place = data.index(b"model.weights.h5") + 2000
    data[place : place + 8] = bytes(8)
    path.write_bytes(bytes(data))
    with pytest.raises(ForeignModelError, match="a Keras archive that is damaged"):
        unpack(path, tmp_path)


# --- HDF5 -------------------------------------------------------------------------------------------------------


def external_link(file: h5py.File) -> None:
    file["layers"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: h5py.File) -> None:
    file["layers"] = h5py.SoftLink("/kernel")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("secret", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("/srv/other.h5", "kernel", (10,))
    file.create_virtual_dataset("kernel2", layout)


def shape_bomb(file: h5py.File) -> None:
    file.create_dataset("kernel2", (2**24,), "f4", chunks=(2**10,), compression="gzip")


def large_bomb(file: h5py.File) -> None:
    file.create_dataset("kernel2", (2**40,), "f4", chunks=(2**10,))


def foreign_filter(file: h5py.File) -> None:
    file.create_dataset("kernel2", data=np.ones(100), chunks=(100,), compression="lzf")


def deep(file: h5py.File) -> None:
    file.create_group("/".join("g" * 80))


TRAPS = {
    external_link: r"/layers is a link to another file \(/etc/passwd\); that is never followed",
    soft_link: r"/layers is a soft link \(to /kernel\)",
    external_storage: r"/secret keeps its values in another file \(/etc/passwd\); that is never read",
    virtual: "/kernel2 is put together from other files",
    shape_bomb: "/kernel2 declares 64 MiB and stores 0 bytes of them",
    large_bomb: "/kernel2 declares 4194304 MiB and stores 0 bytes",
    foreign_filter: "a filter that is not known here .number 32000",
    deep: "nested deeper than 64",
}


@pytest.mark.parametrize(("trap", "message"), TRAPS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_hdf5_that_reaches_out_or_swells_is_refused(
    tmp_path: Path, trap: Callable[[h5py.File], None], message: str
) -> None:
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file["kernel"] = np.ones((3, 3))
        trap(file)
    with pytest.raises(ForeignModelError, match=message), plain_hdf5(path, path):
        pytest.fail("it was opened")


def test_plain_hdf5_is_opened_and_its_text_read(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("inner/kernel", data=np.ones((30, 3)), compression="gzip", shuffle=True)
        file.create_dataset("zeros", data=np.zeros(2**18))
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["model_config"] = "{}"
    with plain_hdf5(path, path) as file:
        assert file["inner/kernel"].shape == (30, 3)
        assert [text_attribute(file, name) for name in ("keras_version", "model_config", "absent")] == [
            "2.15.0",
            "{}",
            None,
        ]
    with path.open("r+b"):  # nobody holds it
        pass


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_hdf5_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file["kernel"] = np.ones((300, 30))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with (
        pytest.raises(ForeignModelError, match="an HDF5 file that is damaged or cut off"),
        plain_hdf5(path, path),
    ):
        pytest.fail("it was opened")
