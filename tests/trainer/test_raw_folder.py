"""Which files of a raw folder are taken, of which class, for which part: every layout that a lab may have."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainer.preparing.raw_folder import RawFolder, folders_below_class, read_raw_folder
from trainer.preparing.split import PrepareError

if TYPE_CHECKING:
    from collections.abc import Iterable


def lay_out(raw: Path, names: Iterable[str]) -> Path:
    """Files without content: nothing is opened. A name that ends in a slash is an empty folder."""
    for name in names:
        path = raw / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return raw


def placed(folder: RawFolder) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """What is known of the files to read."""
    return {file.source: (file.label, file.part, file.folders_below_class) for file in folder.to_read}


def reasons(folder: RawFolder) -> dict[str, str]:
    return {file.source: file.reason for file in folder.files if file.reason}


def refusal(raw: Path, classes: tuple[str, ...] | None = None) -> str:
    with pytest.raises(PrepareError) as refused:
        read_raw_folder(raw, classes)
    return str(refused.value).replace(str(raw), "RAW").replace(f"RAW{os.sep}", "RAW/")


BOTH = ("rod/a.dm3", "round/b.dm3")


def test_class_folders_with_any_folders_below(tmp_path):
    names = [
        "rod/a.dm3",
        "rod/s1/b.DM4",
        "rod/s1/day 2/c.tif",
        "round/d.JPEG",
        "round/e.tiff",
        "round/s1/f.png",
    ]
    found = read_raw_folder(lay_out(tmp_path, [*names, "round/s1/notes.txt", "round/Thumbs.db", "round/LOG"]))
    assert found.layout == "classes"
    assert found.classes == ("rod", "round")
    assert placed(found) == {
        "rod/a.dm3": ("rod", "", ()),
        "rod/s1/b.DM4": ("rod", "", ("s1",)),
        "rod/s1/day 2/c.tif": ("rod", "", ("s1", "day 2")),
        "round/d.JPEG": ("round", "", ()),
        "round/e.tiff": ("round", "", ()),
        "round/s1/f.png": ("round", "", ("s1",)),
    }
    assert found.others == {".txt": 1, ".db": 1, "no suffix": 1}
    assert [file.source for file in found.files] == sorted(names)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        pytest.param("train", "val", "test", id="the origin's"),
        pytest.param("Training", "VALIDATION", "Testing", id="longer words, any case"),
        pytest.param("train", "valid", None, id="no test"),
        pytest.param("train", None, "test", id="no validation"),
    ],
)
def test_folders_of_parts_are_read_as_they_are(tmp_path, train, validation, test):
    parts = {"train": train, "validation": validation, "test": test}
    names = {
        f"{folder}/{label}/{below}{part}.dm3": (label, part, tuple(below.split("/")[:-1]))
        for part, folder in parts.items()
        if folder is not None
        for label, below in (("rod", ""), ("round", "s1/d2/"))
    }
    found = read_raw_folder(lay_out(tmp_path, names))
    assert found.layout == "parts"
    assert found.classes == ("rod", "round")
    assert placed(found) == names
    assert {found.label_of(source) for source in names} == {"rod", "round"}
    assert {folders_below_class(source, label) for source, (label, _, _) in names.items()} == {
        (),
        ("s1", "d2"),
    }


@pytest.mark.parametrize(
    ("names", "layout", "classes"),
    [
        pytest.param(["train/a.dm3", "test/b.dm3"], "classes", ("test", "train"), id="no class folders inside"),
        pytest.param(
            ["train/s1/a.dm3", "round/b.dm3"], "classes", ("round", "train"), id="train alone is a class"
        ),
        pytest.param(
            ["val/rod/a.dm3", "test/round/b.dm3"], "classes", ("test", "val"), id="nothing to train on"
        ),
        pytest.param(
            ["train/rod/a.dm3", "train/round/b.dm3", "val/", "test/rod/c.dm3"], "parts", ("rod", "round"),
            id="an empty part",
        ),
        pytest.param(
            ["train/rod/a.dm3", "train/round/b.dm3", "val/rod/c.dm3", "Validation/rod/d.dm3"],
            "parts", ("rod", "round"), id="one part in two folders",
        ),
    ],
)  # fmt: skip
def test_which_layout_a_folder_has(tmp_path, names, layout, classes):
    found = read_raw_folder(lay_out(tmp_path, names))
    assert (found.layout, found.classes) == (layout, classes)


def test_what_lies_beside_folders_of_parts_is_left_and_told(tmp_path):
    names = [
        "train/rod/a.dm3",
        "train/round/b.dm3",
        "test/rod/c.dm3",
        "train/loose.dm3",
        "x.dm3",
        "unsure/d.dm3",
    ]
    found = read_raw_folder(lay_out(tmp_path, names))
    assert reasons(found) == {
        "train/loose.dm3": "outside any class folder",
        "unsure/d.dm3": "outside the train, validation and test folders",
        "x.dm3": "outside the train, validation and test folders",
    }
    assert found.notes == ("folders beside train, validation and test, not looked at: 1 (unsure)",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("x.tif", "outside any class folder", id="beside the class folders"),
        pytest.param("rod/.x.tif", "hidden file or folder", id="hidden file"),
        pytest.param("rod/._a.dm3", "hidden file or folder", id="what a Mac leaves on a stick"),
        pytest.param(".trash/x.tif", "hidden file or folder", id="hidden folder"),
        pytest.param("rod/@eaDir/a.dm3/THUMB.jpg", "hidden file or folder", id="thumbnails of a storage box"),
        pytest.param("__MACOSX/rod/x.tif", "hidden file or folder", id="an archive made on a Mac"),
        pytest.param("rod/a.dm3.heatmap.png", "heatmap of this program's own", id="the agent was here"),
    ],
)
def test_files_that_are_left_say_why(tmp_path, name, reason):
    found = read_raw_folder(lay_out(tmp_path, [*BOTH, name]))
    assert reasons(found) == {name: reason}
    assert found.classes == ("rod", "round")


def test_classes_can_be_chosen(tmp_path):
    raw = lay_out(tmp_path, [*BOTH, "masks/0.png", "nothing here/"])
    found = read_raw_folder(raw, ("rod", "round"))
    assert reasons(found) == {"masks/0.png": "class folder excluded: masks"}
    assert found.classes == ("rod", "round")


def test_names_of_any_language(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Stäbchen")
    raw = lay_out(tmp_path, [f"{decomposed}/Größe 1.tif", "круглые/粒子, rund.tif"])
    found = read_raw_folder(raw, ("Stäbchen", "круглые"))
    assert placed(found) == {
        f"{decomposed}/Größe 1.tif": ("Stäbchen", "", ()),
        "круглые/粒子, rund.tif": ("круглые", "", ()),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a name be no text")
def test_names_that_are_no_text_are_left_and_can_be_printed(tmp_path):
    lay_out(tmp_path, BOTH)
    (tmp_path / "rod" / os.fsdecode(b"gr\xf6\xdfe.tif")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"w\xfcrfel")).mkdir()
    (tmp_path / os.fsdecode(b"w\xfcrfel") / "a.tif").write_bytes(b"")
    found = read_raw_folder(tmp_path)
    assert reasons(found) == {
        "rod/gr\\udcf6\\udcdfe.tif": "file name is not Unicode: rename it",
        "w\\udcfcrfel/a.tif": "file name is not Unicode: rename it",
    }
    assert found.classes == ("rod", "round")
    (tmp_path / os.fsdecode(b"leer\xff")).mkdir()
    assert "RAW/leer\\udcff: the folder of class" in refusal(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a privilege to make links")
def test_linked_folders_are_followed_once(tmp_path):
    raw, elsewhere = lay_out(tmp_path / "raw", BOTH), lay_out(tmp_path / "elsewhere", ["s1/a.tif"])
    (raw / "cube").symlink_to(elsewhere)
    (raw / "rod" / "loop").symlink_to(raw)
    (raw / "rod" / "same").symlink_to(elsewhere)
    found = read_raw_folder(raw)
    assert placed(found) == {
        "cube/s1/a.tif": ("cube", "", ("s1",)),
        "rod/a.dm3": ("rod", "", ()),
        "round/b.dm3": ("round", "", ()),
    }
    assert found.notes == ("linked folders that were read already: 2 (rod/loop, rod/same)",)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a privilege to make links")
def test_a_class_that_is_a_link_to_another_is_no_empty_folder(tmp_path):
    (lay_out(tmp_path, BOTH) / "sphere").symlink_to(tmp_path / "round")
    assert read_raw_folder(tmp_path).notes == (
        "folders with no usable picture, taken for no class: 1 (sphere)",
        "linked folders that were read already: 1 (sphere)",
    )


@pytest.mark.parametrize(
    ("names", "note"),
    [
        pytest.param(["Rod/a.dm3", "rod/b.dm3", "round/c.dm3"], "'Rod' and 'rod'", id="case"),
        pytest.param(["rod/a.dm3", "rod /b.dm3", "round/c.dm3"], "'rod' and 'rod '", id="a blank behind"),
        pytest.param(["r od/a.dm3", "r  od/b.dm3"], "'r  od' and 'r od'", id="two blanks"),
        pytest.param(
            ["train/rod/a.dm3", "train/round/b.dm3", "test/Rod/c.dm3"], "'Rod' and 'rod'", id="in two parts"
        ),
    ],
)  # fmt: skip
def test_class_names_that_look_alike_are_told(tmp_path, names, note):
    if sys.platform != "linux":
        pytest.skip("only Linux keeps all of these names apart")
    found = read_raw_folder(lay_out(tmp_path, names))
    assert found.notes == (f"class names that look alike, taken as different classes: {note}",)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        pytest.param(
            ["a.tif"], None, "RAW: has no class folders; put each class's micrographs into its own folder",
            id="no class folders",
        ),
        pytest.param(
            [".hidden/a.tif", "@eaDir/b.tif"], None,
            "RAW: has no class folders; put each class's micrographs into its own folder",
            id="only hidden folders",
        ),
        pytest.param(
            BOTH, ("rod", "cube"), "RAW: has no class folder 'cube'; it has rod, round", id="a class not there"
        ),
        pytest.param(
            [*BOTH, "cube/"], None,
            "RAW/cube: the folder of class 'cube' is empty; add micrographs, remove the folder, or choose the "
            "classes to take",
            id="an empty class folder",
        ),
        pytest.param(
            ["train/rod/a.dm3", "train/round/b.dm3", "train/cube/", "test/cube/", "test/rod/c.dm3"], None,
            "RAW/test/cube: the folder of class 'cube' is empty; add micrographs, remove the folder, or choose "
            "the classes to take",
            id="a class empty in every part",
        ),
        pytest.param(
            [*BOTH, "cube/notes.txt"], ("rod", "cube"),
            "RAW/cube: class 'cube' has no usable micrograph (no picture file in it); add some or leave the "
            "class out",
            id="a chosen class without a picture",
        ),
        pytest.param(
            [*BOTH, "cube/.a.tif"], ("rod", "cube"),
            "RAW/cube: class 'cube' has no usable micrograph (1 x hidden file or folder); add some or leave the "
            "class out",
            id="a chosen class whose only picture is hidden",
        ),
        pytest.param(
            ["rod/a.tif", "round/.b.tif"], None,
            "RAW: a classifier needs two classes with usable micrographs, found rod (dropped: 1 x hidden file or "
            "folder); put .dm3 .dm4 .jpeg .jpg .png .tif .tiff files into two class folders or more",
            id="one class",
        ),
        pytest.param(
            ["rod/a.txt", "round/b.txt"], None,
            "RAW: a classifier needs two classes with usable micrographs, found none (dropped: no file); put "
            ".dm3 .dm4 .jpeg .jpg .png .tif .tiff files into two class folders or more",
            id="no picture at all",
        ),
    ],
)  # fmt: skip
def test_what_cannot_become_a_data_set_is_refused_before_anything_is_read(tmp_path, names, classes, message):
    assert refusal(lay_out(tmp_path, names), classes) == message


def test_a_folder_without_pictures_is_no_class_and_told(tmp_path):
    found = read_raw_folder(lay_out(tmp_path, [*BOTH, "notes/readme.txt", "cube/.a.tif"]))
    assert found.classes == ("rod", "round")
    assert found.notes == ("folders with no usable picture, taken for no class: 2 (cube, notes)",)


def test_a_part_may_lack_a_class(tmp_path):
    found = read_raw_folder(
        lay_out(tmp_path, ["train/rod/a.tif", "train/round/b.tif", "test/rod/c.tif", "test/round/"])
    )
    assert found.classes == ("rod", "round")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    raw = lay_out(tmp_path, BOTH)

    def refused(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    assert refusal(raw) == "RAW: cannot be listed (Permission denied); allow it"


@pytest.mark.parametrize(
    ("source", "label", "expected"),
    [
        pytest.param("rod/a.dm3", "rod", (), id="no folder"),
        pytest.param("rod/s1/d2/a.dm3", "rod", ("s1", "d2"), id="class folders"),
        pytest.param("Val/rod/s1/a.dm3", "rod", ("s1",), id="folders of parts"),
        pytest.param("train/test/a.dm3", "train", ("test",), id="a class that is called train"),
        pytest.param("rod/s1/a.dm3", "round", ("s1",), id="a person gave another class"),
        pytest.param("test/rod/s1/a.dm3", "round", ("s1",), id="that, in folders of parts"),
        pytest.param("a.dm3", "", (), id="outside any class"),
    ],
)
def test_folders_below_the_class_without_the_layout(source, label, expected):
    assert folders_below_class(source, label) == expected


def test_a_label_of_a_path_follows_the_layout():
    sources = ("train/rod/a.dm3", "rod/a.dm3", "train/a.dm3", "a.dm3")
    for layout, expected in {"classes": ["train", "rod", "train", ""], "parts": ["rod", "", "", ""]}.items():
        folder = RawFolder(Path("raw"), layout, (), (), {}, ())
        assert [folder.label_of(source) for source in sources] == expected
