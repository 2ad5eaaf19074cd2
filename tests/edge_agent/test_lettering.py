"""Text on figures: written in the nearest characters that the font has, never longer than its room."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edge_agent.lettering import Lettering, drawable, width_px

WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        pytest.param("round 97 %", "round 97 %", id="ascii"),
        pytest.param("2 µm", "2 um", id="micro sign"),
        pytest.param("2 μm", "2 um", id="greek mu"),
        pytest.param("512 × 512", "512 x 512", id="times sign"),
        pytest.param("Ångström très", "Angstrom tres", id="accents"),
        pytest.param("粒子", "??", id="characters that the font lacks"),
        pytest.param("a\nb\tc\x00", "a?b?c?", id="control characters"),
        pytest.param("name\udcff.dm3", "name?.dm3", id="bytes that are no text"),
    ],
)
def test_what_the_font_lacks_is_written_in_the_nearest_characters(words: str, written: str) -> None:
    assert drawable(words) == written


@pytest.mark.parametrize("words", ["a.dm3", "m" * 500, "粒" * 500, "", "\udcff" * 50])
@pytest.mark.parametrize("room", [4, 60, 200])
def test_a_line_stays_within_its_room(words: str, room: int) -> None:
    image = Image.new("RGB", (400, 40))

    end = Lettering(ImageDraw.Draw(image)).write((10, 20), words, 17, WHITE, room=room)

    inked = np.nonzero(np.asarray(image).any(axis=(0, 2)))[0]
    longest = max(room, width_px("…", 17))
    assert end <= 10 + longest + 1
    assert inked.size == 0 or inked.max() <= 10 + longest + 1


def test_a_long_name_keeps_its_start_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = ImageDraw.Draw(Image.new("RGB", (400, 40)))
    monkeypatch.setattr(draw, "text", lambda at, line, **how: drawn.append(line))

    Lettering(draw).write((0, 20), "2026-01-15_sample" + "_x" * 100 + "_0001.dm3", 17, WHITE, room=240)

    assert drawn[0].startswith("2026-01-15")
    assert "…" in drawn[0]
    assert drawn[0].endswith("_0001.dm3")


def test_the_width_is_that_of_the_line_as_written() -> None:
    assert width_px("512 × 512", 17) == width_px("512 x 512", 17)
    assert width_px("mm", 34) > width_px("mm", 17) > width_px("m", 17)
