"""When two files are one picture, and which of them stays."""

from __future__ import annotations

import pytest

from trainer.cutting import CachedCrop, CutFile
from trainer.duplicates import without_copies


def cut(source: str, content: str, *pixels: str, reason: str = "") -> CutFile:
    crops = tuple(CachedCrop(box_px=(0, 0, 8, 8), cached=name, cached_bytes=1) for name in pixels)
    return CutFile(source=source, content=content, shape_px=(8, 8), reason=reason, crops=crops)


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
    assert [one.reason for one in without_copies(cuts)] == expected
