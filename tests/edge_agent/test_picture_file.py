"""Exports in TIFF, PNG and JPEG: the grey picture, its calibration, and how unfinished files are known."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from edge_agent.picture_file import read_picture
from edge_agent.unusable_file import DamagedFile, IncompleteFile, NotAnImage, UnusableFile

GREY = np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8)
LIMIT = 2**20


def encoded(values: np.ndarray, format_name: str, **how) -> bytes:
    target = io.BytesIO()
    Image.fromarray(values).save(target, format_name, **how)
    return target.getvalue()


def read(data: bytes, format_name: str, limit: int = LIMIT):
    return read_picture(io.BytesIO(data), len(data), format_name, limit)


@pytest.mark.parametrize(
    ("values", "format_name"),
    [
        pytest.param(GREY, "PNG", id="png 8 bit"),
        pytest.param(GREY.astype(np.uint16) * 257, "PNG", id="png 16 bit"),
        pytest.param(GREY, "TIFF", id="tif 8 bit"),
        pytest.param(GREY.astype(np.uint16) * 257, "TIFF", id="tif 16 bit"),
        pytest.param(GREY.astype(np.int32) - 128, "TIFF", id="tif 32 bit signed"),
        pytest.param(GREY.astype(np.float32) / 7, "TIFF", id="tif float"),
    ],
)
def test_grey_pictures_keep_their_values_and_type(values, format_name):
    picture = read(encoded(values, format_name), format_name)
    assert picture.pixels.dtype == values.dtype
    assert np.array_equal(picture.pixels, values)
    assert (picture.page, picture.pixel_size_nm) == (None, None)


def test_big_endian_tif_comes_in_the_machines_order():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 1, 258))
    target = io.BytesIO()
    image.save(target, "TIFF")
    pixels = read(target.getvalue(), "TIFF").pixels
    assert pixels.dtype == np.uint16
    assert pixels.dtype.isnative
    assert pixels.tolist() == [[1, 258]]


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
def test_equal_channels_are_grey_again(channels):
    values = np.dstack([GREY] * 3 + ([np.full_like(GREY, 255)] if channels == "RGBA" else []))
    assert np.array_equal(read(encoded(values, "PNG"), "PNG").pixels, GREY)


def test_grey_with_alpha_keeps_its_grey():
    assert np.array_equal(read(encoded(np.dstack([GREY, 255 - GREY]), "PNG"), "PNG").pixels, GREY)


def test_a_coloured_scale_bar_on_grey_becomes_luminance():
    values = np.full((40, 50, 3), 70, np.uint8)
    values[4:8, 10:30] = (0, 100, 0)
    pixels = read(encoded(values, "PNG"), "PNG").pixels
    assert pixels[5, 20] == 59  # 0.587 of 100, ITU-R 601-2
    assert pixels[30, 20] == 70


def test_a_picture_in_colours_is_no_micrograph():
    values = np.full((40, 50, 3), 70, np.uint8)
    values[:20] = (0, 100, 0)
    with pytest.raises(NotAnImage, match=r"is a colour picture or map \(50% of its pixels are coloured\)"):
        read(encoded(values, "PNG"), "PNG")


def test_the_colour_noise_of_jpeg_is_grey():
    grey = np.random.default_rng(0).integers(60, 190, (64, 64, 1)).astype(np.int16)
    near = np.clip(grey + np.array([6, 0, -6]), 0, 255).astype(np.uint8)
    assert read(encoded(near, "PNG"), "PNG").pixels.shape == (64, 64)


def test_a_palette_of_greys_is_grey():
    target = io.BytesIO()
    Image.fromarray(GREY).convert("P").save(target, "PNG")
    assert np.array_equal(read(target.getvalue(), "PNG").pixels, GREY)


def test_jpeg_is_near():
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    pixels = read(encoded(smooth, "JPEG", quality=95), "JPEG").pixels
    assert pixels.shape == (40, 60)
    assert np.abs(pixels.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(("pages", "middle"), [(2, 1), (3, 1), (5, 2)])
def test_of_several_pages_the_middle_one_is_taken(pages, middle):
    images = [Image.fromarray(GREY + number) for number in range(pages)]
    target = io.BytesIO()
    images[0].save(target, "TIFF", save_all=True, append_images=images[1:])
    picture = read(target.getvalue(), "TIFF")
    assert picture.page == middle
    assert np.array_equal(picture.pixels, GREY + middle)


def tif_with(tags: dict[int, tuple[int, object]], **how) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, value) in tags.items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    return encoded(GREY, "TIFF", tiffinfo=directory, **how)


ASCII, RATIONAL, FLOAT = 2, 5, 11


def imagej(unit: str, per_unit: float = 4.0, program: str = "ImageJ=1.53k") -> bytes:
    return tif_with(
        {
            270: (ASCII, f"{program}\nunit={unit}\nmin=0\n"),
            282: (RATIONAL, per_unit),
            283: (RATIONAL, per_unit / 2),
        }
    )


def digitalmicrograph(units: tuple[str, str], scales: tuple[float, float]) -> bytes:
    return tif_with(
        {
            65003: (ASCII, units[0]),
            65004: (ASCII, units[1]),
            65009: (FLOAT, scales[0]),
            65010: (FLOAT, scales[1]),
        }
    )


@pytest.mark.parametrize(
    ("data", "expected_nm"),
    [
        pytest.param(imagej("nm"), (0.5, 0.25), id="ImageJ nm, rows before columns"),
        pytest.param(imagej("\\u00B5m"), (500.0, 250.0), id="ImageJ writes the micro sign as six characters"),
        pytest.param(imagej("micron"), (500.0, 250.0), id="ImageJ micron"),
        pytest.param(imagej("pixel"), None, id="ImageJ without calibration"),
        pytest.param(imagej("nm", 0.0), None, id="ImageJ with a resolution of zero"),
        pytest.param(imagej("nm", program="something"), None, id="not ImageJ"),
        pytest.param(digitalmicrograph(("nm", "nm"), (0.5, 0.5)), (0.5, 0.5), id="DigitalMicrograph"),
        pytest.param(digitalmicrograph(("nm", "nm"), (0.5, 0.7)), None, id="DigitalMicrograph, ambiguous"),
        pytest.param(
            digitalmicrograph(("1/nm", "1/nm"), (0.5, 0.5)), None, id="DigitalMicrograph, reciprocal"
        ),
        pytest.param(encoded(GREY, "TIFF", dpi=(300, 300)), None, id="dots per inch say nothing"),
    ],
)
def test_pixel_size_only_where_it_is_unambiguous(data, expected_nm):
    size = read(data, "TIFF").pixel_size_nm
    assert size == (None if expected_nm is None else pytest.approx(expected_nm, rel=1e-6))


def test_a_bilevel_picture_is_a_mask():
    with pytest.raises(NotAnImage, match="is a mask of yes and no"):
        read(encoded(GREY > 128, "PNG"), "PNG")


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "TIFF"])
def test_more_pixels_than_the_limit_are_refused(format_name):
    with pytest.raises(DamagedFile, match="has 20 x 30 pixels, more than the limit of 599"):
        read(encoded(GREY, format_name), format_name, limit=599)


def test_pillows_own_limit_against_bombs_holds(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(DamagedFile, match=r"cannot be read as PNG: Image size .* decompression bomb"):
        read(encoded(GREY, "PNG"), "PNG")


WHOLE = {
    "PNG": encoded(GREY, "PNG"),
    "JPEG": encoded(GREY, "JPEG"),
    "TIFF": encoded(GREY, "TIFF"),
    "TIFF lzw": encoded(GREY, "TIFF", compression="tiff_lzw"),
    "TIFF big": encoded(GREY, "TIFF", big_tiff=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_anywhere_is_incomplete(name):
    data = WHOLE[name]
    for length in sorted({*range(12, len(data), 17), len(data) - 1}):
        with pytest.raises(IncompleteFile, match="still being written, or cut off"):
            read(data[:length], name.split()[0])


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_preallocated_file_is_incomplete(name):
    data = WHOLE[name]
    for length in range(40, len(data), 41):
        with pytest.raises(IncompleteFile):
            read(data[:length] + bytes(len(data) - length), name)


def test_a_tif_whose_directory_is_not_yet_there_is_incomplete():
    with pytest.raises(IncompleteFile):
        read(b"II*\x00" + bytes(100), "TIFF")


def test_the_end_marker_of_an_embedded_preview_does_not_count():
    data = WHOLE["JPEG"]
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data
    with pytest.raises(IncompleteFile, match="JPEG file without its end marker"):
        read(data[:2] + preview + data[2:-20], "JPEG")


@pytest.mark.parametrize(
    ("data", "format_name"),
    [
        pytest.param(WHOLE["PNG"].replace(b"IDAT", b"IDAX"), "PNG", id="png without pixels"),
        pytest.param(WHOLE["JPEG"][:2] + b"nonsense" + WHOLE["JPEG"][2:], "JPEG", id="jpeg with nonsense"),
        pytest.param(
            b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", "TIFF", id="tif with an empty directory"
        ),
    ],
)
def test_nonsense_in_a_whole_file_is_damage(data, format_name):
    with pytest.raises(DamagedFile, match=f"cannot be read as {format_name}: "):
        read(data, format_name)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF"])  # libtiff prints about compressed ones
def test_mutated_files_end_in_the_family_or_in_a_picture(name):
    chance = random.Random(2)
    for _ in range(150):
        data = bytearray(WHOLE[name])
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert read(bytes(data), name).pixels.ndim == 2
            except UnusableFile as error:
                assert error.reason


def test_a_failing_disk_is_no_damage():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        read_picture(Failing(WHOLE["PNG"]), len(WHOLE["PNG"]), "PNG", LIMIT)


def tif_entry(tag: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, 4, count, value)


def tif_of_one_value_many_times(in_one_directory: bool) -> bytes:
    """Two thousand entries, or two thousand directories, that all name the same 200,000 bytes."""
    many, value = 2000, bytes(200_000)
    if in_one_directory:
        start = 8 + 2 + 12 * many + 4
        content = struct.pack("<H", many) + tif_entry(273, 50_000, start) * many + bytes(4)
    else:
        start = 8 + 18 * many
        following = [*(8 + 18 * number for number in range(1, many)), 0]
        content = b"".join(
            struct.pack("<H", 1) + tif_entry(273, 50_000, start) + struct.pack("<I", n) for n in following
        )
    return b"II*\x00" + struct.pack("<I", 8) + content + value


def jpeg_of_many_scans() -> bytes:
    whole = encoded(GREY, "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + scan * 200 + b"\xff\xd9"


def png_that_claims(columns: int, rows: int) -> bytes:
    whole = bytearray(encoded(GREY, "PNG"))
    whole[16:24] = struct.pack(">II", columns, rows)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "format_name", "seen"),
    [
        pytest.param(tif_of_one_value_many_times(True), "TIFF", "the same bytes again", id="in a directory"),
        pytest.param(tif_of_one_value_many_times(False), "TIFF", "the same bytes again", id="in directories"),
        pytest.param(jpeg_of_many_scans(), "JPEG", "more than 100 scans", id="scans"),
        pytest.param(png_that_claims(10_000, 10_000), "PNG", "claims 10000 x 10000 pixels", id="claims"),
    ],
)
def test_small_files_that_would_cost_much_are_refused(data, format_name, seen):
    with pytest.raises(DamagedFile, match=seen):
        read(data, format_name, 2**28)


def test_what_makes_no_sense_is_said_without_an_object_in_memory():
    whole = bytearray(encoded(GREY, "TIFF"))
    whole[8:10] = bytes(2)
    with pytest.raises(UnusableFile) as caught:
        read(bytes(whole), "TIFF")
    assert "0x" not in caught.value.reason


def test_libtiff_prints_nothing_and_the_standard_error_is_back_after_it(capfd):
    whole = bytearray(encoded(GREY, "TIFF", compression="tiff_deflate"))
    strip = whole.index(b"\x78", 8)
    whole[strip : strip + 40] = bytes(40)
    with pytest.raises(DamagedFile, match="cannot be read as TIFF"):
        read(bytes(whole), "TIFF")
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_a_program_without_a_standard_error_reads_tif_as_well():
    code = (
        "import io, os; from edge_agent.picture_file import read_picture;"
        f"data = {encoded(GREY, 'TIFF')!r}; os.close(2);"
        "print(read_picture(io.BytesIO(data), len(data), 'TIFF', 1000).pixels.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(20, 30)"
