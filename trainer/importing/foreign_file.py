"""What a file with somebody's model is: told by its bytes, never by its name, and without a parser of its content.

Only this module knows the marks of file formats, the forms in which a TensorFlow checkpoint lies on a disk, and
what to say of a file that cannot be imported. Everything here is bounded: a few kilobytes of a file are looked at.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

Family = Literal["ONNX file", "Keras 3 archive", "HDF5", "SavedModel", "TensorFlow checkpoint"]

SIZE_LIMIT_BYTES: Final = 4 * 2**30
_ONNX_LIMIT_BYTES: Final = 2**31 - 1
"""Protobuf's own limit for one message."""
_HEAD_BYTES: Final = 4096
_HASH_BLOCK_BYTES: Final = 2**20
_INDEX_MARK: Final = bytes.fromhex("57fb808b247547db")
"""The last eight bytes of a checkpoint's index: the magic number of LevelDB's tables."""
_HDF5_MARK: Final = b"\x89HDF\r\n\x1a\n"
_ZIP_MARKS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_KERAS_MEMBERS: Final = {"config.json", "metadata.json"}
_DATA_PART: Final = ".data-"
_FORMS: Final = ".onnx, .keras, .h5, a SavedModel folder or a TensorFlow checkpoint"
_FROM_TORCH: Final = "in PyTorch, write it with torch.onnx.export and import the .onnx file"
_AS_ONNX: Final = f"export it to ONNX where it was made; import-checkpoint takes {_FORMS}"


class ForeignModelError(Exception):
    """Somebody's model cannot be imported; the message names the file, what was seen, and what to do."""


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """A model on disk. `path` is the file, the SavedModel's folder, or the checkpoint's prefix (no such file)."""

    path: Path
    family: Family
    files: tuple[Path, ...]
    """Every file that belongs to it, in the order of their names."""

    @property
    def size_bytes(self) -> int:
        """Size of all its files together."""
        return sum(one.stat().st_size for one in self.files)

    def sha256(self) -> str:
        """Hash of the file; of several files, over the name, length and content of each, in order."""
        digest = hashlib.sha256()
        several = self.family in ("SavedModel", "TensorFlow checkpoint")
        for one in self.files:
            if several:
                inside = one.relative_to(self.path) if self.family == "SavedModel" else one.name
                digest.update(f"{inside}\0{one.stat().st_size}\0".encode())
            with one.open("rb") as handle:
                while block := handle.read(_HASH_BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()


def recognise(source: Path) -> ForeignFile:
    """Tell what `source` is: a file, a folder, or the prefix of a checkpoint.

    Raises:
        ForeignModelError: nothing that can be imported; what it is instead, and what to do.

    """
    if source.is_dir():
        found = _in_folder(source)
    elif source.exists():
        if not stat.S_ISREG(source.stat().st_mode):
            raise ForeignModelError(f"{source}: not a file (a pipe or a device); give {_FORMS}")
        found = _checkpoint_around(source) or _one_file(source)
    elif source.with_name(source.name + ".index").is_file():
        found = _checkpoint(source)
    elif any(source.parent.glob(f"{_plain(source.name)}{_DATA_PART}*")):
        raise ForeignModelError(
            f"{source}: this checkpoint has no file {source.name}.index; copy that as well"
        )
    else:
        raise ForeignModelError(f"{source}: there is no such file, folder or checkpoint")
    if found.size_bytes > SIZE_LIMIT_BYTES:
        raise ForeignModelError(
            f"{source}: {found.size_bytes / 2**30:.1f} GiB; models of up to {SIZE_LIMIT_BYTES / 2**30:.0f} "
            "GiB are imported"
        )
    return found


# --- folders ----------------------------------------------------------------------------------------------------


def _in_folder(folder: Path) -> ForeignFile:
    if (folder / "saved_model.pb").exists():
        return _saved_model(folder)
    if (folder / "checkpoint").is_file():
        return _checkpoint(_named_by(folder / "checkpoint"))
    prefixes = sorted(one.with_suffix("") for one in folder.glob("*.index"))
    if len(prefixes) == 1:
        return _checkpoint(prefixes[0])
    if prefixes:
        names = ", ".join(one.name for one in prefixes)
        raise ForeignModelError(
            f"{folder}: holds {len(prefixes)} checkpoints ({names}); give one of them by name"
        )
    if (folder / "saved_model.pbtxt").exists():
        raise ForeignModelError(
            f"{folder}: a SavedModel as text (saved_model.pbtxt); save it again in binary form"
        )
    raise ForeignModelError(
        f"{folder}: a folder without a saved_model.pb and without a checkpoint; import-checkpoint takes "
        f"{_FORMS}"
    )


def _saved_model(folder: Path) -> ForeignFile:
    found = sorted(folder.rglob("*"))
    links = [one for one in found if one.is_symlink()]
    if links:
        raise ForeignModelError(
            f"{folder}: {links[0].relative_to(folder)} is a link to another place; a SavedModel's files lie "
            "in its folder"
        )
    variables = folder / "variables" / "variables"
    if (folder / "saved_model.pb").stat().st_size == 0:
        raise ForeignModelError(f"{folder}: its saved_model.pb is empty; copy the folder again")
    if variables.parent.is_dir():
        _checkpoint(variables)
    files = sorted(
        (one for one in found if one.is_file()), key=lambda one: one.relative_to(folder).as_posix()
    )
    return ForeignFile(folder, "SavedModel", tuple(files))


def _named_by(state: Path) -> Path:
    """The newest checkpoint, by the file `checkpoint` beside it; only the name in it counts, not the folder."""
    with state.open("rb") as handle:
        text = handle.read(_HEAD_BYTES).decode("utf-8", "replace")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            name = value.strip().strip('"').replace("\\", "/").rpartition("/")[2]
            if name:
                return state.with_name(name)
    raise ForeignModelError(f"{state}: names no checkpoint; give the checkpoint itself (NAME.index)")


def _checkpoint_around(source: Path) -> ForeignFile | None:
    """The checkpoint to which a file belongs (its index, a part of its data, or `checkpoint`), if it does."""
    if source.name == "checkpoint" and _head(source).startswith(b"model_checkpoint_path"):
        return _checkpoint(_named_by(source))
    if _tail(source) == _INDEX_MARK and source.suffix == ".index":
        return _checkpoint(source.with_suffix(""))
    name, part, _ = source.name.rpartition(_DATA_PART)
    if part:
        prefix = source.with_name(name)
        if not prefix.with_name(f"{name}.index").is_file():
            raise ForeignModelError(
                f"{source}: a checkpoint's data without its {name}.index; copy that as well"
            )
        return _checkpoint(prefix)
    return None


def _checkpoint(prefix: Path) -> ForeignFile:
    index = prefix.with_name(prefix.name + ".index")
    if not index.is_file():
        raise ForeignModelError(f"{prefix}: this checkpoint has no file {index.name}; copy that as well")
    if _tail(index) != _INDEX_MARK:
        raise ForeignModelError(f"{index}: not a checkpoint's index, or cut off; copy it again")
    parts = sorted(prefix.parent.glob(f"{_plain(prefix.name)}{_DATA_PART}*"))
    counts = {one.name.rpartition("-of-")[2] for one in parts}
    wanted = int(counts.pop()) if len(counts) == 1 and min(counts).isdigit() else 1
    if len(parts) != wanted:
        raise ForeignModelError(
            f"{prefix}: this checkpoint has {len(parts)} of its {wanted} data files "
            f"({prefix.name}.data-...); copy all of them"
        )
    return ForeignFile(prefix, "TensorFlow checkpoint", (*parts, index))


def _plain(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


# --- files ------------------------------------------------------------------------------------------------------


def _one_file(source: Path) -> ForeignFile:
    head = _head(source)
    if not head:
        raise ForeignModelError(f"{source}: the file is empty; copy it again")
    if head.startswith(_HDF5_MARK):
        return ForeignFile(source, "HDF5", (source,))
    if head.startswith(_ZIP_MARKS):
        _check_archive(source)
        return ForeignFile(source, "Keras 3 archive", (source,))
    other = _other_format(head)
    if other is not None:
        raise ForeignModelError(f"{source}: {other}")
    _check_protobuf(source)
    return ForeignFile(source, "ONNX file", (source,))


_BY_START: Final = (
    (b"\x93NUMPY", f"a NumPy array, which says nothing of the network; {_AS_ONNX}"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"GGUF", f"a GGUF file of a language model; import-checkpoint takes {_FORMS}"),
)
_ZLIB_STARTS: Final = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_PICKLE: Final = (
    "a pickle (torch.save of old, joblib, or Python's own), which may run any program when it is opened, so "
    "it "
    f"never is; {_FROM_TORCH}, or export it to ONNX where it was made"
)


def _other_format(head: bytes) -> str | None:
    """What a file is that cannot be imported, and what to do; None where its start says nothing against it."""
    for start, meaning in _BY_START:
        if head.startswith(start):
            return meaning
    if head[4:8] == b"TFL3":
        return f"a TensorFlow Lite model, whose layers are fused and often quantised; {_AS_ONNX}"
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own format; give the .onnx file that it was made from"
    if head[0] == 0x80 and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    if head.startswith(_ZLIB_STARTS):
        return f"compressed with zlib, as joblib does; it is {_PICKLE}"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < SIZE_LIMIT_BYTES:
        return f"safetensors: weights without their network; {_FROM_TORCH}"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    return _text(head)


def _text(head: bytes) -> str | None:
    try:
        text = head[:-4].decode() if len(head) == _HEAD_BYTES else head.decode()
    except UnicodeDecodeError:
        return None
    if any(letter < " " and letter not in "\t\r\n\f" for letter in text):
        return None
    start = " ".join(text.split())[:40]
    kind = "JSON" if start.startswith(("{", "[")) else "text"
    return f"{kind}, not a model ({start!r}); give the file with the weights: {_FORMS}"


def _check_archive(source: Path) -> None:
    """Refuse every zip file that is no Keras archive, by the names in it."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError) as error:
        raise ForeignModelError(
            f"{source}: a zip archive that is damaged or cut off ({error}); copy it again"
        ) from error
    if names >= _KERAS_MEMBERS:
        return
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        raise ForeignModelError(f"{source}: a TorchScript model, which is a program; {_FROM_TORCH}")
    if "data.pkl" in ends:
        raise ForeignModelError(f"{source}: a PyTorch file, which holds {_PICKLE}")
    if names and all(name.endswith(".npy") for name in names):
        raise ForeignModelError(
            f"{source}: NumPy arrays (.npz), which say nothing of the network; {_AS_ONNX}"
        )
    if "saved_model.pb" in ends:
        raise ForeignModelError(f"{source}: a zip archive with a SavedModel in it; unpack it first")
    shown = ", ".join(sorted(names)[:4]) or "nothing"
    raise ForeignModelError(f"{source}: a zip archive, but not of Keras (it holds {shown}); {_AS_ONNX}")


# --- ONNX -------------------------------------------------------------------------------------------------------
# Field numbers of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_FIELDS: Final = {
    1: _VARINT,  # ir_version
    2: _BYTES,
    3: _BYTES,
    4: _BYTES,
    5: _VARINT,
    6: _BYTES,
    7: _BYTES,  # graph
    8: _BYTES,  # opset_import
    14: _BYTES,
    20: _BYTES,
    25: _BYTES,
    26: _BYTES,
}
_GRAPH: Final = 7
_MOST_FIELDS: Final = 100_000


def _check_protobuf(source: Path) -> None:
    """Refuse what is no ONNX model, by the outermost fields of its protobuf message alone."""
    size, at = source.stat().st_size, 0
    seen: set[int] = set()
    if size > _ONNX_LIMIT_BYTES:
        raise ForeignModelError(f"{source}: {size / 2**30:.1f} GiB; no ONNX file is larger than 2 GiB")
    with source.open("rb") as handle:
        for _ in range(_MOST_FIELDS):
            if at == size:
                break
            handle.seek(at)
            field, length = _field(source, handle.read(24), seen)
            at += length
            seen.add(field)
            if at > size:
                raise ForeignModelError(
                    f"{source}: an ONNX file that is cut off ({size} bytes of at least {at}); copy it again"
                )
    if _GRAPH not in seen:
        raise ForeignModelError(f"{source}: cut off, or no ONNX model (there is no graph in it); {_AS_ONNX}")


def _field(source: Path, start: bytes, seen: set[int]) -> tuple[int, int]:
    """Number and whole length in bytes of the field that starts here."""
    unknown = f"{source}: of no kind that is known here (it starts with {start[:8].hex(' ')}); {_AS_ONNX}"
    key, at = _varint(start, 0)
    if key & 7 != _MODEL_FIELDS.get(key >> 3) or not at:
        if not seen:
            raise ForeignModelError(unknown)
        raise ForeignModelError(f"{source}: an ONNX file that is damaged, or another protobuf; {_AS_ONNX}")
    value, end = _varint(start, at)
    if not end:
        raise ForeignModelError(f"{source}: an ONNX file that is cut off; copy it again" if seen else unknown)
    return key >> 3, end + value if key & 7 == _BYTES else end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it; (0, 0) where the bytes end within."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return 0, 0
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return number, at
    return 0, 0


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(_HEAD_BYTES)


def _tail(path: Path) -> bytes:
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - len(_INDEX_MARK)))
        return handle.read(len(_INDEX_MARK))
