"""The simulated microscope: what it draws, the DM3 files it writes, and how they reach the folder."""

from __future__ import annotations

import itertools
import math
import struct
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from edge_agent import simulation
from edge_agent.dm_writer import Axis, Picture, filetime, write_dm3
from edge_agent.micrograph import read_micrograph
from edge_agent.preprocessing import Preprocessing, describe_field
from edge_agent.simulated_field import (
    CAMERA_FACTOR,
    CAMERA_WIDTH_UM,
    _choose_view,
    expose,
    view_at,
    wavelength_nm,
)
from edge_agent.simulated_particles import Particle, Polyhedron, Rod, Sphere, paint, populate
from edge_agent.simulation import (
    DRAWN,
    SHAPES,
    SimulatedField,
    SimulatedInstrument,
    diffraction_dm3_bytes,
    dm3_bytes,
    draw_field,
    drift_series_dm3_bytes,
    run_microscope,
    spectrum_dm3_bytes,
)

NOON = datetime(2024, 3, 9, 12, 0, 0, 250_000, tzinfo=UTC)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def field_of(pixels: np.ndarray) -> SimulatedField:
    return SimulatedField("round", True, pixels, 0.25, 40_000.0, 200.0)


def ramp(dtype: str, shape: tuple[int, ...] = (12, 20)) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype) * 7


# ---------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("size_px", [64, 257])
def test_every_kind_of_field(drawn: str, size_px: int) -> None:
    field = draw_field(drawn, rng(3), size_px)

    assert field.drawn == drawn
    assert field.pixels.shape == (size_px, size_px)
    assert field.pixels.dtype.name in ("uint16", "int16", "int32", "float32")
    assert field.clear <= (drawn in SHAPES)
    field_nm = CAMERA_WIDTH_UM * 1000 / (field.magnification * CAMERA_FACTOR)
    assert field.pixel_size_nm * size_px == pytest.approx(field_nm)
    assert field.voltage_kv in (80, 120, 200, 300)


@pytest.mark.parametrize("drawn", DRAWN)
def test_the_same_seed_draws_the_same_field(drawn: str) -> None:
    first, again = (draw_field(drawn, rng(11), 96) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.pixels.dtype == again.pixels.dtype
    assert (first.clear, first.pixel_size_nm, first.voltage_kv) == (
        again.clear,
        again.pixel_size_nm,
        again.voltage_kv,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_most_fields_of_a_shape_are_clear_and_some_are_not(shape: str) -> None:
    clear = [draw_field(shape, rng(seed), 64).clear for seed in range(60)]
    assert 45 <= sum(clear) < 60


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(5))
def test_particles_are_darker_than_the_film(shape: str, seed: int) -> None:
    field = next(f for f in (draw_field(shape, rng([seed, n]), 256) for n in itertools.count()) if f.clear)
    film, dark = np.percentile(field.pixels, (50, 2))
    assert dark < 0.75 * film, "no particle stands out"
    assert not describe_field(field.pixels, Preprocessing()).blank


@pytest.mark.parametrize("seed", range(6))
def test_a_blank_field_holds_nothing_but_noise(seed: int) -> None:
    pixels = draw_field("blank", rng(seed), 256).pixels
    assert pixels.max() - pixels.min() < 50
    assert pixels.min() == pixels.max() or 2 < pixels.std() < 4
    assert describe_field(pixels, Preprocessing()).blank


def test_blank_fields_are_zero_or_noise() -> None:
    assert {draw_field("blank", rng(seed), 64).pixels.max() == 0 for seed in range(12)} == {True, False}


@pytest.mark.parametrize("seed", range(4))
def test_a_saturated_field_has_lost_its_film(seed: int) -> None:
    pixels = draw_field("saturated", rng(seed), 256).pixels
    assert np.mean(pixels == 65_535) > 0.5
    assert describe_field(pixels, Preprocessing()).saturated_fraction > 0.5


@pytest.mark.parametrize(
    ("drawn", "size_px", "message"),
    [
        pytest.param("cube", 64, "cannot draw 'cube': choose one of round, rod, faceted", id="unknown-kind"),
        pytest.param("round", 32, "32 pixels is too small to draw: use 64 or more", id="too-small"),
    ],
)
def test_what_cannot_be_drawn(drawn: str, size_px: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_field(drawn, rng(), size_px)


@pytest.mark.parametrize(
    ("voltage_kv", "picometres"), [pytest.param(80, 4.176, id="80kV"), pytest.param(200, 2.508, id="200kV")]
)
def test_wavelength(voltage_kv: float, picometres: float) -> None:
    assert wavelength_nm(voltage_kv) * 1000 == pytest.approx(picometres, abs=0.001)


# ---------------------------------------------------------------------------- the particles

CUBE = Polyhedron(((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)), (0.5,) * 6)
OCTAHEDRON = Polyhedron(
    tuple(
        (i / math.sqrt(3), j / math.sqrt(3), k / math.sqrt(3))
        for i, j, k in itertools.product((-1, 1), repeat=3)
    ),
    (1 / math.sqrt(3),) * 8,
)


@pytest.mark.parametrize(
    ("body", "volume", "shadow"),
    [
        pytest.param(Sphere(), 4 / 3 * math.pi, math.pi, id="sphere"),
        pytest.param(Sphere(hollow=0.6), 4 / 3 * math.pi * (1 - 0.6**3), math.pi, id="hollow-sphere"),
        pytest.param(Rod(2.0, flat_tips=True), 6 * math.pi, 12, id="cylinder"),
        pytest.param(Rod(2.0, flat_tips=False), 4 * math.pi + 4 / 3 * math.pi, 8 + math.pi, id="capsule"),
        pytest.param(CUBE, 1, 1, id="cube"),
        pytest.param(OCTAHEDRON, 4 / 3, 2, id="octahedron"),
    ],
)
def test_a_body_has_its_volume_and_its_shadow(
    body: Sphere | Rod | Polyhedron, volume: float, shadow: float
) -> None:
    pixel = 1 / 100
    axis = np.arange(-3.2, 3.2, pixel, dtype=np.float32)
    thickness = body.thickness(axis[None, :] + 0 * axis[:, None], axis[:, None] + 0 * axis[None, :], pixel)
    assert float(thickness.sum()) * pixel**2 == pytest.approx(volume, rel=0.01)
    assert float((thickness > 0.001).sum()) * pixel**2 == pytest.approx(shadow, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(8))
def test_a_field_holds_separate_particles_of_one_shape(shape: str, seed: int) -> None:
    particles = populate(shape, rng(seed), 1000)

    assert 5 <= len(particles) <= 40
    assert len({type(particle.body) for particle in particles}) == 1
    for first, second in itertools.combinations(particles, 2):
        apart = np.hypot(*np.moveaxis(first.spine()[:, None] - second.spine()[None], -1, 0)).min()
        assert apart >= 0.9 * (first.radius_px + second.radius_px)
    for particle in particles[:5]:
        assert particle.reach_px <= min(particle.x_px, particle.y_px)
        assert max(particle.x_px, particle.y_px) <= 1000 - particle.reach_px


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(10))
def test_the_magnification_suits_the_particles(shape: str, seed: int) -> None:
    particles = populate(shape, rng(seed), 256)
    view = _choose_view(rng(seed), 256, particles, noisy=False)
    widths_nm = [2 * particle.radius_px * view.pixel_size_nm for particle in particles]
    assert min(widths_nm) >= 5
    assert max(widths_nm) <= 200


@pytest.mark.parametrize(
    ("x_px", "y_px"),
    [pytest.param(-40, 10, id="outside"), pytest.param(0, 0, id="corner"), pytest.param(30, 63, id="rim")],
)
def test_a_particle_may_be_cut_by_the_rim(x_px: float, y_px: float) -> None:
    absorption, thickness = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.float32)
    paint(Particle(Sphere(), x_px, y_px, 0.3, 12.0, 0.0, opacity=2.0), absorption, thickness)
    assert absorption.max() == pytest.approx(2.0 if x_px >= 0 else 0.0, abs=0.02)
    assert thickness.max() <= 1


# ---------------------------------------------------------------------------- the DM3 files


def with_ncempy(path: Path) -> tuple[np.ndarray, list[tuple[float, str]]]:
    from ncempy.io.dm import fileDM

    with fileDM(path) as file:
        read = file.getDataset(0)
    return np.array(read["data"]), list(zip(map(float, read["pixelSize"]), read["pixelUnit"], strict=True))


def with_rosettasciio(path: Path) -> tuple[np.ndarray, list[tuple[float, str]]]:
    from rsciio.digitalmicrograph import file_reader

    read = file_reader(str(path))[-1]
    return read["data"], [(float(axis["scale"]), str(axis["units"])) for axis in read["axes"]]


def with_nion(path: Path) -> tuple[np.ndarray, list[tuple[float, str]]]:
    from nionswift_plugin.DM_IO.dm3_image_utils import load_image

    with path.open("rb") as file:
        read = load_image(file)
    return np.array(read.data), [(axis.scale, axis.units) for axis in read.dimensional_calibrations]


READERS = [
    pytest.param(with_ncempy, id="ncempy"),
    pytest.param(with_rosettasciio, id="rosettasciio"),
    pytest.param(with_nion, id="nionswift-io"),
]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("read", READERS)
def test_other_readers_find_the_pixels_and_the_calibration(tmp_path: Path, read, dtype: str) -> None:
    pixels = ramp(dtype)
    (tmp_path / "a.dm3").write_bytes(dm3_bytes(field_of(pixels), acquired=NOON))

    values, axes = read(tmp_path / "a.dm3")

    assert values.dtype == pixels.dtype
    assert np.array_equal(values, pixels)
    assert axes == [(pytest.approx(0.25), "nm")] * 2


@pytest.mark.parametrize("read", READERS)
def test_a_drawn_field_survives_the_file(tmp_path: Path, read) -> None:
    field = draw_field("faceted", rng(4), 200)
    (tmp_path / "a.dm3").write_bytes(dm3_bytes(field))
    values, axes = read(tmp_path / "a.dm3")
    assert np.array_equal(values, field.pixels)
    assert axes[0] == (pytest.approx(field.pixel_size_nm), "nm")


def test_our_own_reader_finds_everything(tmp_path: Path) -> None:
    from edge_agent.micrograph import read_micrograph

    field = draw_field("rod", rng(8), 200)
    (tmp_path / "a.dm3").write_bytes(dm3_bytes(field, acquired=NOON))

    micrograph = read_micrograph(tmp_path / "a.dm3")

    assert micrograph.pixels.dtype == field.pixels.dtype
    assert np.array_equal(micrograph.pixels, field.pixels)
    assert micrograph.pixel_size_nm == pytest.approx((field.pixel_size_nm,) * 2)
    assert micrograph.dataset_index == 1
    assert micrograph.frame_index is None
    assert micrograph.acquired == NOON
    assert micrograph.instrument.voltage_kv == field.voltage_kv
    assert micrograph.instrument.magnification == field.magnification
    assert micrograph.instrument.device == "Simulated camera"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(spectrum_dm3_bytes(rng()), "spectrum", id="spectrum"),
        pytest.param(diffraction_dm3_bytes(rng(), size_px=128), "diffraction", id="diffraction"),
    ],
)
def test_our_own_reader_knows_what_is_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    from edge_agent.micrograph import NotAnImage, read_micrograph

    (tmp_path / "a.dm3").write_bytes(content)
    with pytest.raises(NotAnImage, match=reason):
        read_micrograph(tmp_path / "a.dm3")


def test_our_own_reader_takes_the_middle_frame_of_a_drift_series(tmp_path: Path) -> None:
    from edge_agent.micrograph import read_micrograph

    content = drift_series_dm3_bytes(draw_field("round", rng(1), 128), rng(1), frames=5)
    (tmp_path / "a.dm3").write_bytes(content)
    micrograph = read_micrograph(tmp_path / "a.dm3")
    assert micrograph.frame_index == 2
    assert np.array_equal(micrograph.pixels, with_rosettasciio(tmp_path / "a.dm3")[0][2])


def test_the_header_and_the_end_are_digitalmicrographs() -> None:
    content = dm3_bytes(field_of(ramp("uint16")))
    version, length, little_endian = struct.unpack_from(">III", content)
    assert (version, length, little_endian) == (3, len(content) - 20, 1)
    assert content[-8:] == bytes(8)


def test_tags_come_in_digitalmicrographs_order() -> None:
    content = dm3_bytes(field_of(ramp("uint16")))
    root = [b"ApplicationBounds", b"DocumentObjectList", b"DocumentTags", b"HasWindowPosition"]
    root += [b"Image Behavior", b"ImageList", b"ImageSourceList", b"InImageMode", b"MinVersionList"]
    root += [b"NextDocumentObjectID", b"Page Behavior", b"PageSetup", b"SentinelList", b"Thumbnails"]
    places = [content.index(struct.pack(">H", len(name)) + name) for name in [*root, b"WindowPosition"]]
    assert places == sorted(places)
    image = content[content.rindex(b"ImageData") :]
    inside = [b"Calibrations", b"%%%%", b"DataType", b"Dimensions", b"PixelDepth", b"ImageTags", b"UniqueID"]
    assert [image.index(name) for name in inside] == sorted(image.index(name) for name in inside)
    assert image.index(b"\x00\x04Data%%%%") < image.index(b"\x00\x0aDimensions")


def tags_of(path: Path) -> dict[str, object]:
    from ncempy.io.dm import fileDM

    with fileDM(path) as file:
        return dict(file.allTags)


def test_the_tags_describe_the_instrument_and_say_that_it_is_simulated(tmp_path: Path) -> None:
    (tmp_path / "a.dm3").write_bytes(dm3_bytes(field_of(ramp("uint16")), acquired=NOON, name="session_0001"))
    tags = tags_of(tmp_path / "a.dm3")
    image = ".ImageList.2."

    assert tags[image + "Name"] == "session_0001"
    assert tags[image + "ImageTags.Microscope Info.Voltage"] == 200_000.0
    assert tags[image + "ImageTags.Microscope Info.Indicated Magnification"] == 40_000.0
    assert tags[image + "ImageTags.Microscope Info.Operation Mode"] == "IMAGING"
    assert tags[image + "ImageTags.Microscope Info.Name"] == "Simulated TEM"
    assert tags[image + "ImageTags.Acquisition.Parameters.High Level.Exposure (s)"] == 1.0
    assert "no specimen and no microscope" in str(tags[image + "ImageTags.Simulation.Note"])
    assert tags[image + "ImageTags.Simulation.Drawn"] == "round"
    assert tags[image + "ImageTags.DataBar.Acquisition Date"] == "3/9/2024"
    assert tags[image + "ImageTags.DataBar.Acquisition Time"] == "12:00:00 PM"
    ticks = float(tags[image + "ImageTags.DataBar.Acquisition Time (OS)"])
    assert abs(datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks / 10) - NOON) < timedelta(
        milliseconds=1
    )
    assert tags[".ImageList.1.ImageData.DataType"] == 23, "the first image is the thumbnail"
    assert tags[".ImageList.1.ImageData.PixelDepth"] == 4


def test_a_scanning_microscope_with_names_of_its_own(tmp_path: Path) -> None:
    by = SimulatedInstrument("Simulated STEM 6", "Simulated camera 6", scanning=True)
    field = draw_field("round", np.random.default_rng(1), 64)
    path = tmp_path / "a.dm3"
    path.write_bytes(dm3_bytes(field, by=by))
    seen = read_micrograph(path)
    assert seen.instrument.device == "Simulated camera 6"
    assert (seen.instrument.operation_mode, seen.instrument.imaging_mode) == ("SCANNING", "DIFFRACTION")


@pytest.mark.parametrize("dark_field", [False, True])
def test_particles_are_dark_where_the_beam_is_counted_and_bright_where_what_it_lost_is(
    dark_field: bool,
) -> None:
    particle = Particle(Sphere(), 64.0, 64.0, 0.0, 20.0, 0.0, opacity=2.0)
    view = view_at(
        50_000,
        size_px=128,
        voltage_kv=200.0,
        fringe=0.003,
        coherence=1.0,
        electrons_per_px=500.0,
        dark_field=dark_field,
    )
    pixels = expose([particle], view, np.random.default_rng(0), dtype="uint16")
    assert (pixels.shape, pixels.dtype) == ((128, 128), np.uint16)
    assert (np.median(pixels[54:74, 54:74]) > 2 * np.median(pixels[:20, :20])) is np.bool_(dark_field)


def test_without_a_time_the_file_carries_none(tmp_path: Path) -> None:
    (tmp_path / "a.dm3").write_bytes(dm3_bytes(field_of(ramp("uint16"))))
    assert not [name for name in tags_of(tmp_path / "a.dm3") if "Acquisition Time" in name]


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param(datetime(1601, 1, 1, tzinfo=UTC), 0.0, id="epoch"),
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), 116_444_736e9, id="unix"),
        pytest.param(datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 116_444_736e9, id="zone"),
    ],
)
def test_filetime(moment: datetime, expected: float) -> None:
    assert filetime(moment) == expected


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="names no time zone: an acquisition time must be unambiguous"):
        dm3_bytes(field_of(ramp("uint16")), acquired=datetime(2024, 3, 9))


@pytest.mark.parametrize(
    ("values", "axes", "message"),
    [
        pytest.param(ramp("complex64"), 2, "DM3 has no image type for complex64", id="complex"),
        pytest.param(ramp("uint16"), 1, "2 dimensions, 1 axes: give 1 to 3", id="axes-missing"),
        pytest.param(ramp("uint16", (2, 2, 2, 2)), 4, "4 dimensions, 4 axes", id="four-dimensions"),
    ],
)
def test_what_dm3_cannot_hold(values: np.ndarray, axes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_dm3(Picture("a", values, (Axis(1.0, "nm"),) * axes, {}))


def test_a_spectrum_has_an_energy_axis(tmp_path: Path) -> None:
    from rsciio.digitalmicrograph import file_reader

    (tmp_path / "a.dm3").write_bytes(spectrum_dm3_bytes(rng(2), acquired=NOON))
    read = file_reader(str(tmp_path / "a.dm3"))[-1]

    (axis,) = read["axes"]
    assert (axis["units"], axis["scale"], axis["offset"], axis["size"]) == ("eV", 0.5, 200.0, 2048)
    carbon = read["data"][int((284 - 200) / 0.5) :][:40].mean() / read["data"][int((280 - 200) / 0.5)]
    assert carbon > 1.05, "no carbon edge"


def test_a_diffraction_pattern_is_calibrated_in_reciprocal_space(tmp_path: Path) -> None:
    (tmp_path / "a.dm3").write_bytes(diffraction_dm3_bytes(rng(2), size_px=256, acquired=NOON))
    values, axes = with_rosettasciio(tmp_path / "a.dm3")
    assert values.shape == (256, 256)
    assert axes == [(pytest.approx(0.0625), "1/nm")] * 2
    brightest = np.unravel_index(values.argmax(), values.shape)
    assert np.hypot(brightest[0] - 128, brightest[1] - 128) < 15


def test_a_drift_series_is_a_stack_of_shifted_fields(tmp_path: Path) -> None:
    field = draw_field("round", rng(1), 128)
    (tmp_path / "a.dm3").write_bytes(drift_series_dm3_bytes(field, rng(1), frames=4))
    values, axes = with_rosettasciio(tmp_path / "a.dm3")
    assert values.shape == (4, 112, 112)
    assert axes[1:] == [(pytest.approx(field.pixel_size_nm), "nm")] * 2
    assert not np.array_equal(values[0], values[-1])


# ---------------------------------------------------------------------------- the session


def session(folder: Path, **settings: object) -> list[simulation.SavedFile]:
    asked = {
        "files": 6,
        "rate_hz": math.inf,
        "size_px": 64,
        "seed": 5,
        "slow_seconds": 0.0,
        "clock": lambda: NOON,
    }
    return list(run_microscope(folder, **(asked | settings)))


def test_the_three_ways_of_saving_leave_the_same_files(tmp_path: Path) -> None:
    contents = []
    for mode in ("in-place", "rename", "slow"):
        saved = session(tmp_path / mode, mode=mode)
        assert [file.path for file in saved] == sorted((tmp_path / mode).iterdir()), "something else was left"
        contents.append([(file.path.name, file.drawn, file.clear, file.path.read_bytes()) for file in saved])
    assert contents[0] == contents[1] == contents[2]


def test_a_longer_session_begins_like_a_shorter_one(tmp_path: Path) -> None:
    short, long = session(tmp_path / "short", files=3), session(tmp_path / "long", files=9)
    assert [file.path.read_bytes() for file in short] == [file.path.read_bytes() for file in long[:3]]


def test_another_seed_is_another_session(tmp_path: Path) -> None:
    one, other = session(tmp_path / "one"), session(tmp_path / "other", seed=6)
    assert [file.path.read_bytes() for file in one] != [file.path.read_bytes() for file in other]


def test_a_slow_save_grows_under_its_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        simulation.time,
        "sleep",
        lambda _: sizes.extend(path.stat().st_size for path in tmp_path.glob("*.dm3")),
    )
    (saved,) = session(tmp_path, files=1, mode="slow", slow_seconds=1.0)
    assert len(set(sizes)) == 10
    assert sizes == sorted(sizes)
    assert sizes[-1] == saved.path.stat().st_size


def test_a_rename_never_shows_a_part_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append(sorted(path.suffix for path in tmp_path.iterdir()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    session(tmp_path, files=2, mode="rename")
    assert seen == [[".tmp"], [".dm3", ".tmp"]]


def test_files_come_at_the_rate_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(simulation.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(simulation.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    moments = [now[0] for _ in run_microscope(tmp_path, files=4, rate_hz=4, size_px=64)]
    assert moments == [100.0, 100.25, 100.5, 100.75]


def test_stop_ends_the_session_after_the_file_at_hand(tmp_path: Path) -> None:
    stop = threading.Event()
    running = run_microscope(tmp_path, files=50, rate_hz=math.inf, size_px=64, stop=stop)
    first = next(running)
    stop.set()
    assert list(running) == []
    assert list(tmp_path.iterdir()) == [first.path]


def test_the_mix_is_mostly_the_three_shapes(tmp_path: Path) -> None:
    saved = session(tmp_path, files=60)
    drawn = [file.drawn for file in saved]
    assert all(drawn.count(shape) >= 15 for shape in SHAPES)
    assert set(drawn) == {*DRAWN, "spectrum", "diffraction"}
    assert sum(file.clear for file in saved) >= 36
    endings = {file.path.stem.partition(" ")[2] for file in saved}
    assert endings == {"", "EELS", "SAED", "drift series"}


def test_numbers_go_on_after_what_is_there(tmp_path: Path) -> None:
    session(tmp_path, files=2)
    (tmp_path / "session_0007 EELS.dm3").write_bytes(b"mine")
    (tmp_path / "session_final.dm3").write_bytes(b"mine too")
    again = session(tmp_path, files=1)
    assert again[0].path.name.startswith("session_0008")
    assert (tmp_path / "session_0007 EELS.dm3").read_bytes() == b"mine"


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert session(tmp_path / "2024" / "march", files=1)[0].path.parent == tmp_path / "2024" / "march"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"mode": "ftp"}, "save mode 'ftp' is unknown: choose one of in-place, rename, slow", id="mode"
        ),
        pytest.param(
            {"rate_hz": 0.0}, "a rate of 0.0 files a second saves nothing: give one above 0", id="rate"
        ),
        pytest.param({"files": -1}, "cannot save -1 files: give 0 or more", id="count"),
    ],
)
def test_a_session_that_makes_no_sense(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()
