"""What a file is, by its bytes: every form that is taken, and one clear line for everything that is not."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from foreign_models import small_onnx

from trainer.importing.foreign_file import ForeignModelError, recognise

if TYPE_CHECKING:
    from pathlib import Path

INDEX = b"entries" * 9 + bytes.fromhex("57fb808b247547db")
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(200)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.ones(3))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def torch_legacy() -> bytes:
    return pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)


def safetensors() -> bytes:
    head = json.dumps({"conv.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


KERAS = zipped(config_DOT_json=b"{}", metadata_DOT_json=b"{}", model_DOT_weights_DOT_h5=HDF5)

REFUSED = {
    "empty file": (b"", "the file is empty; copy it again"),
    "pickle": (pickle.dumps({"weights": [1]}), "a pickle .* may run any program .* torch.onnx.export"),
    "torch.save of old": (torch_legacy(), "a pickle"),
    "joblib": (
        zlib.compress(pickle.dumps([1, 2, 3])),
        "compressed with zlib, as joblib does; it is a pickle",
    ),
    "torch zip": (
        zipped(archive__data_DOT_pkl=b"x", archive__version=b"3"),
        "a PyTorch file, which holds a pickle .* in PyTorch, write it with torch.onnx.export and import the .onnx",
    ),
    "TorchScript": (
        zipped(net__data_DOT_pkl=b"x", net__constants_DOT_pkl=b"x", net__code__net_DOT_py=b"x"),
        "a TorchScript model, which is a program; in PyTorch, write it with torch.onnx.export",
    ),
    "safetensors": (safetensors(), "safetensors: weights without their network; in PyTorch"),
    "npz": (npz(), r"NumPy arrays \(.npz\), which say nothing of the network"),
    "npy": (npy(), "a NumPy array, which says nothing of the network"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(60), "a TensorFlow Lite model"),
    "ONNX Runtime": (b"\x1c\0\0\0ORTM" + bytes(60), "in ONNX Runtime's own format; give the .onnx file"),
    "gzip": (gzip.compress(b"model"), "compressed with gzip; unpack it first"),
    "tar": (b"model.onnx".ljust(257, b"\0") + b"ustar" + bytes(200), "a tar archive; unpack it first"),
    "JSON": (b'{"class_name": "Sequential"}', "JSON, not a model .* give the file with the weights"),
    "text": ("Größe: 3\n".encode() * 900, "text, not a model"),
    "another zip": (zipped(photo_DOT_png=b"x"), "a zip archive, but not of Keras .it holds photo.png."),
    "zipped SavedModel": (zipped(net__saved_model_DOT_pb=b"x"), "with a SavedModel in it; unpack it first"),
    "zip cut off": (KERAS[:-30], "a zip archive that is damaged or cut off .* copy it again"),
    "noise": (bytes(range(255, 0, -1)) * 9, r"of no kind that is known here .it starts with ff fe fd"),
    "another protobuf": (b"\x0a\x03abc\x10\x01", "of no kind that is known here|another protobuf"),
    "ONNX without a graph": (b"\x08\x08", "there is no graph in it"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_is_told_when_it_is_no_model_that_can_be_imported(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "model.onnx"  # the name says nothing
    path.write_bytes(data)
    with pytest.raises(ForeignModelError, match=message) as refused:
        recognise(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["model.bin", "model.h5", "model"])
@pytest.mark.parametrize(("data", "family"), [(KERAS, "Keras 3 archive"), (HDF5, "HDF5")])
def test_bytes_tell_what_a_file_is_and_its_name_does_not(
    tmp_path: Path, name: str, data: bytes, family: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = recognise(path)
    assert (found.family, found.path, found.files) == (family, path, (path,))
    assert found.sha256() == hashlib.sha256(data).hexdigest()


def test_an_onnx_file_is_known_by_its_outermost_fields(tmp_path: Path) -> None:
    assert recognise(small_onnx(tmp_path / "weights.ckpt")).family == "ONNX file"


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_an_onnx_file_that_was_cut_is_not_taken(tmp_path: Path, share: float) -> None:
    path = small_onnx(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ForeignModelError, match="cut off"):
        recognise(path)


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The origin's files, as far as their names and marks go; the prefix itself is no file."""
    folder = tmp_path / "run 1"
    folder.mkdir()
    prefix = folder / "weights.hdf5.ckpt"
    prefix.with_name(prefix.name + ".index").write_bytes(INDEX)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(b"values")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "/home/somebody/else/weights.hdf5.ckpt"\n'
        'all_model_checkpoint_paths: "/home/somebody/else/weights.hdf5.ckpt"\n'
    )
    return prefix


GIVEN = {
    "prefix": "weights.hdf5.ckpt",
    "index": "weights.hdf5.ckpt.index",
    "data": "weights.hdf5.ckpt.data-00000-of-00001",
    "state file": "checkpoint",
    "folder": "",
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_checkpoint_is_found_by_whatever_of_it_is_given(checkpoint: Path, given: str) -> None:
    found = recognise(checkpoint.parent / given)
    assert (found.family, found.path) == ("TensorFlow checkpoint", checkpoint)
    assert [one.suffix for one in found.files] == [".data-00000-of-00001", ".index"]


def test_a_folder_with_one_index_needs_no_state_file(checkpoint: Path) -> None:
    (checkpoint.parent / "checkpoint").unlink()
    assert recognise(checkpoint.parent).path == checkpoint
    shutil.copy(f"{checkpoint}.index", checkpoint.parent / "other.index")
    with pytest.raises(
        ForeignModelError, match=r"holds 2 checkpoints \(other, weights.hdf5.ckpt\); give one"
    ):
        recognise(checkpoint.parent)


def test_what_a_checkpoint_lacks_is_said(checkpoint: Path) -> None:
    index, data = (checkpoint.with_name(checkpoint.name + end) for end in (".index", ".data-00000-of-00001"))
    data.rename(checkpoint.with_name(checkpoint.name + ".data-00000-of-00002"))
    with pytest.raises(ForeignModelError, match="has 1 of its 2 data files"):
        recognise(checkpoint)
    checkpoint.with_name(checkpoint.name + ".data-00000-of-00002").unlink()
    with pytest.raises(ForeignModelError, match="has 0 of its 1 data files"):
        recognise(checkpoint)
    data.write_bytes(b"values")
    index.write_bytes(INDEX[:-4])
    with pytest.raises(ForeignModelError, match="not a checkpoint's index, or cut off"):
        recognise(checkpoint)
    index.unlink()
    for given in (checkpoint, data):
        with pytest.raises(ForeignModelError, match=r"weights.hdf5.ckpt.index; copy that as well"):
            recognise(given)


def test_the_hash_of_a_checkpoint_depends_on_names_and_contents(checkpoint: Path) -> None:
    before = recognise(checkpoint).sha256()
    assert recognise(checkpoint.parent).sha256() == before
    data = checkpoint.with_name(checkpoint.name + ".data-00000-of-00001")
    data.write_bytes(b"value2")
    changed = recognise(checkpoint).sha256()
    for end in (".index", ".data-00000-of-00001"):
        checkpoint.with_name(checkpoint.name + end).rename(checkpoint.with_name(f"other{end}"))
    renamed = recognise(checkpoint.with_name("other")).sha256()
    assert len({before, changed, renamed}) == 3


# --- folders, links, what is not there --------------------------------------------------------------------------


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"message")
    (folder / "variables" / "variables.index").write_bytes(INDEX)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"values")
    return folder


def test_a_saved_model_is_a_folder_with_all_its_files(saved_model: Path) -> None:
    found = recognise(saved_model)
    assert (found.family, found.path, len(found.files)) == ("SavedModel", saved_model, 3)
    before = found.sha256()
    (saved_model / "fingerprint.pb").write_bytes(b"")
    assert recognise(saved_model).sha256() != before


def test_a_saved_model_with_parts_missing_or_elsewhere_is_refused(saved_model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (saved_model / "variables" / "variables.data-00000-of-00001").rename(elsewhere)
    with pytest.raises(ForeignModelError, match="has 0 of its 1 data files"):
        recognise(saved_model)
    (saved_model / "variables" / "variables.data-00000-of-00001").symlink_to(elsewhere)
    with pytest.raises(ForeignModelError, match=r"variables.data-00000-of-00001 is a link to another place"):
        recognise(saved_model)


def test_a_folder_without_a_model_and_a_path_without_a_file_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(
        ForeignModelError, match=r"a folder without a saved_model.pb and without a checkpoint"
    ):
        recognise(tmp_path)
    with pytest.raises(ForeignModelError, match="there is no such file, folder or checkpoint"):
        recognise(tmp_path / "absent.h5")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(ForeignModelError, match="not a file"):
        recognise(tmp_path / "pipe.h5")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with path.open("wb") as file:
        file.write(HDF5)
        file.truncate(5 * 2**30)  # sparse
    with pytest.raises(ForeignModelError, match=r"5.0 GiB; models of up to 4 GiB are imported"):
        recognise(path)
