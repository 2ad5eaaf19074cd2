"""What comes out of a file: a micrograph, or the reason why there is none."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from dm_builder import Hole, Image, dm_bytes, dm_pieces, document, image_of, thumbnail, write_pieces
from PIL import Image as PillowImage

from edge_agent import files, micrograph, shared_opening
from edge_agent.dm_tags import read_tags
from edge_agent.dm_writer import Axis, Picture, write_dm3
from edge_agent.micrograph import (
    DamagedFile,
    IncompleteFile,
    Instrument,
    Micrograph,
    NotAnImage,
    UnusableFile,
    read_micrograph,
)
from edge_agent.shared_opening import open_shared

RAMP = np.arange(12, dtype="uint16").reshape(3, 4)
NOTHING = Instrument(None, None, None, None, None, None)
BEAM = {
    "Voltage": 200_000.0,
    "Indicated Magnification": 40_000.0,
    "Imaging Mode": "MAG",
    "Operation Mode": "TEM",
}


@pytest.fixture(autouse=True)
def no_file_left_open():
    def held() -> set[str]:
        links = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
        return {str(link.readlink()) for link in links if "dm3" in str(link.readlink())}

    yield
    assert held() == set()


def saved(tmp_path: Path, data: bytes, name: str = "a.dm3") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# Real files


def expected_outcome(entry: dict[str, object]) -> str:
    """Return what index.json's `kind` means for the agent; the two places where it does not say are below."""
    kind = str(entry["kind"])
    if kind == "invalid":
        return "damaged"
    if kind != "synthetic_tiny":
        return "micrograph" if kind in ("image_2d", "stack") else "not_an_image"
    # "synthetic_tiny" speaks of the size alone. One dimension makes no picture; and nionswift-io's files with
    # Meta Data.Format = "Spectrum image" (F_1_1, F_2_1, T_0_1) are spectrum images whatever their size.
    is_spectrum_image = any(f"ref_{kind}." in str(entry["path"]) for kind in ("F_1_1", "F_2_1", "T_0_1"))
    return "micrograph" if len(entry["shape"]) > 1 and not is_spectrum_image else "not_an_image"


@pytest.fixture(scope="module")
def real_files(shared_data: Path, tmp_path_factory) -> list[tuple[dict[str, object], Path]]:
    """Every entry of index.json with its file; archives are unpacked."""
    folder = shared_data / "dm3"
    unpacked = tmp_path_factory.mktemp("unpacked")
    found = []
    for entry in json.loads((folder / "index.json").read_text()):
        path = folder / entry["path"]
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(unpacked, filter="data")
            path = unpacked / path.name.removesuffix(".tar.gz")
        found.append((entry, path))
    return found


def test_every_real_file_has_the_right_outcome(real_files):
    wrong = []
    for entry, path in real_files:
        try:
            outcome = "micrograph" if isinstance(read_micrograph(path), Micrograph) else ""
        except NotAnImage:
            outcome = "not_an_image"
        except DamagedFile:
            outcome = "damaged"
        if outcome != expected_outcome(entry):
            wrong.append((entry["path"], entry["kind"], outcome))
    assert wrong == []
    assert len(real_files) == 123


def rosettasciio_arrays(path: Path) -> list[np.ndarray]:
    from rsciio.digitalmicrograph import file_reader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [signal["data"] for signal in file_reader(str(path))]


def test_pixels_equal_rosettasciio_bit_for_bit(real_files):
    compared = 0
    for entry, path in real_files:
        if expected_outcome(entry) != "micrograph":
            continue
        ours = read_micrograph(path)
        theirs = rosettasciio_arrays(path)[ours.dataset_index - ours.datasets.count("thumbnail")]
        frame = theirs if ours.frame_index is None else theirs[ours.frame_index]
        assert ours.pixels.dtype == frame.dtype, path
        assert ours.pixels.tobytes() == frame.tobytes(), path
        compared += 1
    assert compared == 50


def test_bounded_reads_give_the_same_as_a_snapshot(real_files):
    for entry, path in real_files:
        if expected_outcome(entry) != "micrograph":
            continue
        small, large = read_micrograph(path), read_micrograph(path, snapshot_limit_mib=0)
        assert np.array_equal(small.pixels, large.pixels)
        assert (small.pixel_size_nm, small.instrument) == (large.pixel_size_nm, large.instrument)
        assert small.source.fingerprint == large.source.fingerprint
        assert (small.source.sha256 is None, large.source.sha256 is None) == (False, True)


REAL = [
    pytest.param(
        "ingrained/HAADF149.dm3",
        Instrument(200.0, 25e6, "MAG", "SCANNING", "HAADF", "DigiScan"),
        (0.01639, 0.01639),
        "2018-03-22T00:36:14",
        "3/21/2018 7:36:14 PM",
        id="STEM, nm",
    ),
    pytest.param(
        "rosettasciio/2D/multi_signal.dm3",
        Instrument(300.0, 1e7, "DIFFRACTION", "SCANNING", None, "DigiScan"),
        (0.01775, 0.01775),
        "2019-12-10T20:32:41",
        "12/10/2019 3:32:41 PM",
        id="the STEM trap, with a line profile on top",
    ),
    pytest.param(
        "rosettasciio/test_dm_image_um_unit.dm3",
        Instrument(200.0, 51.0, "IMAGING", "IMAGING", None, "BM-UltraScan"),
        (168.67, 168.67),
        "2015-07-20T16:48:21",  # from the camera's count of milliseconds since 1970
        "7/20/2015 6:48:25 PM",
        id="TEM camera, um",
    ),
    pytest.param(
        "particlespy/JEOL HAADF Image.dm4",
        Instrument(80.0, 250_000.0, "AMAG", "SCANNING", None, "JEOL COM"),
        (1.249, 1.249),
        None,
        None,
        id="DM4, no time",
    ),
    pytest.param(
        "openNCEM/dmTest_float32_nonSquare_diffPixelSize.dm3", NOTHING, (0.2, 1.0), None, None, id="A by nm"
    ),
]


@pytest.mark.parametrize(("name", "instrument", "pixel_size_nm", "acquired", "acquired_text"), REAL)
def test_metadata_of_real_files(shared_data, name, instrument, pixel_size_nm, acquired, acquired_text):
    found = read_micrograph(shared_data / "dm3" / name)
    assert found.instrument == instrument
    assert found.pixel_size_nm == pytest.approx(pixel_size_nm, rel=1e-3)
    assert (found.acquired and found.acquired.isoformat()[:19]) == acquired
    assert found.acquired_text == acquired_text


def test_a_real_file_cut_anywhere_is_incomplete(shared_data, tmp_path):
    whole = (shared_data / "dm3/rosettasciio/test_dm_image_um_unit.dm3").read_bytes()
    for length in [*range(0, 40, 3), *range(40, len(whole), 4001), *range(len(whole) - 20, len(whole))]:
        with pytest.raises(IncompleteFile):
            read_micrograph(saved(tmp_path, whole[:length]))


def test_a_real_file_that_is_preallocated_and_half_filled_is_incomplete(shared_data, tmp_path):
    whole = (shared_data / "dm3/rosettasciio/test_dm_image_um_unit.dm3").read_bytes()
    for length in range(0, len(whole) - 200, 4001):
        with pytest.raises(IncompleteFile):
            read_micrograph(saved(tmp_path, whole[:length] + bytes(len(whole) - length)))


# Simulated and built files


@pytest.fixture(scope="module")
def simulated() -> bytes:
    values = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)
    return write_dm3(Picture("simulated", values, (Axis(0.5, "nm"), Axis(0.5, "nm")), {}))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"],
)
def test_every_real_number_type_is_read_as_it_is(tmp_path, dtype, version):
    values = (np.arange(12).reshape(3, 4) - (0 if dtype.startswith("u") else 6)).astype(dtype)
    found = read_micrograph(
        saved(tmp_path, dm_bytes(thumbnail(), image_of(values), thumbnails=[0], version=version))
    )
    assert found.pixels.dtype == np.dtype(dtype)
    assert np.array_equal(found.pixels, values)
    assert not found.pixels.flags.writeable
    assert (found.dataset_index, found.datasets) == (1, ("thumbnail", "image"))


@pytest.mark.parametrize("name", ["a.dm3", "a.tif", "a"])
def test_the_content_decides_not_the_name(tmp_path, name):
    assert read_micrograph(saved(tmp_path, dm_bytes(image_of(RAMP)), name)).pixels.tolist() == RAMP.tolist()


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        pytest.param([(4, 2.0, "nm"), (3, 5.0, "nm")], (5.0, 2.0), id="rows before columns"),
        pytest.param([(4, 2.0, "Å"), (3, 2.0, "µm")], (2000.0, 0.2), id="each axis in its own unit"),
        pytest.param([(4, 2.0, "nm"), (3, 2.0, "")], None, id="one axis only"),
        pytest.param([(4, 1.0, ""), (3, 1.0, "")], None, id="not calibrated"),
        pytest.param([(4, 0.0, "nm"), (3, 0.0, "nm")], None, id="a scale of zero"),
        pytest.param([(4, -1.0, "nm"), (3, 1.0, "nm")], None, id="a negative scale"),
        pytest.param([(4, float("nan"), "nm"), (3, 1.0, "nm")], None, id="not a number"),
    ],
)
def test_pixel_size(tmp_path, axes, expected):
    image = Image(10, 2, axes, RAMP.tobytes(), element=4)
    assert read_micrograph(saved(tmp_path, dm_bytes(image))).pixel_size_nm == (
        expected and pytest.approx(expected, rel=1e-12)
    )


@pytest.mark.parametrize(("frames", "middle"), [(2, 1), (3, 1), (7, 3)])
def test_of_a_stack_the_middle_frame_is_taken_never_the_mean(tmp_path, frames, middle):
    values = np.arange(frames * 12, dtype="int32").reshape(frames, 3, 4)
    found = read_micrograph(saved(tmp_path, dm_bytes(image_of(values))))
    assert (found.frame_index, found.datasets) == (middle, ("stack",))
    assert np.array_equal(found.pixels, values[middle])


SPECTRUM = Image(2, 4, [(16, 0.5, "eV")], bytes(64), "spectrum", element=6)
FIRST, SECOND = image_of(RAMP, name="first"), image_of(RAMP + 1, name="second")


@pytest.mark.parametrize(
    ("images", "shown", "index", "kinds"),
    [
        pytest.param([SPECTRUM, FIRST], None, 1, ("spectrum", "image"), id="a spectrum first"),
        pytest.param([FIRST, SECOND], None, 0, ("image", "image"), id="the first of two"),
        pytest.param([FIRST, SECOND], [1], 1, ("image", "image"), id="the one that the document shows"),
        pytest.param([FIRST, SECOND], [1, 0], 1, ("image", "image"), id="the one that it shows first"),
        pytest.param([FIRST, SPECTRUM], [1], 0, ("image", "spectrum"), id="the shown one is no picture"),
        pytest.param([thumbnail(), FIRST], [1], 1, ("thumbnail", "image"), id="not the thumbnail"),
    ],
)
def test_which_data_set_stands_for_the_file(tmp_path, images, shown, index, kinds):
    found = read_micrograph(saved(tmp_path, dm_bytes(*images, shown=shown)))
    assert (found.dataset_index, found.datasets) == (index, kinds)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(dm_bytes(SPECTRUM), "data set 0 is a spectrum of 16 channels (an axis in eV)", id="one"),
        pytest.param(
            dm_bytes(SPECTRUM, SPECTRUM),
            "data set 0 is a spectrum of 16 channels (an axis in eV); "
            "data set 1 is a spectrum of 16 channels (an axis in eV)",
            id="two",
        ),
        pytest.param(
            dm_bytes(thumbnail(), thumbnails=[0]), "holds a thumbnail and no data set", id="thumbnail"
        ),
        pytest.param(dm_bytes(), "holds no data set", id="tags only"),
        pytest.param(dm_bytes(*[SPECTRUM] * 6), "(an axis in eV); ...", id="many"),
    ],
)
def test_why_a_file_is_no_image(tmp_path, data, reason):
    path = saved(tmp_path, data)
    with pytest.raises(NotAnImage) as caught:
        read_micrograph(path)
    assert caught.value.reason.endswith(reason)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert caught.value.source.path == path
    assert caught.value.source.sha256


# Metadata


def with_tags(tmp_path: Path, **tags: object) -> Micrograph:
    return read_micrograph(saved(tmp_path, dm_bytes(image_of(RAMP, tags=tags))))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        pytest.param(
            {
                "Microscope Info": BEAM,
                "DataBar": {"Device Name": "OneView", "Signal Name": "HAADF"},
                "Meta Data": {"Signal": "DigiScan"},
            },
            Instrument(200.0, 40_000.0, "MAG", "TEM", "HAADF", "OneView"),
            id="all",
        ),
        pytest.param({}, NOTHING, id="nothing"),
        pytest.param(
            {
                "Microscope Info": dict.fromkeys(BEAM, 0)
                | {"Imaging Mode": "", "Operation Mode": " ", "Name": "Unknown"}
            },
            NOTHING,
            id="zero and empty",
        ),
        pytest.param(
            {"Microscope Info": {"Formatted Indicated Mag": "57kx"}},
            Instrument(None, 57_000.0, None, None, None, None),
            id="formatted magnification",
        ),
        pytest.param(
            {"Microscope Info": {"Formatted Indicated Mag": "1.2.3kx", "Actual Magnification": 245.0}},
            Instrument(None, 245.0, None, None, None, None),
            id="actual magnification",
        ),
        pytest.param(
            {
                "Microscope Info": {
                    "Name": "FEI Tecnai",
                    "Voltage": float("inf"),
                    "Indicated Magnification": -1.0,
                }
            },
            Instrument(None, None, None, None, None, "FEI Tecnai"),
            id="microscope instead of device; impossible numbers",
        ),
    ],
)
def test_instrument(tmp_path, tags, expected):
    assert with_tags(tmp_path, **tags).instrument == expected


@pytest.mark.parametrize(
    ("signal", "operation_mode", "voltage_kv", "detector"),
    [
        pytest.param("HAADF", "SCANNING", 200.0, "HAADF", id="named"),
        pytest.param("DF4", "SCANNING", 300.0, "DF", id="numbered"),
        pytest.param("ADF", "SCANNING", 200.0, "ADF", id="JEOL"),
        pytest.param("SEI", "SCANNING", 5.0, "SE", id="an SEM's own name"),
        pytest.param("BF", "SCANNING", 30.0, "BF", id="transmission in an SEM"),
        pytest.param(None, "SCANNING", 200.0, "STEM", id="scanning, no more said"),
        pytest.param("Pulse 0", "SCANNING", 3.0, "SEM", id="scanning at a voltage that passes nothing"),
        pytest.param(None, "SCANNING", None, "STEM", id="scanning, voltage unknown"),
        pytest.param("EELS", "GIF SCANNING", 200.0, "STEM", id="mode of several words"),
        pytest.param(None, "IMAGING", 200.0, "TEM", id="camera"),
        pytest.param(None, "DIFFRACTION", 200.0, None, id="another mode"),
        pytest.param(None, None, 200.0, None, id="nothing said"),
        pytest.param("", "", None, None, id="empty"),
    ],
)
def test_by_what_the_picture_was_made(signal, operation_mode, voltage_kv, detector):
    assert Instrument(voltage_kv, None, None, operation_mode, signal, None).detector == detector


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        ("ingrained/HAADF149.dm3", "HAADF"),
        ("rosettasciio/2D/multi_signal.dm3", "STEM"),
        ("rosettasciio/test_dm_image_um_unit.dm3", "TEM"),
        ("rosettasciio/2D/test-MonarcCL_mono-image.dm4", "SEM"),
    ],
)
def test_detectors_of_real_files(shared_data, name, detector):
    assert read_micrograph(shared_data / "dm3" / name).instrument.detector == detector


@pytest.mark.parametrize(
    ("tags", "acquired", "text"),
    [
        pytest.param(
            {
                "DataBar": {
                    "Acquisition Time (OS)": 132_223_104_000_000_000.0,
                    "Acquisition Date": "31.12.2019",
                    "Acquisition Time": "19:00:00",
                }
            },
            datetime(2020, 1, 1, tzinfo=UTC),
            "31.12.2019 19:00:00",
            id="FILETIME",
        ),
        pytest.param(
            {"Acquisition": {"Frame": {"Sequence": {"Acquisition Start Time (epoch)": 1562007349437.0}}}},
            datetime(2019, 7, 1, 18, 55, 49, 437000, tzinfo=UTC),
            None,
            id="milliseconds since 1970",
        ),
        pytest.param(
            {"DataBar": {"Acquisition Time (OS)": 1e17}}, None, None, id="1917 is no year of a microscope"
        ),
        pytest.param({"DataBar": {"Acquisition Time (OS)": 1e300}}, None, None, id="out of range"),
        pytest.param({"DataBar": {"Acquisition Date": "5/7/19"}}, None, "5/7/19", id="a text stays a text"),
        pytest.param(
            {"Timestamp": "2019-01-31T18:53:22"}, None, "2019-01-31T18:53:22", id="without time zone"
        ),
    ],
)
def test_time(tmp_path, tags, acquired, text):
    found = with_tags(tmp_path, **tags)
    assert (found.acquired, found.acquired_text) == (acquired, text)


# Refusals


def refused(path: Path, error: type[UnusableFile], **how: int) -> str:
    with pytest.raises(error) as caught:
        read_micrograph(path, **how)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        pytest.param(b"", IncompleteFile, "is empty", id="empty"),
        pytest.param(
            bytes(4096), IncompleteFile, "begins with zeros: its place is reserved", id="preallocated"
        ),
        pytest.param(
            b"\x00\x00\x00\x03", IncompleteFile, "is only 4 bytes long, less than a DM3 header", id="magic"
        ),
        pytest.param(b"\x89PN", IncompleteFile, "is only 3 bytes long", id="part of a magic"),
        pytest.param(
            b"Dm3 files are big",
            DamagedFile,
            "is neither DigitalMicrograph 3 or 4 nor TIFF, PNG or JPEG: it begins with b'Dm3 files are bi'",
            id="text",
        ),
    ],
)
def test_what_is_no_picture_file(tmp_path, data, error, reason):
    assert refused(saved(tmp_path, data), error).startswith(reason)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        pytest.param(
            Image(10, 2, [(5, 1.0, ""), (3, 1.0, "")], RAMP.tobytes(), element=4),
            "has 24 bytes of pixels where its dimensions need 30",
            id="dimensions too large",
        ),
        pytest.param(
            Image(10, 2, [(3, 1.0, ""), (3, 1.0, "")], RAMP.tobytes(), element=4),
            "has 24 bytes of pixels where its dimensions need 18",
            id="dimensions too small",
        ),
        pytest.param(
            Image(10, 4, [(4, 1.0, ""), (3, 1.0, "")], RAMP.tobytes(), element=4),
            "has 4 bytes a pixel, which data type 10 has not",
            id="depth",
        ),
        pytest.param(
            Image(10, 2, [(0, 1.0, ""), (3, 1.0, "")], RAMP.tobytes(), element=4),
            "has no usable Dimensions for its data set 0",
            id="no columns",
        ),
        pytest.param(
            Image(10, 2, [(2**31 - 1, 1.0, "")] * 8, RAMP.tobytes(), element=4),
            "data set 0 has 8 axes",
            id="8 axes",
        ),
    ],
)
def test_sizes_that_contradict_each_other(tmp_path, image, reason):
    with pytest.raises(UnusableFile) as caught:
        read_micrograph(saved(tmp_path, dm_bytes(image)))
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize("missing", ["DataType", "Dimensions", "Data", "PixelDepth"])
def test_a_data_set_without_its_description_is_damaged(tmp_path, missing):
    tree = document(image_of(RAMP))
    del tree["ImageList"][0]["ImageData"][missing]
    path = write_pieces(tmp_path / "a.dm3", dm_pieces(tree))
    assert f"has no usable {missing}" in refused(path, DamagedFile)


def test_a_picture_over_the_pixel_limit_is_refused_before_it_is_allocated(tmp_path):
    bomb = Image(11, 4, [(30_000, 1.0, "nm"), (30_000, 1.0, "nm")], None, element=5)
    path = write_pieces(tmp_path / "a.dm3", dm_pieces(document(bomb)))
    assert path.stat().st_size > 3_600_000_000
    assert path.stat().st_blocks * 512 < 64 * 1024
    tracemalloc.start()
    reason = refused(path, DamagedFile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason == "has 30000 x 30000 pixels, more than the limit of 268435456"
    assert peak < 2**20


def test_an_eight_kilobyte_file_that_promises_gigabytes_allocates_nothing(tmp_path):
    pieces = dm_pieces(document(Image(11, 4, [(30_000, 1.0, "nm")] * 2, None, element=5)))
    whole = b"".join(bytes(8192) if isinstance(piece, Hole) else piece for piece in pieces)
    honest_length = (len(whole) - 20).to_bytes(4, "big")
    tracemalloc.start()
    reason = refused(saved(tmp_path, whole[:4] + honest_length + whole[8:]), DamagedFile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "an array of 3600000000 bytes ends" in reason
    assert "behind the end of the file" in reason
    assert peak < 2**20


def test_one_frame_of_a_stack_of_tens_of_gigabytes_costs_one_frame(tmp_path):
    side, frames = 1024, 20_000
    frame = np.full((side, side), 7, "uint16")
    image = image_of(frame)
    image.axes = [(side, 0.5, "nm"), (side, 0.5, "nm"), (frames, 0.1, "s")]
    image.data = Hole(frames * frame.nbytes)
    path = write_pieces(tmp_path / "large.dm4", dm_pieces(document(image), version=4))
    with path.open("r+b") as handle:
        start = int(read_tags(handle, path.stat().st_size)[".ImageList.1.ImageData.Data.arrayOffset"])
        handle.seek(start + frames // 2 * frame.nbytes)
        handle.write(frame.tobytes())
    tracemalloc.start()
    found = read_micrograph(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 40 * 10**9
    assert found.frame_index == frames // 2
    assert np.array_equal(found.pixels, frame)
    assert found.source.sha256 is None
    assert peak < frame.nbytes + 2**20


def test_4d_stem_of_tens_of_gigabytes_is_answered_from_its_tags(tmp_path):
    axes = [(256, 0.1, "1/nm"), (256, 0.1, "1/nm"), (512, 1.0, "nm"), (512, 1.0, "nm")]
    path = write_pieces(tmp_path / "4d.dm4", dm_pieces(document(Image(10, 2, axes, element=4)), version=4))
    assert path.stat().st_size > 30 * 10**9
    assert refused(path, NotAnImage) == (
        "data set 0 is a 4D-STEM data set of 512 x 512 x 256 x 256: a diffraction pattern a position"
    )


def test_a_lack_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def starve(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(micrograph, "read_contents", starve)
    with pytest.raises(MemoryError):
        read_micrograph(saved(tmp_path, dm_bytes(image_of(RAMP))))


# The file moves, or is no file


@pytest.mark.parametrize("limit_mib", [0, 1], ids=["bounded reads", "snapshot"])
def test_a_file_that_changes_while_it_is_read_is_incomplete(tmp_path, monkeypatch, limit_mib):
    path = saved(tmp_path, dm_bytes(image_of(RAMP)))

    def open_then_write(opened: Path):
        handle = open_shared(opened)
        with opened.open("ab") as writer:
            writer.write(bytes(100))
        return handle

    monkeypatch.setattr(files, "open_shared", open_then_write)
    assert refused(path, IncompleteFile, snapshot_limit_mib=limit_mib).startswith("changed while it was read")


def test_a_file_that_its_writer_still_holds_is_incomplete(tmp_path, monkeypatch):
    def held(path: Path, limit_bytes: int):
        raise shared_opening.windows_error(32, str(path))

    monkeypatch.setattr(micrograph, "snapshot", held)
    assert refused(tmp_path / "a.dm3", IncompleteFile) == "is held open by the program that writes it"


@pytest.mark.timeout(10)
def test_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.dm3")
    assert refused(tmp_path / "a.dm3", DamagedFile) == "is a FIFO, not a regular file, and was not opened"


def test_a_missing_file_and_a_failing_disk_are_the_systems_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_micrograph(tmp_path / "gone.dm3")

    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "open_shared", lambda path: Failing())
    with pytest.raises(OSError, match="Input/output error"):
        read_micrograph(saved(tmp_path, dm_bytes(image_of(RAMP))))


# Damage of every kind


def test_a_simulated_file_is_read_and_cut_anywhere_is_incomplete(simulated, tmp_path):
    found = read_micrograph(saved(tmp_path, simulated))
    assert (found.pixels.shape, found.pixel_size_nm) == ((48, 64), (0.5, 0.5))
    assert found.datasets == ("thumbnail", "image")
    for length in range(0, len(simulated), len(simulated) // 60):
        with pytest.raises(IncompleteFile):
            read_micrograph(saved(tmp_path, simulated[:length]))


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                changed[place : place + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                changed[place] ^= 1 << chance.randrange(8)
            case 3:
                del changed[place : place + chance.randrange(1, 20)]
            case 4:
                changed[place:place] = chance.randbytes(chance.randrange(1, 20))
    return bytes(changed)


@pytest.mark.parametrize("version", [3, 4])
def test_mutated_files_end_in_the_family_or_in_a_micrograph(tmp_path, version):
    whole = dm_bytes(
        thumbnail(),
        image_of(RAMP, tags={"Microscope Info": BEAM}),
        SPECTRUM,
        thumbnails=[0],
        shown=[1, 2],
        version=version,
    )
    chance = random.Random(version)
    outcomes = set()
    for _ in range(400):
        path = saved(tmp_path, mutated(whole, chance))
        try:
            found = read_micrograph(path)
        except UnusableFile as error:
            assert error.reason
            str(error).encode()
            outcomes.add(type(error))
        else:
            assert found.pixels.ndim == 2
            assert found.pixels.size
            outcomes.add(Micrograph)
    assert outcomes >= {Micrograph, IncompleteFile, DamagedFile}


# Exports


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.dm3"])
def test_an_export_is_read_by_its_content(tmp_path, name):
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    PillowImage.fromarray(grey).save(tmp_path / name, "TIFF" if name == "a.tif" else "PNG")
    found = read_micrograph(tmp_path / name)
    assert np.array_equal(found.pixels, grey)
    assert not found.pixels.flags.writeable
    assert (found.dataset_index, found.frame_index, found.datasets) == (0, None, ("image",))
    assert (found.pixel_size_nm, found.acquired, found.acquired_text) == (None, None, None)
    assert found.instrument == NOTHING


def test_a_tif_of_several_pages_is_a_stack(tmp_path):
    pages = [PillowImage.fromarray(np.full((4, 5), number, np.uint8)) for number in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    found = read_micrograph(tmp_path / "a.tif", snapshot_limit_mib=0)
    assert (found.frame_index, found.datasets) == (2, ("stack",))
    assert set(found.pixels.ravel()) == {2}


def test_reading_leaves_the_heavy_packages_out():
    code = (
        "import sys, pathlib, edge_agent.micrograph as m\n"
        "try: m.read_micrograph(pathlib.Path(sys.argv[1]))\n"
        "except m.UnusableFile: pass\n"
        "heavy = {'tensorflow', 'keras', 'onnx', 'matplotlib', 'scipy', 'h5py', 'ncempy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
