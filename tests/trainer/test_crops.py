"""From class folders to a data set: what is taken, what is dropped and why; nothing is done twice."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edge_agent.dm_writer import Axis, Picture, write_dm3
from edge_agent.preprocessing import Preprocessing, TilePlan, describe_field, grey_field
from edge_agent.simulation import spectrum_dm3_bytes
from trainer.preparing import cutting
from trainer.preparing.crops import DataSet, Order, PrepareError, load_dataset, load_pixels, prepare, summary
from trainer.preparing.leaks import leak_report
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FEW = Preprocessing(input_px=32)


def field(seed: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint16]:
    """A bright disc somewhere on a slope: structure, so that no field counts as blank."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = random.uniform(0.3, 0.7, 2) * shape
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (min(shape) / 5) ** 2
    return (200 + 20 * seed + x + 900 * disc + random.normal(0, 3, shape)).astype(np.uint16)


def encoded(pixels: NDArray[np.generic], suffix: str) -> bytes:
    """The pixels as a file of this kind; jpg loses the low bits."""
    if suffix.lower() == ".dm3":
        return write_dm3(Picture("test", pixels, (Axis(0.5, "nm"), Axis(0.5, "nm")), {}))
    if suffix.lower() in (".jpg", ".jpeg"):
        pixels = (pixels / 8).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    kinds = {".tif": "TIFF", ".tiff": "TIFF", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    Image.fromarray(pixels).save(buffer, format=kinds[suffix.lower()])
    return buffer.getvalue()


BLANK_PNG = encoded(np.zeros((40, 40), np.uint8), ".png")

UNSCREENED = ScreeningRule(on=False)


def lay_out(raw: Path, files: Mapping[str, int | bytes]) -> Path:
    """Write files below `raw`: a number draws the field with that seed, bytes are written as they are."""
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(field(content), path.suffix))
    return raw


def prepared(raw: Path, **options) -> DataSet:
    run = {name: options.pop(name) for name in ("progress", "embed", "workers") if name in options}
    given = {"preprocessing": FEW, "split": SplitRule(), "cache_px": 32, "screening": UNSCREENED} | options
    return prepare(raw, raw.parent / "out", Order(**given), **{"workers": 1} | run)


def refusal(raw: Path, **options) -> str:
    with pytest.raises(PrepareError) as refused:
        prepared(raw, **options)
    return str(refused.value).replace(str(raw.parent), "")


def reasons(dataset: DataSet) -> dict[str, str]:
    return {crop.source: crop.reason for crop in dataset.crops if not crop.kept}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two classes of six micrographs."""
    names = {f"{label}/{at}.tif": at + 6 * (label == "rod") for label in ("rod", "round") for at in range(6)}
    return lay_out(tmp_path / "raw", names)


def test_every_kind_of_file_becomes_a_crop(tmp_path):
    raw = lay_out(
        tmp_path / "raw",
        {
            "rod/a.dm3": 1,
            "rod/b.DM3": 2,
            "rod/c.tif": 3,
            "rod/d.TIFF": 4,
            "round/e.png": 5,
            "round/f.jpg": 6,
            "round/g.JPEG": 7,
        },
    )
    dataset = prepared(raw)
    names = "rod/a.dm3 rod/b.DM3 rod/c.tif rod/d.TIFF round/e.png round/f.jpg round/g.JPEG"
    assert [crop.source for crop in dataset.kept] == names.split()
    assert dataset.labels == ("rod", "round")
    assert dataset.raw == raw.resolve()
    first = dataset.crops[0]
    assert (first.label, first.shape_px, first.box_px) == ("rod", (48, 64), (0, 0, 64, 48))
    assert first.pixel_size_nm == pytest.approx((0.5, 0.5))
    assert first.group == first.sha256
    assert dataset.crops[2].pixel_size_nm is None


def test_cached_pixels_are_what_the_agent_sees(raw):
    dataset = prepared(raw)
    crop = dataset.crops[3]
    with Image.open(raw / crop.source) as picture:
        pixels = np.asarray(picture)
    rows, columns = load_pixels(dataset, crop).shape
    assert (rows, columns) == (28, 37)  # 48 x 64 at the area of 32 x 32
    seen = grey_field(pixels, describe_field(pixels, FEW).contrast, (rows, columns))
    np.testing.assert_array_equal(load_pixels(dataset, crop), np.rint(seen * 255))


def test_contrast_is_that_of_the_whole_micrograph(tmp_path):
    """A quadrant of mere support must stay dark, not be stretched until its noise fills the grey scale."""
    pixels = field(1, (96, 96)) // 4
    pixels[:40, :40] = 4000
    raw = lay_out(tmp_path / "raw", {"rod/a.tif": encoded(pixels, ".tif"), "round/b.tif": 2})
    rule = Preprocessing(input_px=32, tiles=TilePlan(divisions=2))
    dataset = prepared(raw, preprocessing=rule)
    quadrants = [crop for crop in dataset.kept if crop.label == "rod"]
    assert [crop.box_px for crop in quadrants] == [
        (0, 0, 48, 48),
        (48, 0, 96, 48),
        (0, 48, 48, 96),
        (48, 48, 96, 96),
    ]
    assert len({(crop.group, crop.part) for crop in quadrants}) == 1
    assert len({crop.crop_id for crop in dataset.crops}) == 8
    assert load_pixels(dataset, quadrants[0]).max() > 250
    assert load_pixels(dataset, quadrants[3]).max() < 40


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("rod/x.dm3", b"this is text", "unreadable: ", id="text named dm3"),
        pytest.param("rod/x.dm3", encoded(field(9), ".dm3")[:5000], "unreadable: ", id="truncated"),
        pytest.param("rod/x.dm3", b"", "unreadable: ", id="empty"),
        pytest.param(
            "rod/x.dm3", spectrum_dm3_bytes(np.random.default_rng(0)), "not_an_image: ", id="spectrum"
        ),
        pytest.param("rod/x.png", BLANK_PNG, "blank field", id="all zero"),
        pytest.param("x.tif", 9, "outside any class folder", id="beside the class folders"),
        pytest.param("rod/.x.tif", 9, "hidden file or folder", id="hidden"),
        pytest.param(".trash/x.tif", 9, "hidden file or folder", id="hidden folder"),
        pytest.param("rod/x.tif", 6, "duplicate content: same sha256 as rod/0.tif", id="same bytes"),
        pytest.param("rod/x.png", 6, "duplicate pixels: same picture as rod/0.tif", id="saved as png"),
    ],
)  # fmt: skip
def test_dropped_files_are_rows_with_their_reason(raw, name, content, reason):
    lay_out(raw, {name: content})
    dataset = prepared(raw)
    dropped = [crop for crop in dataset.crops if not crop.kept]
    assert [crop.source for crop in dropped] == [name]
    assert dropped[0].reason.startswith(reason)
    assert str(raw) not in dropped[0].reason
    assert dropped[0].part == ""
    assert bool(dropped[0].cached) == reason.startswith("duplicate")  # kept for whoever overrules
    assert len(dataset.kept) == 12
    assert load_dataset(dataset.root) == dataset


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_one_picture_in_two_classes_is_dropped_from_both(raw, suffix):
    lay_out(raw, {f"round/x{suffix}": 6})
    assert reasons(prepared(raw)) == {
        "rod/0.tif": f"contradictory label: the same picture is round/x{suffix}",
        f"round/x{suffix}": "contradictory label: the same picture is rod/0.tif",
    }


def test_classes_can_be_chosen(raw):
    lay_out(raw, {"masks/0.png": 20, "unsure/1.tif": 21})
    dataset = prepared(raw, classes=("rod", "round"))
    assert dataset.labels == ("rod", "round")
    assert reasons(dataset) == {
        "masks/0.png": "class folder excluded: masks",
        "unsure/1.tif": "class folder excluded: unsure",
    }
    assert prepared(raw).labels == ("masks", "rod", "round", "unsure")


def test_a_folder_without_a_usable_picture_is_no_class(raw):
    lay_out(raw, {"notes/readme.txt": b"-", "spectra/a.dm3": spectrum_dm3_bytes(np.random.default_rng(0))})
    dataset = prepared(raw)
    assert dataset.labels == ("rod", "round")
    assert reasons(dataset)["spectra/a.dm3"].startswith("not_an_image: ")
    assert dataset.notes == (
        "folders with no usable picture, taken for no class: 1 (notes)",
        "files of other kinds, not looked at: 1 (.txt)",
    )


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        pytest.param(
            {},
            {},
            "/raw: there is no such folder; name the folder that holds the class folders",
            id="no raw folder",
        ),
        pytest.param(
            {"a.tif": 1},
            {},
            "/raw: has no class folders; put each class's micrographs into its own folder",
            id="no class folders",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.tif": 2},
            {"classes": ("rod", "cube")},
            "/raw: has no class folder 'cube'; it has rod, round",
            id="a class that is not there",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.png": BLANK_PNG, "cube/c.tif": 3},
            {"classes": ("rod", "round", "cube")},
            "/raw/round: class 'round' has no usable micrograph (1 x blank field); "
            "add some or leave the class out",
            id="a chosen class without a usable file",
        ),
        pytest.param(
            {"rod/a.tif": 1, "rod/b.tif": 2, "round/notes.txt": b"-"},
            {"classes": ("rod", "round")},
            "/raw/round: class 'round' has no usable micrograph (no picture file in it); "
            "add some or leave the class out",
            id="an empty class",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.tif": b"x"},
            {},
            "/raw: a classifier needs two classes with usable micrographs, found rod (dropped: 1 x unreadable); "
            "put .dm3 .dm4 .jpeg .jpg .png .tif .tiff files into two class folders or more",
            id="one class left",
        ),
        pytest.param(
            {"rod/a.txt": b"", "round/b.txt": b""},
            {},
            "/raw: a classifier needs two classes with usable micrographs, found none (dropped: no file); "
            "put .dm3 .dm4 .jpeg .jpg .png .tif .tiff files into two class folders or more",
            id="no pictures at all",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.tif": 2},
            {"cache_px": 0},
            "cache_px is 0; it must lie between 16 and 8192",
            id="no pixels",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.tif": 2},
            {"split": SplitRule(by="column:doi")},
            "the split uses column 'doi' of a labels table; name that CSV file too",
            id="a column without a table",
        ),
        pytest.param(
            {"rod/a.tif": 1, "round/b.tif": 2, "../out": b"-"},
            {},
            "/out: is a file; name a folder for the data set",
            id="a file where the data set should go",
        ),
    ],
)
def test_what_cannot_become_a_data_set_is_refused(tmp_path, files, options, message):
    assert refusal(lay_out(tmp_path / "raw", files), **options) == message


@pytest.mark.parametrize("inside", ["", "rod", "new/out"])
def test_the_raw_folder_is_never_written_to(raw, inside):
    with pytest.raises(
        PrepareError, match=r"lies inside the raw folder .*, which stays untouched; choose another"
    ):
        prepare(raw, raw / inside, Order(preprocessing=FEW, split=SplitRule(), cache_px=32))
    before = {path: path.stat().st_mtime_ns for path in [raw, *raw.rglob("*")]}
    prepared(raw)
    assert {path: path.stat().st_mtime_ns for path in [raw, *raw.rglob("*")]} == before


def test_one_micrograph_a_class_trains_and_says_what_is_missing(tmp_path):
    dataset = prepared(lay_out(tmp_path / "raw", {"rod/a.tif": 1, "round/b.tif": 2}))
    assert [crop.part for crop in dataset.kept] == ["train", "train"]
    assert dataset.notes == (
        "class 'rod' has no crop in validation and test: too few groups for the split",
        "class 'round' has no crop in validation and test: too few groups for the split",
    )


def test_names_of_any_language(tmp_path):
    names = ["Stäbchen/Größe 1.tif", "Stäbchen/粒子, rund.tif", 'круглые/a\nb;"c".tif', "круглые/=1+1.tif"]
    if sys.platform == "win32":
        names[2] = "круглые/a;b.tif"
    dataset = prepared(lay_out(tmp_path / "raw", {name: at for at, name in enumerate(names)}))
    assert sorted(crop.source for crop in dataset.kept) == sorted(names)
    again = load_dataset(dataset.root)
    assert again == dataset
    assert all(load_pixels(again, crop).size for crop in again.kept)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be no text")
def test_a_name_that_is_no_text_is_dropped(raw):
    shutil.copy(raw / "rod" / "0.tif", os.fsencode(raw / "rod") + b"/gr\xf6\xdfe.tif")
    assert reasons(prepared(raw)) == {"rod/gr\\udcf6\\udcdfe.tif": "file name is not Unicode: rename it"}


def test_mixed_sizes_keep_their_proportions(tmp_path):
    shapes = {"rod/a": (40, 400), "rod/b": (300, 100), "round/c": (64, 64), "round/d": (20, 20)}
    files = {
        f"{name}.tif": encoded(field(at, shape), ".tif") for at, (name, shape) in enumerate(shapes.items())
    }
    dataset = prepared(lay_out(tmp_path / "raw", files))
    assert [load_pixels(dataset, crop).shape for crop in dataset.crops] == [
        (10, 101),
        (55, 18),
        (32, 32),
        (20, 20),
    ]


def test_linked_folders_are_followed_once(raw, tmp_path):
    elsewhere = lay_out(tmp_path / "elsewhere", {"a.tif": 30, "b.tif": 31})
    (raw / "cube").symlink_to(elsewhere)
    (raw / "rod" / "loop").symlink_to(raw)
    dataset = prepared(raw)
    assert dataset.labels == ("cube", "rod", "round")
    assert len(dataset.crops) == 14


def test_the_order_does_not_depend_on_how_many_processes_work(raw):
    alone = prepared(raw)
    shutil.rmtree(alone.root)
    counts: list[tuple[int, int]] = []
    together = prepared(raw, workers=2, progress=lambda _, done, total: counts.append((done, total)))
    assert together == alone
    assert counts == [(done, 12) for done in range(13)]


class Reads:
    """Counts which files the reader is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self._read = cutting.read_micrograph
        monkeypatch.setattr(cutting, "read_micrograph", self)

    def __call__(self, path: Path):
        self.names.append(path.name)
        return self._read(path)


def test_a_rerun_reads_nothing_again(raw, monkeypatch):
    lay_out(raw, {"rod/spectrum.dm3": spectrum_dm3_bytes(np.random.default_rng(0))})
    first = prepared(raw)
    reads = Reads(monkeypatch)
    assert prepared(raw) == first
    assert prepared(raw, seed=5, split=SplitRule(test=0.4)).fingerprint != first.fingerprint
    assert reads.names == []


def test_only_what_changed_is_done_again(raw, monkeypatch):
    first = prepared(raw)
    lay_out(raw, {"rod/2.tif": 40, "round/new.tif": 41})
    gone, short = first.crops[3], first.crops[4]
    (first.root / gone.cached).unlink()
    (first.root / short.cached).write_bytes(b"half")
    reads = Reads(monkeypatch)
    second = prepared(raw)
    assert sorted(reads.names) == ["2.tif", "3.tif", "4.tif", "new.tif"]
    assert second.fingerprint != first.fingerprint
    assert load_pixels(second, short).shape == (28, 37)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"cache_px": 24}, id="size"),
        pytest.param(
            {"preprocessing": Preprocessing(input_px=32, clipped_fraction=0.01)}, id="contrast rule"
        ),
    ],
)
def test_another_rule_cuts_again(raw, monkeypatch, options):
    first = prepared(raw)
    reads = Reads(monkeypatch)
    second = prepared(raw, **options)
    assert len(reads.names) == 12
    assert {crop.cached for crop in first.crops}.isdisjoint(crop.cached for crop in second.crops)


def test_a_file_that_could_not_be_read_is_tried_again(raw, monkeypatch):
    path = raw / "rod" / "0.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    assert "unreadable" in reasons(prepared(raw))["rod/0.tif"]
    reads = Reads(monkeypatch)
    prepared(raw)
    assert reads.names == ["0.tif"]
    path.write_bytes(whole)
    assert reasons(prepared(raw)) == {}


def test_after_an_interruption_the_next_run_goes_on(raw, monkeypatch):
    def interrupt(_: str, done: int, __: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(raw, progress=interrupt)
    with pytest.raises(PrepareError, match=r"has no dataset.json, so it is no finished data set; run"):
        load_dataset(raw.parent / "out")
    reads = Reads(monkeypatch)
    assert len(prepared(raw).kept) == 12
    assert len(reads.names) == 7


def test_an_interruption_leaves_no_process_behind(raw):
    def interrupt(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(raw, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []
    assert len(prepared(raw).kept) == 12


def test_groups_by_folder(tmp_path):
    names = [
        f"{label}/day{day}/{at}.tif" for label in ("rod", "round") for day in range(6) for at in range(2)
    ]
    files = {name: seed for seed, name in enumerate([*names, "rod/loose.tif"])}
    dataset = prepared(lay_out(tmp_path / "raw", files), split=SplitRule(by="folder"))
    assert {crop.group for crop in dataset.kept if "day" in crop.source} == {f"day{at}" for at in range(6)}
    assert leak_report(dataset.kept, dataset.split).leaks == ()
    assert dataset.notes == ("files in no sub-folder, each a group of its own: 1 (rod/loose.tif)",)


def test_groups_and_parts_from_a_table(raw):
    table = raw.parent / "labels.csv"
    parts = ("train", "val", "test")
    rows = [
        f"{label}/{at}.tif,paper{at // 2},{parts[at // 2]}" for label in ("rod", "round") for at in range(6)
    ]
    rows[0] = "rod/0.tif,,train"
    rows[1] = "rod/1.tif,paper0,"
    rows.append("rod/lost.tif,paper9,test")
    table.write_text("\n".join(["file,doi,split", *rows[:-2], rows[-1]]), encoding="utf-8")
    rule = SplitRule(by="column:doi", part_column="split")
    with_parts = prepared(raw, split=rule, labels_table=table)
    assert reasons(with_parts) == {
        "rod/1.tif": "no part: the labels table's split is empty",
        "round/5.tif": "no part: the labels table's split is empty",
    }
    assert [crop.source for crop in with_parts.validation] == [
        "rod/2.tif",
        "rod/3.tif",
        "round/2.tif",
        "round/3.tif",
    ]
    assert [crop.source for crop in with_parts.test] == ["rod/4.tif", "rod/5.tif", "round/4.tif"]
    assert with_parts.notes == (
        "rows of labels.csv without a file: 1 (rod/lost.tif)",
        "files with an empty doi, each a group of its own: 1 (rod/0.tif)",
    )
    grouped = prepared(raw, split=SplitRule(by="column:doi"), labels_table=table)
    assert {crop.group for crop in grouped.kept if "/3" in crop.source} == {"paper1"}
    assert "files without a row in labels.csv: 1 (round/5.tif)" in grouped.notes
    assert leak_report(grouped.kept, grouped.split).leaks == ()


def test_a_table_that_tears_a_group_is_taken_and_told(raw):
    table = raw.parent / "labels.csv"
    part = ("test", "train", "train")
    rows = [f"{label}/{at}.tif,paper,{part[at % 3]}" for label in ("rod", "round") for at in range(6)]
    table.write_text("\n".join(["file,doi,split", *rows]), encoding="utf-8")
    dataset = prepared(raw, split=SplitRule(by="column:doi", part_column="split"), labels_table=table)
    assert "LEAK: 4 of 4 test crops have a micrograph of the same group in train (100 %;" in summary(dataset)


def test_a_table_written_on_a_mac_names_the_same_files(tmp_path):
    raw = lay_out(tmp_path / "raw", {"Stäbchen/ä.tif": 1, "rund/ö.tif": 2})
    table = tmp_path / "labels.csv"
    table.write_text(
        unicodedata.normalize("NFD", "file,sample\nStäbchen/ä.tif,s1\nrund/ö.tif,s1\n"), encoding="utf-8"
    )
    dataset = prepared(raw, split=SplitRule(by="column:sample"), labels_table=table)
    assert {crop.group for crop in dataset.kept} == {"s1"}


def test_a_person_can_read_the_summary(raw):
    lay_out(raw, {"rod/x.tif": 6, "rod/y.dm3": b"", "cube/z.tif": 60, "notes.txt": b""})
    dataset = prepared(raw, classes=("rod", "round"))
    assert (
        summary(dataset)
        == """\
12 crops of 12 micrographs, 12 groups (by micrograph)

class  train  validation  test  all  groups
rod        4           1     1    6       6
round      4           1     1    6       6

3 files dropped:
       1  class folder excluded
       1  duplicate content
       1  unreadable

note: files of other kinds, not looked at: 1 (.txt)

no micrograph, content, near-duplicate or group stands in two parts
sessions were not compared for 12 of 12 micrographs: no acquisition time in the files"""
    )


def test_a_spreadsheet_can_read_the_table(raw):
    dataset = prepared(raw)
    data = (dataset.root / "dataset.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    assert [row["source"] for row in rows] == [crop.source for crop in dataset.crops]
    assert rows[0]["kept"] == "yes"
    assert rows[0]["pixel_height_nm"] == ""


def test_real_micrographs(shared_data, tmp_path):
    """Exported panels and DM files of several instruments, as they lie in the shared folder."""
    raw, dm3 = tmp_path / "raw", shared_data / "dm3"
    picked = {
        "faceted": sorted((shared_data / "labelled" / "emps" / "faceted").glob("*.jpg"))[:4],
        "lattice": [
            dm3 / "ingrained/HAADF149.dm3",
            dm3 / "ingrained/HAADF85.dm3",
            dm3 / "temul-toolkit/example_Se_implanted_MoS2.dm3",
            dm3 / "SciFiDatasets/DMReader_EELS_STO.dm3",
            dm3 / "YOLOv8--DM3-STEM-Automated-Nanoparticle-Analysis/DM3-file.dm3",
        ],
        "particles": [dm3 / "particlespy/JEOL HAADF Image.dm4"],
    }
    for label, paths in picked.items():
        (raw / label).mkdir(parents=True)
        for path in paths:
            (raw / label / path.name).symlink_to(path)
    dataset = prepared(raw, cache_px=224, preprocessing=Preprocessing())
    assert {label: sum(crop.label == label for crop in dataset.kept) for label in dataset.labels} == {
        "faceted": 4,
        "lattice": 3,
        "particles": 1,
    }
    kinds = {source.split("/")[1]: reason.split(":")[0] for source, reason in reasons(dataset).items()}
    assert kinds == {"DMReader_EELS_STO.dm3": "not_an_image", "DM3-file.dm3": "unreadable"}
    by_name = {crop.source.split("/")[1]: crop for crop in dataset.kept}
    assert by_name["HAADF85.dm3"].pixel_size_nm == pytest.approx((0.01639, 0.01639), rel=1e-3)
    assert load_pixels(dataset, by_name["JEOL HAADF Image.dm4"]).shape == (112, 112)
