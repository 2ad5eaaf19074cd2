"""The figure: exact geometry, honest colours, a scale bar that measures, words that say the decision."""

from __future__ import annotations

import builtins
import io
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_agent import __version__, evidence, heatmap, lettering
from edge_agent.classifier import Prediction
from edge_agent.decision import Decision
from edge_agent.files import FileStamp, SourceFile
from edge_agent.heatmap import draw_heatmap
from edge_agent.micrograph import Instrument, Micrograph, Replaced, read_micrograph
from edge_agent.preprocessing import (
    Box,
    CamMap,
    ContrastLimits,
    FieldStatistics,
    Preprocessing,
    cut_tiles,
    describe_field,
)

ACCEPT = Decision("accept", ())
FOUR_REASONS = ("pixel_size_out_of_range", "field_of_view_out_of_range", "novel", "low_confidence")
INK = (236, 238, 240)


def a_micrograph(
    pixels: np.ndarray, pixel_size_nm: tuple[float, float] | None = None, name: str = "a.dm3"
) -> Micrograph:
    source = SourceFile(Path("/data") / name, FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
    return Micrograph(
        source=source,
        pixels=pixels,
        pixel_size_nm=pixel_size_nm,
        dataset_index=0,
        frame_index=None,
        datasets=("image",),
        acquired=None,
        acquired_text=None,
        instrument=Instrument(None, None, None, None, None, None),
    )


def a_prediction(
    values: np.ndarray, box_px: Box, *, label: str = "round", probability: float = 0.9, method: str = "cam"
) -> Prediction:
    return Prediction(
        label=label,
        labels=("faceted", label),
        probabilities=(1 - probability, probability),
        novelty=None,
        tiles=(),
        cam=CamMap(label, method, box_px, values.astype(np.float32), "mean_where_overlapping"),
        field=FieldStatistics(ContrastLimits(0.0, 255.0), blank=False, saturated_fraction=0.0, hot_pixels=0),
        look=None,
        tile_disagreement=0.0,
        preprocess_ms=0.0,
        infer_ms=0.0,
    )


GREY_FIELD = a_micrograph(np.full((50, 50), 128, dtype=np.uint8))
WHOLE_FIELD = (0, 0, 50, 50)


@dataclass(frozen=True)
class Figure:
    """A drawn figure taken apart: RGB as int [rows, columns, 3]."""

    png: bytes
    image: Image.Image
    whole: np.ndarray
    plain: np.ndarray
    covered: np.ndarray

    @property
    def coloured(self) -> np.ndarray:
        """Where the covered panel shows any evidence."""
        return np.ptp(self.covered, axis=2) > 0


def drawn(micrograph: Micrograph, prediction: Prediction, decision: Decision = ACCEPT) -> Figure:
    png = draw_heatmap(micrograph, prediction, decision)
    image = Image.open(io.BytesIO(png))
    whole = np.asarray(image).astype(int)
    rows, columns = micrograph.pixels.shape
    arrangement = heatmap._arrange(rows, columns)
    panels = (whole[y0:y1, x0:x1] for x0, y0, x1, y1 in (arrangement.plain, arrangement.covered))
    return Figure(png, image, whole, *panels)


def with_cam(values: np.ndarray, shape: tuple[int, int] = (280, 280), box_px: Box | None = None) -> Figure:
    """A mid-grey field of this shape under the map."""
    field = a_micrograph(np.full(shape, 128, dtype=np.uint8))
    return drawn(field, a_prediction(values, box_px or (0, 0, shape[1], shape[0])))


def hot(cell: tuple[int, int], grid: tuple[int, int], value: float = 5.0) -> np.ndarray:
    values = np.zeros(grid)
    values[cell] = value
    return values


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every line that a figure is given, before it is shortened."""
    lines: list[str] = []
    write = lettering.Lettering.write

    def recording(
        pen: lettering.Lettering, at: tuple[int, int], words: str, *how: object, **more: object
    ) -> int:
        lines.append(words)
        return write(pen, at, words, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(lettering.Lettering, "write", recording)
    return lines


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Every line as it was given, and the columns where what was drawn of it begins and ends."""
    lines: list[tuple[str, float, float]] = []
    write = lettering.Lettering.write

    def recording(
        pen: lettering.Lettering, at: tuple[int, int], words: str, *how: object, **more: object
    ) -> int:
        end = write(pen, at, words, *how, **more)  # type: ignore[arg-type]
        left = 2 * at[0] - end if str(more.get("anchor", "lm")).startswith("r") else at[0]
        lines.append((words, left, left + end - at[0]))
        return end

    monkeypatch.setattr(lettering.Lettering, "write", recording)
    return lines


def caption_of(figure: Figure) -> np.ndarray:
    return figure.whole[-heatmap.CAPTION_PX :]


class TestGeometry:
    @pytest.mark.parametrize(
        ("shape", "stacked"),
        [
            pytest.param((256, 256), False, id="small"),
            pytest.param((2048, 2048), False, id="camera"),
            pytest.param((8192, 8192), False, id="large camera"),
            pytest.param((512, 687), False, id="4:3"),
            pytest.param((1080, 1920), True, id="16:9"),
            pytest.param((1568, 192), False, id="tall strip"),
            pytest.param((64, 1024), True, id="wide strip"),
            pytest.param((4, 16), True, id="4 x 16"),
            pytest.param((2, 2), False, id="2 x 2"),
            pytest.param((1, 700), True, id="one row"),
            pytest.param((700, 1), False, id="one column"),
        ],
    )
    def test_two_panels_of_the_pixels_proportions_within_1024_px(
        self, shape: tuple[int, int], stacked: bool
    ) -> None:
        arrangement = heatmap._arrange(*shape)
        rows, columns = arrangement.panel_shape
        plain, covered = arrangement.plain, arrangement.covered

        assert 640 <= arrangement.size[0] <= 1024
        assert arrangement.size[1] <= 1024
        assert (covered[2] - covered[0], covered[3] - covered[1]) == (columns, rows)
        assert (covered[1] > plain[1]) is stacked
        scale = max(rows / shape[0], columns / shape[1])
        assert rows == pytest.approx(shape[0] * scale, abs=1.01)
        assert columns == pytest.approx(shape[1] * scale, abs=1.01)

    @given(rows=st.integers(1, 20_000), columns=st.integers(1, 20_000))
    @settings(max_examples=300, deadline=None)
    def test_no_proportions_break_the_arrangement(self, rows: int, columns: int) -> None:
        arrangement = heatmap._arrange(rows, columns)
        for left, top, right, bottom in (arrangement.plain, arrangement.covered):
            assert 0 <= left < right <= arrangement.size[0]
            assert 0 <= top < bottom <= arrangement.caption[2]
        assert max(arrangement.size) <= 1024

    @pytest.mark.parametrize("shape", [(280, 280), (200, 700), (1568, 192), (4, 16), (2, 2), (2048, 1999)])
    @pytest.mark.parametrize(
        ("cell", "grid"),
        [
            pytest.param((3, 9), (14, 14), id="inside"),
            pytest.param((0, 0), (14, 14), id="upper left"),
            pytest.param((13, 0), (14, 14), id="lower left"),
            pytest.param((2, 7), (7, 10), id="oblong grid"),
            pytest.param((1, 0), (2, 1), id="two cells"),
        ],
    )
    def test_a_hot_cell_appears_where_it_lies(
        self, shape: tuple[int, int], cell: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        figure = with_cam(hot(cell, grid), shape)

        cell_px = np.array(figure.covered.shape[:2]) / grid
        expected = (np.array(cell) + 0.5) * cell_px
        found = np.argwhere(figure.coloured).mean(axis=0) + 0.5
        assert np.all(np.abs(found - expected) <= 0.5 * cell_px)
        # Near an edge the last cells, continued outwards, pull the spot a little off its centre.
        inside = all(1 < at < cells - 2 for at, cells in zip(cell, grid, strict=True))
        assert not inside or np.all(np.abs(found - expected) <= 1)

    def test_the_map_lies_within_its_box(self) -> None:
        figure = with_cam(hot((2, 3), (5, 7)), (500, 500), (100, 200, 400, 450))

        scale = figure.covered.shape[0] / 500
        expected = np.array([200 + 2.5 / 5 * 250, 100 + 3.5 / 7 * 300]) * scale
        found = np.argwhere(figure.coloured).mean(axis=0) + 0.5
        assert found == pytest.approx(expected, abs=1)

    @pytest.mark.parametrize("pixel_size_nm", [None, (0.5, 0.5), (1.0, 0.5), (0.25, 1.0)])
    def test_the_map_of_a_stretched_input_lies_where_the_object_is(
        self, pixel_size_nm: tuple[float, float] | None
    ) -> None:
        pixels = np.zeros((150, 400), dtype=np.uint8)
        pixels[30:60, 300:340] = 255
        field = a_micrograph(pixels, pixel_size_nm=pixel_size_nm)
        rule = Preprocessing(input_px=112, proportions="square", value_range=(0, 1))
        (tile,) = cut_tiles(pixels, pixel_size_nm, rule).tiles

        cells = 10 * tile.values[0].reshape(14, 8, 14, 8).mean(axis=(1, 3))
        figure = drawn(field, a_prediction(cells, tile.box_px))

        scale = figure.covered.shape[0] / 150
        found = np.argwhere(figure.coloured).mean(axis=0) / scale
        assert np.all(np.abs(found - (45, 320)) <= (3, 7))

    def test_evidence_at_the_edge_of_a_box_stays_within_it(self) -> None:
        figure = with_cam(np.tile([0.0, 1.0], (4, 2)), (500, 500), (100, 200, 400, 450))

        where = np.argwhere(figure.coloured) / (figure.covered.shape[0] / 500)
        assert where[:, 0].min() >= 199
        assert where[:, 0].max() <= 451
        assert where[:, 1].max() <= 401

    def test_the_examined_box_is_framed_where_it_is_not_the_whole_field(self) -> None:
        whole, part = (with_cam(hot((7, 7), (14, 14)), box_px=box) for box in (None, (28, 28, 252, 252)))

        corner = round(28 * part.plain.shape[0] / 280)
        assert tuple(part.plain[corner, corner]) == INK
        assert tuple(part.covered[corner, corner]) == INK
        assert tuple(whole.plain[corner, corner]) != INK

    @pytest.mark.parametrize(("cells", "count"), [(14, 14 * 35), (7, 7 * 9), (3, 3)])
    def test_at_its_centre_a_cell_has_its_own_value(self, cells: int, count: int) -> None:
        weights = evidence._interpolation(count, 1000, (0, 1000), cells)

        step = count // cells
        assert weights[step // 2 :: step] == pytest.approx(np.eye(cells), abs=1e-6)
        assert weights.sum(axis=1) == pytest.approx(1, abs=1e-6)

    def test_the_outline_surrounds_the_peak_on_the_plain_panel(self) -> None:
        figure = with_cam(hot((3, 9), (14, 14)))

        outline = np.argwhere(np.ptp(figure.plain, axis=2) > 0) + 0.5
        cell_px = figure.plain.shape[0] / 14
        assert outline.mean(axis=0) == pytest.approx(np.array([3.5, 9.5]) * cell_px, abs=1)
        assert np.abs(outline - outline.mean(axis=0)).max() < cell_px


class TestColours:
    def test_nothing_at_or_below_zero_is_coloured(self) -> None:
        values = np.repeat([[-3.0, -1.0, 0.0, 0.0, 4.0, 8.0]], 6, axis=0)
        figure = with_cam(values)

        columns = figure.coloured.any(axis=0)
        # The third cell is next but one to the evidence, whose interpolation does not reach beyond one cell.
        assert not columns[: columns.size // 2].any()
        assert columns[-1]

    def test_a_strongly_negative_cell_rings_no_evidence_up(self) -> None:
        values = hot((10, 10), (14, 14), 1.0)
        values[3, 3] = -50
        figure = with_cam(values)

        half = figure.coloured.shape[0] // 2
        assert not figure.coloured[:half, :half].any()
        assert figure.coloured[half:, half:].any()

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            pytest.param(np.full((14, 14), 3.0), "no localised evidence for round", id="constant"),
            pytest.param(np.zeros((14, 14)), "no localised evidence for round", id="zero"),
            pytest.param(np.full((14, 14), -3.0), "no localised evidence for round", id="constant negative"),
            pytest.param(
                3 + hot((4, 4), (14, 14), 0.1), "no localised evidence for round", id="nearly constant"
            ),
            pytest.param(np.ones((1, 1)), "no localised evidence for round", id="one cell"),
            pytest.param(hot((4, 4), (14, 14), -2), "no evidence for round anywhere", id="only against"),
            pytest.param(np.full((3, 3), np.nan), "no localised evidence for round", id="not a number"),
        ],
    )
    def test_a_map_without_structure_is_given_none(
        self, values: np.ndarray, words: str, written: list[str]
    ) -> None:
        figure = with_cam(values)

        assert not figure.coloured.any()
        assert np.array_equal(figure.covered, figure.plain)
        assert words in written

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_cell_without_a_number_leaves_the_others_standing(self, value: float) -> None:
        broken = hot((10, 10), (14, 14))
        broken[2, 2] = value

        assert np.array_equal(with_cam(broken).covered, with_cam(hot((10, 10), (14, 14))).covered)

    def test_the_strength_of_the_drawing_does_not_hang_on_the_unit_of_the_evidence(self) -> None:
        values = 8 * np.random.default_rng(5).normal(0, 1, (14, 14))

        assert np.array_equal(with_cam(values).covered, with_cam(values * 4096).covered)

    def test_a_weak_map_is_drawn_fainter_than_a_strong_one_and_without_outline(self) -> None:
        spot = hot((7, 7), (14, 14), 1.0)
        weak, strong = with_cam(spot), with_cam(spot * evidence.WEAKEST_SCALE_LOGITS)

        def colour(figure: Figure) -> int:
            middle = figure.covered[figure.covered.shape[0] * 15 // 28, figure.covered.shape[1] * 15 // 28]
            return int(middle.max()) - int(middle.min())

        assert 0 < colour(weak) < colour(strong)
        assert np.ptp(weak.plain.astype(int), axis=2).max() == 0
        assert np.ptp(strong.plain.astype(int), axis=2).max() > 30

    @pytest.mark.parametrize(
        ("method", "scale"),
        [
            pytest.param("cam", evidence.WEAKEST_SCALE_LOGITS, id="CAM"),
            pytest.param("hirescam", evidence.WEAKEST_SCALE_LOGITS, id="HiResCAM"),
            pytest.param("gradcam", 0.5, id="Grad-CAM"),
            pytest.param("occlusion", 0.5, id="occlusion"),
        ],
    )
    def test_only_where_a_small_value_is_weak_evidence_it_is_drawn_faint(
        self, method: str, scale: float
    ) -> None:
        cam = a_prediction(hot((3, 3), (7, 7), 0.5), (0, 0, 70, 70), method=method).cam

        seen = evidence.spread_evidence(cam, (70, 70), (70, 70))

        assert seen.scale == pytest.approx(scale)
        assert seen.values is not None
        assert float(seen.values.max()) == pytest.approx(0.5 / scale, rel=0.05)

    def test_maps_shown_together_have_one_scale(self) -> None:
        maps = [a_prediction(hot((3, 3), (7, 7), value), (0, 0, 70, 70)).cam for value in (8.0, 4.0, -2.0)]

        scale = evidence.colour_scale(maps)
        strong, half, against = (
            evidence.spread_evidence(cam, (70, 70), (70, 70), scale=scale) for cam in maps
        )

        assert scale == strong.scale == half.scale == 8
        assert np.allclose(strong.values, 2 * half.values, atol=1e-6)
        assert against.values is None

    def test_the_bar_shows_the_colours_of_the_panel(self) -> None:
        """A ramp over mid-grey from zero to the peak has each colour of the bar, in its order."""
        values = np.repeat(np.linspace(0, 10, 40)[None], 2, axis=0)
        figure = with_cam(values)

        panel = figure.covered[figure.covered.shape[0] // 2]
        bar_row = figure.whole[heatmap._arrange(280, 280).caption[2] + 11]
        bar = [
            colour
            for colour in bar_row.tolist()
            if max(colour) - min(colour) > 30 and colour != [253, 207, 81]
        ]
        assert len(bar) > 150
        nearest = np.array([np.abs(panel - colour).max(axis=1).argmin() for colour in bar])
        worst = max(np.abs(panel[at] - colour).max() for at, colour in zip(nearest, bar, strict=True))
        assert worst <= 2
        assert np.all(np.diff(nearest) >= 0)

    def test_lightness_rises_with_the_evidence_in_equal_steps(self) -> None:
        lab = oklab(evidence._colours() / 255)

        steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
        assert np.diff(lab[:, 0]).min() > 0
        assert steps.min() > 0.9 * steps.mean()
        assert steps.max() < 1.1 * steps.mean()

    @pytest.mark.parametrize(
        "seen_by",
        [
            pytest.param(
                [
                    [0.367322, 0.860646, -0.227968],
                    [0.280085, 0.672501, 0.047413],
                    [-0.01182, 0.04294, 0.968881],
                ],
                id="deuteranopia",
            ),
            pytest.param(
                [
                    [0.152286, 1.052583, -0.204868],
                    [0.114503, 0.786281, 0.099216],
                    [-0.003882, -0.048116, 1.051998],
                ],
                id="protanopia",
            ),
            pytest.param(
                [
                    [1.255528, -0.076749, -0.178779],
                    [-0.078411, 0.930809, 0.147602],
                    [0.004733, 0.691367, 0.3039],
                ],
                id="tritanopia",
            ),
        ],
    )
    def test_the_colour_blind_see_the_same_order(self, seen_by: list[list[float]]) -> None:
        """Matrices of Machado, Oliveira and Fernandes (2009), for linear RGB."""
        seen = np.clip(linear(evidence._colours()[::8] / 255) @ np.array(seen_by).T, 0, 1)

        assert np.diff(oklab_of_linear(seen)[:, 0]).min() > 0


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab_of_linear(rgb: np.ndarray) -> np.ndarray:
    """Oklab (Ottosson 2020) of linear sRGB."""
    lms = rgb @ np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]
    ).T  # fmt: skip
    return np.cbrt(lms) @ np.array(
        [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.808675766]]
    ).T  # fmt: skip


def oklab(rgb: np.ndarray) -> np.ndarray:
    return oklab_of_linear(linear(rgb))


class TestScaleBar:
    @pytest.mark.parametrize(
        ("shape", "pixel_size_nm", "words", "length_nm"),
        [
            pytest.param((2048, 2048), (0.12, 0.12), "50 nm", 50, id="particles"),
            pytest.param((512, 512), (0.01639, 0.01639), "2 nm", 2, id="lattice"),
            pytest.param((100, 100), (0.001, 0.001), "20 pm", 0.02, id="picometres"),
            pytest.param((1024, 1024), (9.0, 9.0), "2 µm", 2000, id="micrometres"),
            pytest.param((1024, 1024), (4000.0, 4000.0), "1 mm", 1e6, id="millimetres"),
            pytest.param((512, 512), (2.0, 1.0), "200 nm horizontally", 200, id="oblong pixels"),
            pytest.param((64, 1024), (0.3, 0.3), "100 nm", 100, id="wide strip"),
            pytest.param((1568, 192), (0.05, 0.05), "5 nm", 5, id="tall strip"),
        ],
    )
    def test_the_bar_is_as_long_as_it_says(
        self,
        shape: tuple[int, int],
        pixel_size_nm: tuple[float, float],
        words: str,
        length_nm: float,
        written: list[str],
    ) -> None:
        field = a_micrograph(np.zeros(shape, dtype=np.uint8), pixel_size_nm)
        figure = drawn(field, a_prediction(np.zeros((2, 2)), (0, 0, shape[1], shape[0])))

        row = figure.whole[heatmap._arrange(*shape).caption[2] + 14]
        bar_px = int(np.all(row == INK, axis=1)[12:].argmin())
        nm_per_px = pixel_size_nm[1] * shape[1] / figure.plain.shape[1]
        assert words in written
        assert bar_px * nm_per_px == pytest.approx(length_nm, abs=0.51 * nm_per_px)

    @pytest.mark.parametrize("exponent", range(-9, 10))
    @pytest.mark.parametrize(("longest", "length"), [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (5, 5), (9.99, 5)])
    def test_lengths_are_round(self, longest: float, length: float, exponent: int) -> None:
        assert heatmap.round_length(longest * 10.0**exponent) == pytest.approx(length * 10.0**exponent)

    def test_the_pixel_size_is_printed_for_each_axis_that_has_its_own(self, written: list[str]) -> None:
        field = np.zeros((50, 50), dtype=np.uint8)
        drawn(a_micrograph(field, (0.12, 0.12)), a_prediction(np.zeros((2, 2)), (0, 0, 50, 50)))
        drawn(a_micrograph(field, (2.0, 0.5)), a_prediction(np.zeros((2, 2)), (0, 0, 50, 50)))

        assert "0.12 nm per pixel" in written
        assert "0.5 nm per pixel across, 2 nm down" in written

    def test_a_pixel_size_that_is_not_the_files_is_said_to_be_so(self, written: list[str]) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8), (0.3, 0.3))
        drawn(replace(field, replaced=Replaced(None, 4e4)), a_prediction(np.zeros((2, 2)), (0, 0, 50, 50)))

        assert "0.3 nm per pixel, as configured" in written

    def test_without_calibration_the_figure_says_so(self, written: list[str]) -> None:
        with_cam(hot((1, 1), (4, 4)))

        assert "no scale: not calibrated" in written
        assert not any("nm" in line for line in written)


class TestWords:
    @pytest.mark.parametrize(
        ("decision", "words"),
        [
            pytest.param(
                Decision("accept", ()), ["round 56 %", "accepted", "faceted 44 %"], id="an accepted answer"
            ),
            pytest.param(
                Decision("ungated", ()),
                ["round 56 %", "not gated (model has no thresholds)", "faceted 44 %"],
                id="an answer without thresholds",
            ),
            pytest.param(
                Decision("abstain", ("blank",)),
                ["no answer", "leans to round 56 %", "blank"],
                id="one reason",
            ),
            pytest.param(
                Decision("abstain", ("low_confidence", "novel")),
                ["no answer", "leans to round 56 %", "low confidence, novel"],
                id="two reasons",
            ),
            pytest.param(
                Decision("abstain", FOUR_REASONS),
                [
                    "no answer",
                    "leans to round 56 %",
                    "pixel size out of range, field of view out of range, +2 more",
                ],
                id="four reasons",
            ),
        ],
    )
    def test_the_headline_is_the_answer_or_that_there_is_none(
        self, decision: Decision, words: list[str], written: list[str]
    ) -> None:
        drawn(GREY_FIELD, a_prediction(np.zeros((2, 2)), WHOLE_FIELD, probability=0.56), decision)

        # Above it stand the scale bar and the colour bar, below it the small print.
        assert written[2:-2] == words

    def test_an_abstention_shows_its_label_only_small_and_faint(self) -> None:
        prediction = a_prediction(hot((3, 3), (7, 7)), WHOLE_FIELD, probability=0.999)
        sizes = {
            decision: caption_of(drawn(GREY_FIELD, prediction, Decision(decision, reasons)))
            for decision, reasons in (("accept", ()), ("abstain", ("novel",)), ("ungated", ()))
        }

        def large(caption: np.ndarray, colour: tuple[int, int, int]) -> int:
            """Pixels of a colour, of the headline's height, where labels and "no answer" begin."""
            return int(np.all(caption[66:96, :220] == colour, axis=2).sum())

        orange, blue = (230, 159, 0), (86, 180, 233)
        assert large(sizes["abstain"], orange) > 24 * 24
        assert large(sizes["abstain"], INK) == 0
        assert large(sizes["accept"], INK) > 100
        assert large(sizes["ungated"], INK) > 100
        assert np.any(np.all(sizes["accept"] == blue, axis=2))
        assert not np.any(np.all(sizes["accept"] == orange, axis=2))

    @pytest.mark.parametrize(
        ("reasons", "label", "words"),
        [
            pytest.param(("blurred",), "round", "blurred", id="room for one"),
            pytest.param(("novel", "low_confidence"), "round", "novel, low confidence", id="room for two"),
            pytest.param(FOUR_REASONS, "round", "pixel size out of range, +3 more", id="no room for two"),
            pytest.param(("novel",), "x" * 255, "novel", id="a label of any length"),
        ],
    )
    def test_on_a_narrow_figure_reasons_and_leaning_stand_beside_each_other(
        self, reasons: tuple[str, ...], label: str, words: str, places: list[tuple[str, float, float]]
    ) -> None:
        field = a_micrograph(np.full((800, 100), 128, dtype=np.uint8))
        figure = drawn(
            field, a_prediction(np.zeros((2, 2)), (0, 0, 100, 800), label=label), Decision("abstain", reasons)
        )

        assert figure.image.size[0] == 640
        found = {line: (left, right) for line, left, right in places}
        leaning = next(line for line in found if line.startswith("leans to "))
        assert found["no answer"][1] < found[words][0]
        assert found[words][1] < found[leaning][0]
        assert found[leaning][1] <= 640 - heatmap.MARGIN_PX

    @pytest.mark.parametrize(
        ("novelty", "limit", "facts"),
        [
            pytest.param(1.8, 1.0, "novelty 1.80 (limit 1.00) · 50 × 50 px", id="both"),
            pytest.param(None, None, "50 × 50 px", id="neither"),
            pytest.param(1.8, None, "50 × 50 px", id="a novelty without a limit"),
            pytest.param(None, 1.0, "50 × 50 px", id="a limit without a novelty"),
        ],
    )
    def test_novelty_stands_in_the_small_print(
        self, novelty: float | None, limit: float | None, facts: str, written: list[str]
    ) -> None:
        prediction = replace(a_prediction(np.zeros((2, 2)), WHOLE_FIELD), novelty=novelty)
        draw_heatmap(GREY_FIELD, prediction, ACCEPT, novelty_limit=limit)

        assert facts in written

    @pytest.mark.parametrize(
        ("probability", "label", "other"),
        [
            pytest.param(0.9, "round 90 %", "faceted 10 %", id="plain"),
            pytest.param(0.9962, "round > 99 %", "faceted < 1 %", id="never a certain 100 %"),
            pytest.param(0.994, "round 99 %", "faceted 1 %", id="99 %"),
        ],
    )
    def test_label_and_probabilities(
        self, probability: float, label: str, other: str, written: list[str]
    ) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8))
        drawn(field, a_prediction(np.zeros((2, 2)), (0, 0, 50, 50), probability=probability))

        assert label in written
        assert other in written

    def test_file_size_and_model_are_named(self, written: list[str]) -> None:
        field = a_micrograph(np.zeros((50, 70), dtype=np.uint8), name="2026_grid-4.dm3")
        draw_heatmap(
            field, a_prediction(np.zeros((2, 2)), (0, 0, 70, 50)), ACCEPT, model="particle-shape 1.0"
        )

        assert "2026_grid-4.dm3" in written
        assert "70 × 50 px · particle-shape 1.0" in written

    @pytest.mark.parametrize(
        ("method", "words"),
        [
            pytest.param("cam", "evidence for round (CAM, logits), line: half the scale", id="CAM"),
            pytest.param(
                "hirescam", "evidence for round (HiResCAM, logits), line: half the scale", id="HiResCAM"
            ),
            pytest.param("gradcam", "evidence for round (Grad-CAM), line: half the scale", id="no unit"),
            pytest.param(
                "occlusion",
                "evidence for round (occlusion, log-odds lost), line: half the scale",
                id="occlusion",
            ),
        ],
    )
    def test_the_colour_bar_says_what_it_measures(self, method: str, words: str, written: list[str]) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8))
        drawn(field, a_prediction(hot((1, 1), (4, 4), 7.25), (0, 0, 50, 50), method=method))

        assert words in written
        assert {"0", "7.25"} <= set(written)

    @pytest.mark.parametrize(
        "name", ["Ångström.dm3", "粒子.dm3", "a\nb.dm3", "n\udcffme.dm3", "x" * 255, "→ µm ×.dm3"]
    )
    def test_no_name_is_refused(self, name: str) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8), name=name)
        figure = drawn(field, a_prediction(hot((1, 1), (4, 4)), (0, 0, 50, 50), label=name))

        assert max(figure.image.size) <= 1024
        assert figure.image.text["Source"] == name.replace("\udcff", "?")


class TestFile:
    def test_the_text_chunks_name_source_and_program(self) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8), name="a.dm3")
        png = draw_heatmap(field, a_prediction(np.zeros((2, 2)), (0, 0, 50, 50)), ACCEPT, model="shape 1.0")

        assert Image.open(io.BytesIO(png)).text == {
            "Title": "a.dm3: round 90 %, accepted",
            "Description": "Class evidence (CAM) for round over the micrograph. Classified by shape 1.0.",
            "Software": f"scopewatch {__version__}",
            "Source": "a.dm3",
            "Source SHA-256": "ab" * 32,
        }

    def test_the_title_of_an_abstention_gives_every_reason(self) -> None:
        prediction = a_prediction(np.zeros((2, 2)), WHOLE_FIELD, probability=0.56)
        png = draw_heatmap(GREY_FIELD, prediction, Decision("abstain", FOUR_REASONS))

        assert Image.open(io.BytesIO(png)).text["Title"] == (
            "a.dm3: no answer: pixel size out of range, field of view out of range, novel, low confidence "
            "(leans to round 56 %)"
        )

    def test_every_chunk_of_the_png_is_sound(self) -> None:
        png, kinds = with_cam(hot((3, 3), (7, 7))).png, []

        at = len(b"\x89PNG\r\n\x1a\n")
        while at < len(png):
            length, kind = struct.unpack_from(">I4s", png, at)
            (check,) = struct.unpack_from(">I", png, at + 8 + length)
            assert check == zlib.crc32(png[at + 4 : at + 8 + length])
            kinds.append(kind)
            at += 12 + length
        assert kinds == [b"IHDR", *[b"iTXt"] * 5, b"IDAT", b"IEND"]

    def test_what_is_drawn_is_what_is_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stored: list[np.ndarray] = []
        encode = heatmap._png
        monkeypatch.setattr(
            heatmap, "_png", lambda pixels, texts: stored.append(pixels) or encode(pixels, texts)
        )

        assert np.array_equal(with_cam(hot((3, 3), (7, 7))).whole, stored[0])

    def test_an_unknown_hash_is_left_out(self) -> None:
        field = a_micrograph(np.zeros((50, 50), dtype=np.uint8))
        field = replace(field, source=replace(field.source, sha256=None))

        assert "Source SHA-256" not in drawn(field, a_prediction(np.zeros((2, 2)), (0, 0, 50, 50))).image.text

    def test_equal_arguments_give_equal_bytes(self) -> None:
        assert with_cam(hot((3, 3), (7, 7))).png == with_cam(hot((3, 3), (7, 7))).png

    def test_the_noisiest_micrograph_stays_below_1_5_mb(self) -> None:
        random = np.random.default_rng(1)
        noise = a_micrograph(random.integers(0, 256, (500, 500)).astype(np.uint8))

        figure = drawn(noise, a_prediction(random.normal(0, 2, (14, 14)), (0, 0, 500, 500)))

        assert figure.image.mode == "RGB"
        assert len(figure.png) < 1_500_000

    def test_no_file_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*what: object, **how: object) -> None:
            raise AssertionError(f"opened {what}")

        for cached in (
            lettering._font,
            lettering._drawable_character,
            evidence._colours,
            evidence.paint_table,
        ):
            cached.cache_clear()
        with monkeypatch.context() as patched:
            for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
                patched.setattr(module, name, refused)
            figure = with_cam(hot((3, 3), (7, 7)))

        assert figure.coloured.any()

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
    def test_every_kind_of_number_is_drawn(self, dtype: str) -> None:
        ramp = np.tile(np.linspace(0, 120, 64), (64, 1)).astype(dtype)
        figure = drawn(a_micrograph(ramp), a_prediction(hot((3, 3), (7, 7)), (0, 0, 64, 64)))

        greys = figure.plain[0, ::40, 0]
        assert np.all(np.diff(greys) > 0)

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("ingrained/HAADF149.dm3", id="lattice"),
            pytest.param("temul-toolkit/example_Se_implanted_MoS2.dm3", id="uint32"),
            pytest.param("particlespy/JEOL HAADF Image.dm4", id="micrometres, 112 px"),
            pytest.param("SciFiDatasets/DMReader_SI-HAADF.dm3", id="1568 x 192"),
            pytest.param("rosettasciio/Fei HAADF-DE_location.dm3", id="4 x 16"),
        ],
    )
    def test_real_micrographs_keep_to_the_limits(self, name: str, shared_data: Path) -> None:
        micrograph = read_micrograph(shared_data / "dm3" / name)
        rows, columns = micrograph.pixels.shape
        prediction = a_prediction(hot((3, 3), (7, 7)), (0, 0, columns, rows))
        field = describe_field(micrograph.pixels, Preprocessing())

        figure = drawn(micrograph, replace(prediction, field=field))

        assert max(figure.image.size) <= 1024
        assert len(figure.png) < 1_500_000
        assert figure.coloured.any()
        assert figure.plain.std() > 5
