"""When two files are one picture, and which of them stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_agent.preprocessing import Preprocessing
from trainer.preparing.cutting import CachedCrop, CutFile, CutPlan, cut_files
from trainer.preparing.duplicates import without_copies, without_near_copies
from trainer.preparing.near_duplicates import Likeness
from trainer.preparing.split import PrepareError


def cut(source: str, content: str, *pixels: str, reason: str = "") -> CutFile:
    crops = tuple(CachedCrop(box_px=(0, 0, 8, 8), cached=name, cached_bytes=1) for name in pixels)
    return CutFile(source=source, content=content, shape_px=(8, 8), reason=reason, crops=crops)


def label_of(source: str) -> str:
    return source.partition("/")[0]


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        pytest.param([cut("rod/a", "1", "p"), cut("rod/b", "2", "q")], ["", ""], id="two pictures"),
        pytest.param(
            [cut("rod/a", "1", "p"), cut("rod/b", "1", "p"), cut("rod/c", "1", "p")],
            ["", "duplicate content: same sha256 as rod/a", "duplicate content: same sha256 as rod/a"],
            id="three times the same file",
        ),
        pytest.param(
            [cut("rod/a", "1", "p", "q"), cut("rod/b", "2", "p", "q"), cut("rod/c", "3", "p", "r")],
            ["", "duplicate pixels: same picture as rod/a", ""],
            id="all crops must be alike",
        ),
        pytest.param(
            [cut("rod/a", "1", "p"), cut("cube/b", "1", "p"), cut("rod/c", "1", "p")],
            [
                "contradictory label: the same picture is cube/b, rod/c",
                "contradictory label: the same picture is rod/a, rod/c",
                "contradictory label: the same picture is rod/a, cube/b",
            ],
            id="one file in two classes",
        ),
        pytest.param(
            [cut("rod/a", "1", reason="blank field"), cut("rod/b", "1", reason="blank field")],
            ["blank field", "blank field"],
            id="a dropped file keeps its reason",
        ),
    ],
)
def test_copies(cuts, expected):
    assert [one.reason for one in without_copies(cuts, lambda source: source.split("/")[0])] == expected


def seen(
    source: str, *, side: int = 8, size_nm: float | None = None, reason: str = "", note: str = ""
) -> CutFile:
    overview = None if reason else CachedCrop(box_px=(0, 0, side, side), cached="-", cached_bytes=1)
    pixel_size_nm = (size_nm, size_nm) if size_nm else None
    return CutFile(
        source=source,
        shape_px=(side, side),
        pixel_size_nm=pixel_size_nm,
        reason=reason,
        note=note,
        overview=overview,
    )


def outcome(monkeypatch, cuts: list[CutFile], *pairs: tuple[int, int, str]) -> list[tuple[str, str, str]]:
    """(reason, near, note) of each, where these pairs were found alike."""
    found = tuple(Likeness(first, second, kind, 1.0, 1.0, 1.0) for first, second, kind in pairs)
    monkeypatch.setattr("trainer.preparing.duplicates.find", lambda pictures, **given: found)
    return [(one.reason, one.near, one.note) for one in without_near_copies(cuts, label_of, Path())]


A, B, C, D = (seen(f"rod/{name}") for name in "abcd")
COPY = "near duplicate: same picture as rod/"


@pytest.mark.parametrize(
    ("cuts", "pairs", "expected"),
    [
        pytest.param([A, B], [], [("", "", ""), ("", "", "")], id="two pictures"),
        pytest.param([A, B], [(0, 1, "same")], [("", "", ""), (f"{COPY}a", "", "")], id="saved twice"),
        pytest.param(
            [A, B, C], [(0, 1, "same"), (1, 2, "same")],
            [("", "", ""), (f"{COPY}a", "", ""), (f"{COPY}a", "", "")], id="saved three times",
        ),
        pytest.param(
            [A, seen("rod/b", size_nm=0.2)], [(0, 1, "same")],
            [(f"{COPY}b", "", ""), ("", "", "")], id="the calibrated one stays",
        ),
        pytest.param(
            [A, seen("rod/b", side=16)], [(0, 1, "same")],
            [(f"{COPY}b", "", ""), ("", "", "")], id="the one with most pixels stays",
        ),
        pytest.param(
            [A, seen("round/b"), C], [(0, 1, "same")],
            [
                ("contradictory label: nearly the same picture is round/b", "", ""),
                ("contradictory label: nearly the same picture is rod/a", "", ""),
                ("", "", ""),
            ], id="saved twice, in two classes",
        ),
        pytest.param(
            [A, B, C, D], [(0, 2, "near"), (2, 3, "near")],
            [("", "rod/a", ""), ("", "", ""), ("", "rod/a", ""), ("", "rod/a", "")], id="a tilt series stays",
        ),
        pytest.param(
            [A, B, C], [(0, 1, "same"), (1, 2, "near")],
            [("", "rod/a", ""), (f"{COPY}a", "", ""), ("", "rod/a", "")], id="a copy connects neighbours",
        ),
        pytest.param(
            [A, seen("round/b", note="scale bar")], [(0, 1, "near")],
            [
                ("", "rod/a", "about the same area in another class: round/b"),
                ("", "rod/a", "scale bar; about the same area in another class: rod/a"),
            ], id="neighbours in two classes",
        ),
        pytest.param(
            [seen("rod/x", reason="blank field"), A, B], [(0, 1, "same")],
            [("blank field", "", ""), ("", "", ""), (f"{COPY}a", "", "")], id="dropped files are not looked at",
        ),
    ],
)  # fmt: skip
def test_near_copies(monkeypatch, cuts, pairs, expected):
    assert outcome(monkeypatch, cuts, *pairs) == expected


@pytest.fixture
def saved(tmp_path: Path) -> tuple[list[CutFile], Path]:
    """One picture as tif, and again as a smaller jpg; and another picture."""
    raw = tmp_path / "raw"
    (raw / "rod").mkdir(parents=True)
    y, x = np.mgrid[:240, :240]
    for name, seed in (("a", 1), ("b", 2)):
        random = np.random.default_rng(seed)
        grey = random.normal(180, 4, (240, 240))
        for row, column, radius in random.uniform((0, 0, 5), (240, 240, 20), (40, 3)):
            grey -= 60 * (np.hypot(y - row, x - column) < radius)
        picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
        picture.save(raw / "rod" / f"{name}.tif")
        if name == "a":
            picture.resize((200, 200)).save(raw / "rod" / "again.jpg", quality=80)
    plan = CutPlan(raw, tmp_path / "out", Preprocessing(), 64)
    return list(cut_files(["rod/a.tif", "rod/again.jpg", "rod/b.tif"], plan, workers=1)), tmp_path / "out"


def test_a_picture_that_was_saved_again_is_dropped(saved):
    cuts, out = saved
    steps: list[tuple[str, int, int]] = []

    def embed(pictures):
        return np.stack([np.histogram(picture, 32, (0, 256))[0] for picture in pictures])

    found = without_near_copies(
        cuts, label_of, out, embed=embed, progress=lambda *counts: steps.append(counts)
    )
    assert [one.reason for one in found] == ["", "near duplicate: same picture as rod/a.tif", ""]
    assert steps[-1] == ("comparing pictures", 3, 3)


def test_an_overview_that_is_gone_is_one_clear_message(saved):
    cuts, out = saved
    path = out / cuts[1].overview.cached
    path.unlink()
    with pytest.raises(PrepareError) as refused:
        without_near_copies(cuts, label_of, out)
    assert str(refused.value).startswith(f"{path}: the overview of rod/again.jpg cannot be read (")
    assert str(refused.value).endswith("; run `edge-trainer prepare` again")
