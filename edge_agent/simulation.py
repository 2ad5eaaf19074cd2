"""The simulated microscope: a session of acquisitions, saved into a folder as an instrument saves them.

Only this module knows what a session holds, how its files are named and how they reach the disk. What
a micrograph looks like is in `simulated_field`, the bytes of a DM3 file are in `dm_writer`. Every file
says in its tags that it is simulated.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edge_agent import __version__
from edge_agent.dm_writer import Axis, Picture, double, filetime, floats, longs, write_dm3
from edge_agent.simulated_field import (
    CAMERA_FACTOR,
    CAMERA_WIDTH_UM,
    DRAWN,
    SimulatedField,
    draw_field,
)
from edge_agent.simulated_particles import SHAPES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "DRAWN",
    "SHAPES",
    "SavedFile",
    "SimulatedField",
    "SimulatedInstrument",
    "diffraction_dm3_bytes",
    "dm3_bytes",
    "draw_field",
    "drift_series_dm3_bytes",
    "run_microscope",
    "spectrum_dm3_bytes",
]

SaveMode = Literal["in-place", "rename", "slow"]

# Twenty acquisitions of a session, shuffled; the last card changes from one deck to the next.
_DECK = (*SHAPES * 5, "empty", "overfull", "spectrum", "diffraction")
_RARE = ("drift series", "blank", "saturated")
_NAME_ENDINGS = {"spectrum": " EELS", "diffraction": " SAED", "drift series": " drift series"}
_SLOW_PIECES = 10


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that the microscope has finished writing.

    `drawn` is one of `DRAWN`, "spectrum" or "diffraction"; for a drift series it is the shape in it.
    """

    path: Path
    drawn: str
    clear: bool


@dataclass(frozen=True, slots=True)
class SimulatedInstrument:
    """The names in the tags, and whether pictures are scanned (STEM, dark field) or projected (TEM)."""

    microscope: str = "Simulated TEM"
    camera: str = "Simulated camera"
    scanning: bool = False


_DEFAULT = SimulatedInstrument()


@dataclass(frozen=True, slots=True)
class _Acquisition:
    """One exposure of the session, ready to be saved."""

    drawn: str
    clear: bool
    content: bytes


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `run_microscope` was asked for."""

    folder: Path
    files: int
    rate_hz: float
    size_px: int
    mode: SaveMode
    seed: int
    stop: threading.Event | None
    slow_seconds: float
    clock: Callable[[], datetime]


def run_microscope(
    folder: Path,
    *,
    files: int,
    rate_hz: float,
    size_px: int = 2048,
    mode: SaveMode = "in-place",
    seed: int = 0,
    stop: threading.Event | None = None,
    slow_seconds: float = 1.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[SavedFile]:
    """Save `files` acquisitions into `folder`, the first at once, then at most `rate_hz` a second.

    Three in four are fields of the three shapes in equal parts; the others are empty, overfull, blank
    or saturated fields, spectra, diffraction patterns and drift series. What is drawn depends on `seed`
    alone; numbers go on after the files that are there, and nothing is overwritten. Each file is
    yielded when it is complete. `stop` ends the session after the file that is being written.

    "in-place" writes under the final name in a few chunks, "slow" in ten pieces over `slow_seconds`,
    "rename" under a temporary name in the same folder that is then renamed. `clock` gives the
    acquisition time for the tags. Raises ValueError for a rate, mode or count that makes no sense.
    """
    if mode not in get_args(SaveMode):
        raise ValueError(f"save mode {mode!r} is unknown: choose one of {', '.join(get_args(SaveMode))}")
    if not rate_hz > 0:
        raise ValueError(f"a rate of {rate_hz} files a second saves nothing: give one above 0")
    if files < 0:
        raise ValueError(f"cannot save {files} files: give 0 or more")
    folder.mkdir(parents=True, exist_ok=True)
    return _session(_Plan(folder, files, rate_hz, size_px, mode, seed, stop, slow_seconds, clock))


def dm3_bytes(
    field: SimulatedField,
    *,
    acquired: datetime | None = None,
    name: str = "Simulated micrograph",
    by: SimulatedInstrument = _DEFAULT,
) -> bytes:
    """Lay a micrograph out as the DM3 file that a camera's "Record" gives.

    `acquired` must name its time zone (ValueError); without it the file carries no acquisition time.
    """
    axis = Axis(field.pixel_size_nm, "nm")
    tags = {
        **_camera_tags(field.pixels.shape, "Imaging", by),
        **_time_tags(acquired, by),
        **_simulation_tags(field.drawn),
        "Meta Data": {"Acquisition Mode": "Parallel imaging", "Format": "Image"},
        "Microscope Info": _microscope_tags(field.voltage_kv, field.magnification, "IMAGING", by),
    }
    return write_dm3(Picture(name, field.pixels, (axis, axis), tags))


def drift_series_dm3_bytes(
    field: SimulatedField,
    rng: np.random.Generator,
    *,
    frames: int = 5,
    acquired: datetime | None = None,
    name: str = "Simulated drift series",
) -> bytes:
    """Lay out a stack of `frames` exposures of one field, the specimen drifting between them.

    Frames lose a sixteenth of the field's width on each side to the drift.
    """
    margin = field.pixels.shape[0] // 16
    steps = rng.normal(0, margin / (2 * math.sqrt(frames)), (frames, 2))
    shifts = np.clip(np.rint(steps.cumsum(0)), -margin, margin).astype(int) + margin
    side = field.pixels.shape[0] - 2 * margin
    stack = np.stack([field.pixels[y : y + side, x : x + side] for y, x in shifts]).astype(np.float32)
    stack += np.sqrt(np.maximum(stack, 1)) * rng.standard_normal(stack.shape, np.float32)
    axis = Axis(field.pixel_size_nm, "nm")
    tags = {
        **_camera_tags((side, side), "Imaging"),
        **_time_tags(acquired),
        **_simulation_tags(field.drawn),
        "Meta Data": {"Acquisition Mode": "Parallel imaging", "Format": "Image stack"},
        "Microscope Info": _microscope_tags(field.voltage_kv, field.magnification, "IMAGING"),
    }
    return write_dm3(Picture(name, stack, (axis, axis, Axis(1.0, "")), tags))


def spectrum_dm3_bytes(
    rng: np.random.Generator, *, acquired: datetime | None = None, name: str = "Simulated EELS spectrum"
) -> bytes:
    """Lay out a core-loss EELS spectrum of the carbon film: 2048 channels of 0.5 eV from 200 eV on."""
    channels, dispersion_ev, first_ev = 2048, 0.5, 200.0
    loss_ev = first_ev + dispersion_ev * np.arange(channels)
    expected = rng.uniform(2e3, 2e4) * (loss_ev / first_ev) ** -rng.uniform(2.6, 3.4)
    for onset_ev, height in ((284.0, rng.uniform(0.3, 0.8)), (532.0, rng.uniform(0.0, 0.4))):
        beyond = np.maximum(loss_ev - onset_ev, 0)
        edge = (1 - np.exp(-beyond / 4)) * (onset_ev / loss_ev) ** 3
        expected += height * expected[np.argmax(loss_ev >= onset_ev)] * edge
    tags = {
        **_camera_tags((2048, 2048), "Spectroscopy"),
        **_time_tags(acquired),
        **_simulation_tags("spectrum"),
        "EELS": {"Acquisition": {"Exposure (s)": double(0.1), "Number of frames": 20}},
        "Meta Data": {"Acquisition Mode": "Parallel dispersive", "Format": "Spectrum", "Signal": "EELS"},
        "Microscope Info": _microscope_tags(200.0, 20_000.0, "IMAGING"),
    }
    axis = Axis(dispersion_ev, "eV", origin_px=-first_ev / dispersion_ev)
    return write_dm3(Picture(name, rng.poisson(expected).astype(np.float32), (axis,), tags))


def diffraction_dm3_bytes(
    rng: np.random.Generator,
    *,
    size_px: int = 1024,
    acquired: datetime | None = None,
    name: str = "Simulated SAED pattern",
) -> bytes:
    """Lay out a selected-area diffraction pattern of gold particles: spotty rings, calibrated in 1/nm."""
    scale_per_nm = 16.0 / size_px
    centre = size_px / 2 + rng.normal(0, size_px / 100, 2)
    counts = rng.poisson(_rings(rng, size_px, centre, scale_per_nm)).astype(np.int32)
    tags = {
        **_camera_tags((size_px, size_px), "Imaging"),
        **_time_tags(acquired),
        **_simulation_tags("diffraction"),
        "Meta Data": {"Acquisition Mode": "Parallel imaging", "Format": "Diffraction image"},
        "Microscope Info": _microscope_tags(200.0, 380.0, "DIFFRACTION"),
    }
    axes = tuple(Axis(scale_per_nm, "1/nm", origin_px=float(place)) for place in (centre[1], centre[0]))
    return write_dm3(Picture(name, counts, axes, tags))


def _rings(
    rng: np.random.Generator, size_px: int, centre: NDArray[np.float64], scale_per_nm: float
) -> NDArray[np.float64]:
    """Draw expected counts: direct beam, diffuse background, and the spots of gold's first rings."""
    axis = np.arange(size_px)
    radius_per_nm: NDArray[np.float64] = (
        np.hypot(axis[:, None] - centre[0], axis[None, :] - centre[1]) * scale_per_nm
    )
    counts: NDArray[np.float64] = (
        40 + 6e4 * np.exp(-((radius_per_nm / 0.12) ** 2)) + 900 * np.exp(-radius_per_nm / 1.2)
    )
    for ring_per_nm, strength in ((4.25, 1.0), (4.90, 0.5), (6.93, 0.35), (8.13, 0.35)):
        counts += 120 * strength * np.exp(-(((radius_per_nm - ring_per_nm) / 0.05) ** 2))
        for azimuth in rng.uniform(0, 2 * math.pi, 40):
            y, x = centre + np.array([math.sin(azimuth), math.cos(azimuth)]) * ring_per_nm / scale_per_nm
            _add_spot(counts, y, x, strength * rng.lognormal(6.5, 0.8), size_px / 700)
    return counts


def _add_spot(counts: NDArray[np.float64], y: float, x: float, height: float, width_px: float) -> None:
    reach = math.ceil(4 * width_px)
    top, left = max(0, round(y) - reach), max(0, round(x) - reach)
    patch = counts[top : round(y) + reach + 1, left : round(x) + reach + 1]
    rows, columns = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    patch += height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width_px**2))


def _camera_tags(
    shape: tuple[int, ...], environment: str, by: SimulatedInstrument = _DEFAULT
) -> dict[str, Any]:
    height, width = shape
    pitch_um = CAMERA_WIDTH_UM / width
    return {
        "Acquisition": {
            "Device": {
                "Active Size (pixels)": longs(width, height),
                "CCD": {"Pixel Size (um)": floats(pitch_um, pitch_um)},
                "Name": by.camera,
                "Source": by.camera,
            },
            "Parameters": {
                "Environment": {"Mode Name": environment},
                "High Level": {
                    "Binning": longs(1, 1),
                    "CCD Read Area": longs(0, 0, height, width),
                    "Exposure (s)": double(1.0),
                    "Processing": "Gain Normalized",
                },
                "Parameter Set Name": "Record",
            },
        },
    }


def _microscope_tags(
    voltage_kv: float, magnification: float, mode: str, by: SimulatedInstrument = _DEFAULT
) -> dict[str, Any]:
    return {
        "Actual Magnification": double(magnification * CAMERA_FACTOR),
        "Cs(mm)": double(1.2),
        "Emission Current (µA)": double(0.0),
        "Formatted Indicated Mag": f"{magnification / 1e3:g}kx",
        "Formatted Voltage": f"{voltage_kv:g}kV",
        "Illumination Mode": "STEM NANOPROBE" if by.scanning else "TEM",
        # A scanning microscope's detector lies in the diffraction plane, and the tag says so.
        "Imaging Mode": "DIFFRACTION" if by.scanning else mode,
        "Indicated Magnification": double(magnification),
        "Magnification Interpolated": False,
        "Microscope": by.microscope,
        "Name": by.microscope,
        "Operation Mode": "SCANNING" if by.scanning else mode,
        "Operator": "scopewatch",
        "Specimen": "Simulated specimen",
        "Voltage": double(voltage_kv * 1e3),
    }


def _simulation_tags(drawn: str) -> dict[str, Any]:
    note = "Simulated: drawn by a program; no specimen and no microscope."
    return {"Simulation": {"Drawn": drawn, "Note": note, "Software": f"scopewatch {__version__}"}}


def _time_tags(acquired: datetime | None, by: SimulatedInstrument = _DEFAULT) -> dict[str, Any]:
    """Write the acquisition time as DigitalMicrograph does: two American strings and a FILETIME."""
    bar: dict[str, Any] = {"Device Name": by.camera, "Exposure Time (s)": double(1.0)}
    if acquired is not None:
        bar["Acquisition Time (OS)"] = double(filetime(acquired))
        bar["Acquisition Date"] = f"{acquired.month}/{acquired.day}/{acquired.year}"
        bar["Acquisition Time"] = f"{(acquired.hour - 1) % 12 + 1}:{acquired:%M:%S %p}"
    return {"DataBar": bar}


def _session(plan: _Plan) -> Iterator[SavedFile]:
    number = _last_number(plan.folder)
    pause_seconds = plan.slow_seconds / _SLOW_PIECES if plan.mode == "slow" else 0.0
    save = _save_and_rename if plan.mode == "rename" else _save_in_pieces
    started = time.monotonic()
    for index in range(plan.files):
        kind = _kind(plan.seed, index)
        name = f"session_{number + index + 1:04d}{_NAME_ENDINGS.get(kind, '')}"
        rng = np.random.default_rng([plan.seed, 1, index])
        acquisition = _acquire(kind, rng, plan.size_px, plan.clock(), name)
        if _stopped_before(started + index / plan.rate_hz, plan.stop):
            return
        path = plan.folder / f"{name}.dm3"
        save(path, acquisition.content, pause_seconds)
        yield SavedFile(path, acquisition.drawn, acquisition.clear)


def _kind(seed: int, index: int) -> str:
    """Say what the session's acquisition number `index` is, whatever came before it was asked for."""
    deck, place = divmod(index, len(_DECK) + 1)
    cards = (*_DECK, _RARE[deck % len(_RARE)])
    order = np.random.default_rng([seed, 0, deck]).permutation(len(cards))
    return cards[order[place]]


def _acquire(
    kind: str, rng: np.random.Generator, size_px: int, acquired: datetime, name: str
) -> _Acquisition:
    if kind == "spectrum":
        return _Acquisition(kind, clear=False, content=spectrum_dm3_bytes(rng, acquired=acquired, name=name))
    if kind == "diffraction":
        content = diffraction_dm3_bytes(rng, size_px=max(64, size_px // 2), acquired=acquired, name=name)
        return _Acquisition(kind, clear=False, content=content)
    if kind == "drift series":
        field = draw_field(str(rng.choice(SHAPES)), rng, max(64, size_px // 4))
        content = drift_series_dm3_bytes(field, rng, acquired=acquired, name=name)
        return _Acquisition(field.drawn, field.clear, content)
    field = draw_field(kind, rng, size_px)
    return _Acquisition(field.drawn, field.clear, dm3_bytes(field, acquired=acquired, name=name))


def _last_number(folder: Path) -> int:
    """Find the highest number among the session files that are there, 0 if there is none."""
    numbers = [path.stem.split()[0].removeprefix("session_") for path in folder.glob("session_*.dm3")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _stopped_before(due: float, stop: threading.Event | None) -> bool:
    """Wait until `due` on the monotonic clock; True as soon as the session is to end."""
    remaining = max(0.0, due - time.monotonic())
    if stop is not None:
        return stop.wait(remaining) if remaining else stop.is_set()
    time.sleep(remaining)
    return False


def _save_in_pieces(path: Path, content: bytes, pause_seconds: float) -> None:
    """Write under the final name; each piece is on its way to the disk before the next is written."""
    piece = math.ceil(len(content) / _SLOW_PIECES)
    with path.open("xb") as file:
        for start in range(0, len(content), piece):
            file.write(content[start : start + piece])
            file.flush()
            if pause_seconds:
                time.sleep(pause_seconds)


def _save_and_rename(path: Path, content: bytes, pause_seconds: float) -> None:
    temporary = path.with_suffix(".tmp")
    _save_in_pieces(temporary, content, pause_seconds)
    temporary.replace(path)
