"""What is in this file, and is it a micrograph.

`read_micrograph` answers for every file that reaches the agent or the trainer: it returns one grey picture
with what the instrument said about it, or raises a member of one family that tells incomplete, damaged and
not an image apart. Only this module knows which data set and which frame of a file stand for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

from edge_agent.axis_units import nm_per_pixel
from edge_agent.data_kind import Kind, kind_of, real_dtype
from edge_agent.dm_file import DataSet, DMContents, Tags, read_contents
from edge_agent.dm_tags import MAGIC as DM_MAGIC
from edge_agent.files import Snapshot, SourceChanged, SourceFile, snapshot
from edge_agent.picture_file import MAGIC as PICTURE_MAGIC
from edge_agent.picture_file import read_picture
from edge_agent.shared_opening import NotARegularFile, is_held_by_writer
from edge_agent.unusable_file import DamagedFile, IncompleteFile, NotAnImage, UnusableFile

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.instrument_profile import InstrumentProfile

__all__ = [
    "DamagedFile", "IncompleteFile", "Instrument", "Micrograph", "NotAnImage", "Replaced", "UnusableFile",
    "calibrated", "read_micrograph",
]  # fmt: skip

# 16384 x 16384: four times the largest camera frames, 1 GiB as float32.
PIXEL_LIMIT: Final = 2**28
SNAPSHOT_LIMIT_MIB: Final = 512

_FILETIME_EPOCH: Final = datetime(1601, 1, 1, tzinfo=UTC)
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAUSIBLE_YEARS: Final = range(1990, 2101)  # DigitalMicrograph's first year, and room for a wrong clock
_DEVICE_TAGS: Final = (
    "DataBar.Device Name", "Acquisition.Device.Name", "Session Info.Microscope", "Microscope Info.Name",
)  # fmt: skip
_DETECTORS: Final = {
    **{name: name for name in ("HAADF", "MAADF", "LAADF", "ADF", "ABF", "BF", "DF", "SE", "BSE")},
    "SEI": "SE", "BEI": "BSE",
}  # fmt: skip
_MODES: Final = {"SCANNING": "STEM", "STEM": "STEM", "IMAGING": "TEM", "TEM": "TEM", "EFTEM": "TEM"}
SEM_KV: Final = 30.0
"""Up to it a scanning picture with no named detector is taken for that of an SEM; few TEMs go below 40 kV."""
_MAGNIFICATION: Final = re.compile(r"\s*([\d.]+)\s*([kKM]?)\s*[xX]\s*")


@dataclass(frozen=True, slots=True)
class Instrument:
    """What the file says of the microscope, as written. None where it says nothing, an empty text or zero."""

    voltage_kv: float | None
    magnification: float | None
    imaging_mode: str | None
    operation_mode: str | None
    signal: str | None
    device: str | None

    @property
    def detector(self) -> str | None:
        """By what the picture was made, as far as the tags say it: `HAADF`, `BF`, `SE` ... or `TEM`, `STEM`, `SEM`.

        DigitalMicrograph numbers detectors (`DF4`), writes modes as words (`GIF SCANNING`), and has `SCANNING`
        for SEM and STEM alike.
        """
        named = (_DETECTORS.get(word) for word in _capitals(self.signal))
        mode = (_MODES.get(word) for word in _capitals(self.operation_mode))
        found = next((word for word in (*named, *mode) if word), None)
        if found == "STEM" and self.voltage_kv is not None and self.voltage_kv <= SEM_KV:
            return "SEM"
        return found


@dataclass(frozen=True, slots=True)
class Replaced:
    """What the file said of its pixel size, (rows, columns) or nothing, and the magnification that decided."""

    file_pixel_size_nm: tuple[float, float] | None
    magnification: float


@dataclass(frozen=True, slots=True, eq=False)
class Micrograph:
    """One grey picture and where it comes from.

    `pixels` is rows x columns, read-only, of the number type in the file. `pixel_size_nm` is (rows, columns),
    None unless both axes are calibrated in a unit of length. `dataset_index` counts the file's data sets from
    0, a thumbnail included; `datasets` names the kind of each. `frame_index` is the frame of a stack or the
    page of a TIFF that was taken (the middle one). `acquired` is UTC and comes from unambiguous tags only;
    `acquired_text` is the date and time as the file spells them, which depends on the PC's settings. `replaced` is
    None while the pixel size is the file's own.
    """

    source: SourceFile
    pixels: np.ndarray
    pixel_size_nm: tuple[float, float] | None
    dataset_index: int
    frame_index: int | None
    datasets: tuple[str, ...]
    acquired: datetime | None
    acquired_text: str | None
    instrument: Instrument
    replaced: Replaced | None = None


def read_micrograph(
    path: Path, *, snapshot_limit_mib: int = SNAPSHOT_LIMIT_MIB, pixel_limit: int = PIXEL_LIMIT
) -> Micrograph:
    """Read the micrograph in a .dm3, .dm4, .tif, .png or .jpg file; the content decides, not the name.

    Files up to `snapshot_limit_mib` are read once into memory; of larger ones only the tags and one frame
    are read. Raises IncompleteFile, DamagedFile or NotAnImage about the content, and OSError where the
    system refuses (not found, no permission, a failing disk).
    """
    try:
        with snapshot(path, snapshot_limit_mib * 2**20) as copy:
            return _read(copy, pixel_limit)
    except SourceChanged as error:
        raise IncompleteFile("changed while it was read; it is still being written", path) from error
    except NotARegularFile as error:
        raise DamagedFile(str(error.strerror), path) from error
    except OSError as error:
        if is_held_by_writer(error):
            raise IncompleteFile("is held open by the program that writes it", path) from error
        raise


def calibrated(micrograph: Micrograph, profile: InstrumentProfile) -> Micrograph:
    """Return the micrograph with the square pixels that `profile` lists for its magnification, if it does."""
    magnification = micrograph.instrument.magnification
    size_nm = profile.pixel_size_at(magnification)
    if size_nm is None or magnification is None:
        return micrograph
    replaced = Replaced(micrograph.pixel_size_nm, magnification)
    return replace(micrograph, pixel_size_nm=(size_nm, size_nm), replaced=replaced)


def _read(copy: Snapshot, pixel_limit: int) -> Micrograph:
    source = copy.source
    try:
        head = copy.handle.read(16)
        format_name = _format_of(head, source.stamp.size_bytes)
        if format_name == "DM":
            return _read_dm(copy.handle, source, pixel_limit)
        return _read_export(copy.handle, source, format_name, pixel_limit)
    except UnusableFile as error:
        raise error.about(source.path, source) from error


def _format_of(head: bytes, size_bytes: int) -> str:
    if size_bytes == 0:
        raise IncompleteFile("is empty; it is still being written")
    if not any(head):
        raise IncompleteFile("begins with zeros: its place is reserved, its content not yet written")
    known = {**dict.fromkeys(DM_MAGIC, "DM"), **PICTURE_MAGIC}
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    if any(magic.startswith(head) for magic in known):
        raise IncompleteFile(f"is only {size_bytes} bytes long")
    raise DamagedFile(f"is neither DigitalMicrograph 3 or 4 nor TIFF, PNG or JPEG: it begins with {head!r}")


def _read_export(handle: BinaryIO, source: SourceFile, format_name: str, pixel_limit: int) -> Micrograph:
    picture = read_picture(handle, source.stamp.size_bytes, format_name, pixel_limit)
    return Micrograph(
        source=source,
        pixels=_frozen(picture.pixels),
        pixel_size_nm=picture.pixel_size_nm,
        dataset_index=0,
        frame_index=picture.page,
        datasets=("image",) if picture.page is None else ("stack",),
        acquired=None,
        acquired_text=None,
        instrument=Instrument(None, None, None, None, None, None),
    )


def _read_dm(handle: BinaryIO, source: SourceFile, pixel_limit: int) -> Micrograph:
    contents = read_contents(handle, source.stamp.size_bytes)
    kinds = tuple(kind_of(data_set) for data_set in contents.data_sets)
    index = _choose(contents, kinds)
    data_set = contents.data_sets[index]
    frame_index = data_set.axes[2].size // 2 if kinds[index].name == "stack" else None
    acquired_text = _acquired_text(data_set.tags) or _acquired_text(contents.tags)
    return Micrograph(
        source=source,
        pixels=_frame(handle, data_set, frame_index or 0, pixel_limit),
        pixel_size_nm=_pixel_size_nm(data_set),
        dataset_index=index,
        frame_index=frame_index,
        datasets=tuple(kind.name for kind in kinds),
        acquired=_acquired(data_set.tags),
        acquired_text=acquired_text,
        instrument=_instrument(data_set.tags),
    )


def _choose(contents: DMContents, kinds: tuple[Kind, ...]) -> int:
    """Return the index of the first micrograph, in the order in which the document shows the data sets."""
    order: tuple[int, ...] = tuple(dict.fromkeys((*contents.shown, *range(len(kinds)))))
    for index in order:
        if kinds[index].is_micrograph:
            return index
    others = [index for index in order if kinds[index].name != "thumbnail"]
    if not others:
        raise NotAnImage("holds no data set" if not kinds else "holds a thumbnail and no data set")
    reasons = [f"data set {index} {kinds[index].reason}" for index in others]
    raise NotAnImage("; ".join(reasons[:4]) + ("; ..." if len(reasons) > 4 else ""))


def _frame(handle: BinaryIO, data_set: DataSet, frame_index: int, pixel_limit: int) -> np.ndarray:
    """Read one frame. Everything is compared with the data set's own length before a byte is allocated."""
    dtype = real_dtype(data_set)
    if dtype is None or data_set.pixel_bytes != dtype.itemsize:
        seen = f"{data_set.pixel_bytes} bytes a pixel, which data type {data_set.data_type} has not"
        raise DamagedFile(f"has {seen}")
    columns, rows = data_set.axes[0].size, data_set.axes[1].size
    elements = 1
    for axis in data_set.axes:
        elements *= axis.size
    if elements * dtype.itemsize != data_set.size_bytes:
        promised = elements * dtype.itemsize
        raise DamagedFile(f"has {data_set.size_bytes} bytes of pixels where its dimensions need {promised}")
    if rows * columns > pixel_limit:
        raise DamagedFile(f"has {rows} x {columns} pixels, more than the limit of {pixel_limit}")
    frame_bytes = rows * columns * dtype.itemsize
    handle.seek(data_set.offset + frame_index * frame_bytes)
    data = handle.read(frame_bytes)
    if len(data) != frame_bytes:
        raise IncompleteFile("became shorter while it was read")
    return _frozen(np.frombuffer(data, dtype).reshape(rows, columns))


def _frozen(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.view()
    pixels.flags.writeable = False
    return pixels


def _pixel_size_nm(data_set: DataSet) -> tuple[float, float] | None:
    columns, rows = (nm_per_pixel(axis.scale, axis.unit) for axis in data_set.axes[:2])
    return None if rows is None or columns is None else (rows, columns)


def _instrument(tags: Tags) -> Instrument:
    voltage = tags.number("Microscope Info.Voltage")
    return Instrument(
        voltage_kv=voltage / 1000 if voltage else None,
        magnification=_magnification(tags),
        imaging_mode=tags.text("Microscope Info.Imaging Mode"),
        operation_mode=tags.text("Microscope Info.Operation Mode"),
        signal=tags.text("DataBar.Signal Name") or tags.text("Meta Data.Signal"),
        device=_first_text(tags, _DEVICE_TAGS),
    )


def _capitals(text: str | None) -> list[str]:
    return re.findall(r"[A-Z]+", (text or "").upper())


def _first_text(tags: Tags, names: tuple[str, ...]) -> str | None:
    texts = (tags.text(name) for name in names)
    return next((text for text in texts if text and text != "Unknown"), None)


def _magnification(tags: Tags) -> float | None:
    written = _MAGNIFICATION.fullmatch(tags.text("Microscope Info.Formatted Indicated Mag") or "")
    formatted = _number(written[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[written[2]] if written else 0.0
    indicated = tags.number("Microscope Info.Indicated Magnification")
    magnification = indicated or formatted or tags.number("Microscope Info.Actual Magnification")
    return magnification if magnification and magnification > 0 else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _acquired(tags: Tags) -> datetime | None:
    """Return the time from the two tags that count in UTC, whatever the PC's settings."""
    filetime = tags.number("DataBar.Acquisition Time (OS)")
    epoch_ms = tags.number("Acquisition.Frame.Sequence.Acquisition Start Time (epoch)")
    return _moment(_FILETIME_EPOCH, filetime, 1e-7) or _moment(_UNIX_EPOCH, epoch_ms, 1e-3)


def _moment(epoch: datetime, count: float | None, seconds_per_count: float) -> datetime | None:
    if count is None:
        return None
    try:
        moment = epoch + timedelta(seconds=count * seconds_per_count)
    except OverflowError:
        return None
    return moment if moment.year in _PLAUSIBLE_YEARS else None


def _acquired_text(tags: Tags) -> str | None:
    parts = (tags.text("DataBar.Acquisition Date"), tags.text("DataBar.Acquisition Time"))
    return " ".join(part for part in parts if part) or tags.text("Timestamp")
