"""A person's decisions: read from a forgiving CSV, applied to rows, never lost without a word."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from trainer.preparing.crop_table import Crop
from trainer.preparing.overrides import Override, Overrides, matched, overruled, read_overrides
from trainer.preparing.split import PrepareError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "file,box,decision,label,by,note\n"


def a_crop(source: str, **changes: object) -> Crop:
    """A kept crop of the whole of a file of 8 x 8 pixels."""
    crop = Crop(
        crop_id=f"id of {source} {changes.get('box_px', '')}",
        source=source,
        sha256=f"sha of {source}",
        label=source.partition("/")[0],
        group=f"group of {source}",
        box_px=(0, 0, 8, 8),
        shape_px=(8, 8),
        pixel_size_nm=None,
        part="",
        kept=True,
        reason="",
        cached=f"cache/{source}.npy",
    )
    return replace(crop, **changes)  # type: ignore[arg-type]


def dropped(source: str, reason: str, **changes: object) -> Crop:
    return a_crop(source, kept=False, reason=reason, **changes)


@pytest.fixture
def read(tmp_path: Path):
    """Write a file of overrides and read it back."""

    def written(text: str, encoding: str = "utf-8") -> Overrides:
        path = tmp_path / "overrides.csv"
        path.write_bytes(text.encode(encoding))
        return read_overrides(path)

    return written


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        pytest.param(HEAD + "a/1.tif,0 0 4 8,keep,b,TM,why\n", "utf-8", id="comma"),
        pytest.param(HEAD.replace(",", ";") + "a/1.tif;0 0 4 8;keep;b;TM;why\n", "utf-8", id="semicolon"),
        pytest.param(HEAD.replace(",", "\t") + "a/1.tif\t0 0 4 8\tkeep\tb\tTM\twhy\n", "utf-8", id="tab"),
        pytest.param(HEAD + "a/1.tif,0 0 4 8,keep,b,TM,why\n", "utf-8-sig", id="as a spreadsheet saves it"),
        pytest.param(HEAD + 'a/1.tif,"0,0,4,8",keep,b,TM,why\r\n', "utf-8", id="box with commas"),
        pytest.param(HEAD + "\n,,,,,\na/1.tif, 0 0 4 8 , KEEP ,b,TM,why\n", "utf-8", id="empty rows, spaces"),
        pytest.param(
            "Note,By,Label,Decision,Box,File\nwhy,TM,b,keep,0 0 4 8,a/1.tif\n", "utf-8", id="any order"
        ),
    ],
)
def test_one_row_is_read(text: str, encoding: str, read) -> None:
    (row,) = read(text, encoding).rows
    assert replace(row, row=0) == Override(0, "a/1.tif", (0, 0, 4, 8), "keep", "b", "TM", "why")


def test_two_columns_are_enough(read) -> None:
    assert read("file,decision\na/1.tif,drop\n").rows == (Override(2, "a/1.tif", None, "drop", "", "", ""),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "file,fate\na,keep\n", "has no column 'decision' (its columns: file, fate)", id="column"
        ),
        pytest.param("", "has no column 'file' (its columns: nothing)", id="empty file"),
        pytest.param(HEAD + ",,keep,,,\n", "row 2 names no file", id="no file"),
        pytest.param(
            HEAD + "a,,maybe,,,\n", "row 2 decides 'maybe' for a; it takes keep or drop", id="decision"
        ),
        pytest.param(
            HEAD + "a,,drop,b,,\n", "row 2 drops a and gives it the class 'b'", id="dropped and labelled"
        ),
        pytest.param(HEAD + "a,0 0 4,keep,,,\n", "row 2 has the box '0 0 4'", id="three numbers"),
        pytest.param(HEAD + "a,4 0 4 8,keep,,,\n", "row 2 has the box '4 0 4 8'", id="empty box"),
        pytest.param(HEAD + "a,-1 0 4 8,keep,,,\n", "row 2 has the box '-1 0 4 8'", id="negative box"),
        pytest.param(
            HEAD + "a/ü.tif,,keep,,,\nb,,drop,,,\na\\u\u0308.tif,,drop,,,\n",
            "rows 2 and 4 contradict each other about a\\u\u0308.tif (keep; drop)",
            id="contradiction, spelt differently",
        ),
        pytest.param(
            HEAD + "a,1 1 2 2,keep,b,,\na,1 1 2 2,keep,c,,\n",
            "rows 2 and 3 contradict each other about a 1 1 2 2 (keep as b; keep as c)",
            id="two classes",
        ),
    ],
)
def test_what_cannot_be_done_is_said_with_its_row(text: str, told: str, read) -> None:
    with pytest.raises(PrepareError) as error:
        read(text)
    assert told in str(error.value)
    assert "overrides.csv" in str(error.value)


def test_a_file_in_another_encoding_is_refused(read) -> None:
    with pytest.raises(PrepareError, match="is not UTF-8 text"):
        read(HEAD + "grün.tif,,keep,,,\n", "latin-1")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"gone\.csv: the overrides cannot be read \(No such file"):
        read_overrides(tmp_path / "gone.csv")


def test_the_same_thing_said_twice_is_no_contradiction(read) -> None:
    assert len(read(HEAD + "a,,keep,,TM,\na,,keep,,XY,agreed\n").rows) == 1


# --- applied ----------------------------------------------------------------------------------------


def test_a_person_drops_keeps_and_relabels(read) -> None:
    rows = [
        a_crop("a/1.tif"),
        dropped("a/2.tif", "blurred: 0.01"),
        a_crop("a/3.tif", note="burnt-in scale bar"),
        a_crop("b/4.tif"),
    ]
    given = read(HEAD + "a/1.tif,,drop,,TM,two phases\na/2.tif,,keep,,TM,\na/3.tif,,keep,b,,\n")

    done, notes = overruled(rows, given)

    assert done == [
        replace(rows[0], kept=False, reason="overruled: dropped by TM (two phases)"),
        replace(rows[1], kept=True, reason="", note="kept by override by TM, was blurred: 0.01"),
        replace(rows[2], label="b", note="burnt-in scale bar; class by override, was a"),
        rows[3],
    ]
    assert notes == ("overrides.csv: 1 dropped, 1 kept against the screening, 1 given another class",)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("a/1.tif,,keep,,,\n", a_crop("a/1.tif"), id="confirmed"),
        pytest.param("a/1.tif,,keep,a,,\n", a_crop("a/1.tif"), id="confirmed with its class"),
        pytest.param("a\\1.tif,,drop,,,\n", None, id="as Windows spells paths"),
    ],
)
def test_what_is_said_of_a_kept_crop(said: str, expected: Crop | None, read) -> None:
    (done,), _ = overruled([a_crop("a/1.tif")], read(HEAD + said))
    assert (done if done.kept else None) == expected


def test_what_was_dropped_already_keeps_its_reason(read) -> None:
    row = dropped("a/1.tif", "blurred: 0.01")
    assert overruled([row], read(HEAD + "a/1.tif,,drop,,,\n")) == ([row], ())


def test_a_row_about_a_box_goes_before_one_about_its_file(read) -> None:
    rows = [a_crop("a/1.tif", box_px=(0, 0, 4, 8)), a_crop("a/1.tif", box_px=(4, 0, 8, 8)), a_crop("b/1.tif")]
    given = read(HEAD + "a/1.tif,4 0 8 8,keep,,,\na/1.tif,,drop,,,\n")
    done, _ = overruled(rows, given)
    assert [crop.kept for crop in done] == [False, True, True]
    assert {override.row for override in matched(rows, given).values()} == {2, 3}


@pytest.mark.parametrize("reason", ["unreadable: is only 300 bytes long", "not_an_image: is a spectrum"])
def test_what_has_no_pixels_cannot_be_kept(reason: str, read) -> None:
    row = dropped("a/1.dm3", reason, cached="", shape_px=(0, 0), box_px=(0, 0, 0, 0))
    done, notes = overruled([row], read(HEAD + "a/1.dm3,,keep,,,\n"))
    assert done == [row]
    assert notes == (f"overrides.csv: cannot be kept, as there are no pixels of it: 1 (a/1.dm3 ({reason}))",)


def test_rows_about_nothing_here_are_listed(read) -> None:
    given = read(HEAD + "a/gone.tif,,drop,,,\na/gone.tif,0 0 1 1,keep,,,\na/1.tif,0 0 9 9,drop,,,\n")
    done, notes = overruled([a_crop("a/1.tif")], given)
    assert done == [a_crop("a/1.tif")]
    assert notes == (
        "overrides.csv: files that are not in the raw folder: 1 (a/gone.tif)",
        "overrides.csv: boxes that are no crop of their file (cut by another tile plan?): 1 (a/1.tif 0 0 9 9)",
    )


def test_a_class_that_nobody_has_is_a_slip_of_the_pen(read) -> None:
    given = read(HEAD + "a/1.tif,,keep,bb,,\n")
    with pytest.raises(PrepareError, match=r"row 2 gives a/1\.tif the class 'bb', which is none of a, b"):
        overruled([a_crop("a/1.tif"), a_crop("b/1.tif")], given)


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        pytest.param(
            dropped("a/copy.tif", "near duplicate: same picture as a/1.tif"), a_crop("a/1.tif"), id="near"
        ),
        pytest.param(
            dropped("a/copy.tif", "duplicate content: same sha256 as a/1.tif", sha256="one"),
            a_crop("a/1.tif", sha256="one"),
            id="bytes",
        ),
        pytest.param(
            dropped("a/copy.tif", "duplicate pixels: another reason", cached="one"),
            a_crop("a/1.tif", cached="one"),
            id="pixels",
        ),
    ],
)
def test_a_copy_that_is_kept_stays_with_its_original(copy: Crop, original: Crop, read) -> None:
    rows = [original, copy, a_crop("b/other.tif")]
    done, _ = overruled(rows, read(HEAD + "a/copy.tif,,keep,,,\n"))
    assert [crop.near for crop in done] == ["a/1.tif"] * 2 + [""]


def test_a_copy_joins_the_cluster_of_its_original(read) -> None:
    copy = dropped("a/9.tif", "near duplicate: same picture as a/1.tif", near="tilt 2")
    rows = [
        a_crop("a/1.tif", near="tilt 1"),
        copy,
        a_crop("a/2.tif", near="tilt 1"),
        a_crop("a/3.tif", near="tilt 2"),
    ]
    done, _ = overruled(rows, read(HEAD + "a/9.tif,,keep,,,\n"))
    assert [crop.near for crop in done] == ["tilt 1"] * 4


def test_one_picture_kept_in_two_classes_is_told(read) -> None:
    why = "contradictory label: the same picture is"
    rows = [
        dropped("a/1.tif", f"{why} b/2.tif", cached="x"),
        dropped("b/2.tif", f"{why} a/1.tif", cached="x"),
    ]
    _, notes = overruled(rows, read(HEAD + "a/1.tif,,keep,,,\nb/2.tif,,keep,,,\n"))
    assert notes[-1] == "overrides.csv: the same picture is kept in two classes: 1 (a/1.tif and b/2.tif)"
