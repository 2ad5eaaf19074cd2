"""A Keras 3 archive (.keras) that may come from anyone: its members taken out, once counted and measured.

Only this module opens zip archives with a model in them. An archive has three members, each once, and nothing is
written but the weights, under a name of ours (no path of the archive's is ever used: CVE-2025-12060).
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trainer.importing.foreign_file import SIZE_LIMIT_BYTES, ForeignModelError
from trainer.importing.keras_config import TEXT_LIMIT_BYTES, read_config

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_LIMITS: Final = {_CONFIG: TEXT_LIMIT_BYTES, _METADATA: 2**20, _WEIGHTS: SIZE_LIMIT_BYTES}
_MOST_EXPANSION: Final = 200
_ENCRYPTED: Final = 0x1
_ZIP_FAULTS: Final = (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError, EOFError)


@dataclass(frozen=True, slots=True)
class KerasArchive:
    """What an archive holds: the description as Keras 3 is to see it, and where its weights now lie."""

    config: dict[str, Any]
    weights: Path
    metadata: str


def unpack(source: Path, folder: Path) -> KerasArchive:
    """Take an archive apart into a private folder.

    Raises:
        ForeignModelError: other members than the three, absurd sizes, damage, or a description that is not plain.

    """
    weights = folder / _WEIGHTS
    try:
        with zipfile.ZipFile(source) as archive:
            _check_members(archive.infolist(), source)
            config, metadata = archive.read(_CONFIG), archive.read(_METADATA)
            with archive.open(_WEIGHTS) as stored, weights.open("wb") as copy:
                shutil.copyfileobj(stored, copy, 2**20)
    except _ZIP_FAULTS as error:
        raise ForeignModelError(
            f"{source}: a Keras archive that is damaged ({error}); copy it again"
        ) from error
    return KerasArchive(read_config(config, source), weights, metadata.decode("utf-8", "replace"))


def _check_members(members: list[zipfile.ZipInfo], source: Path) -> None:
    names = [one.filename for one in members]
    foreign = sorted(set(names) - set(_LIMITS))
    if foreign:
        raise ForeignModelError(
            f"{source}: holds {foreign[0]!r}, which no plain model has (vocabularies, code or weights in "
            "parts); "
            "save it in one part, or export it to ONNX where it was made"
        )
    missing = sorted(set(_LIMITS) - set(names))
    if missing or len(names) != len(set(names)):
        what = f"lacks {', '.join(missing)}" if missing else "holds a member twice"
        raise ForeignModelError(f"{source}: a Keras archive that {what}; save it again")
    for one in members:
        if one.flag_bits & _ENCRYPTED:
            raise ForeignModelError(f"{source}: is encrypted; save it again without a password")
        if one.file_size > min(_LIMITS[one.filename], _MOST_EXPANSION * max(one.compress_size, 1)):
            raise ForeignModelError(
                f"{source}: its {one.filename} says it has {one.file_size} bytes, in {one.compress_size} "
                "stored ones; "
                "no model does, so it is not unpacked"
            )
