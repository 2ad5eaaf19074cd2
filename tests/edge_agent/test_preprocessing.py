"""From a micrograph to the network's inputs, and from the cells of its maps back to the micrograph."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.preprocessing import (
    Preprocessing,
    Tile,
    TilePlan,
    View,
    compose_cam,
    cut_tiles,
    describe_field,
    grey_field,
    input_shape,
    plan_boxes,
)

VIEWS: tuple[View, ...] = ("identity", "flip_x", "flip_y", "rot180")


def rule(**options) -> Preprocessing:
    return Preprocessing(**({"input_px": 64} | options))


def quadrants(**options) -> Preprocessing:
    return rule(tiles=TilePlan(divisions=2), **options)


def fixed_view(nm: float, most: int = 4) -> Preprocessing:
    return rule(tiles=TilePlan(field_of_view_nm=nm, most_per_axis=most))


def half_bright(shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Noise, and four times the counts in the right half."""
    random = np.random.default_rng(0)
    return random.poisson(np.where(np.arange(shape[1]) < shape[1] // 2, 500.0, 2000.0), shape).astype(
        np.uint16
    )


# --- what the network sees ---


def test_a_quadrant_keeps_the_grey_scale_of_its_field():
    pixels = half_bright()

    tiles = cut_tiles(pixels, None, quadrants(value_range=(0.0, 1.0)))

    dark, bright, _, _ = (tile.values.mean() for tile in tiles.tiles)
    assert dark < 0.2
    assert bright > 0.7
    contrast = describe_field(pixels, rule()).contrast
    assert tiles.field.contrast == contrast
    for tile in tiles.tiles:
        shape = (tile.values.shape[1], tile.values.shape[2])
        assert np.array_equal(tile.values[0], grey_field(pixels, contrast, shape, tile.box_px))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-2.1, 2.6)])
def test_black_and_white_are_the_ends_of_the_value_range(low, high):
    (tile,) = cut_tiles(half_bright((64, 64)), None, rule(value_range=(low, high))).tiles

    assert tile.values.dtype == np.float32
    assert tile.values.flags.c_contiguous
    assert tile.values.ndim == 3
    assert tile.values.min() == pytest.approx(low, abs=1e-6)
    assert tile.values.max() == pytest.approx(high, abs=1e-6)


def test_boxes_come_in_reading_order_with_their_views_together():
    tiles = cut_tiles(half_bright(), None, quadrants(views=("identity", "rot180"))).tiles

    assert [(tile.box_px[:2], tile.view) for tile in tiles] == [
        (corner, view) for corner in ((0, 0), (80, 0), (0, 60), (80, 60)) for view in ("identity", "rot180")
    ]


@pytest.mark.parametrize(
    ("view", "turned"),
    [
        ("identity", lambda values: values),
        ("flip_x", np.fliplr),
        ("flip_y", np.flipud),
        ("rot180", lambda values: np.rot90(values, 2)),
    ],
)
def test_each_view_shows_the_picture_turned_and_is_its_own_inverse(view, turned):
    pixels = half_bright()
    plain, seen = cut_tiles(pixels, None, rule(views=("identity", view))).tiles

    assert np.array_equal(seen.values[0], turned(plain.values[0]))
    _, back = compose_cam([seen], [seen.values[0]], (120, 160))
    assert np.array_equal(back, plain.values[0])


def test_the_pixels_are_left_as_they_are():
    pixels = half_bright()
    pixels[5, 5] = 65_535
    kept = pixels.copy()
    pixels.flags.writeable = False

    cut_tiles(pixels, None, quadrants(views=VIEWS))

    assert np.array_equal(pixels, kept)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((1, 1), np.uint8), id="one pixel"),
        pytest.param(np.array([[1, 2], [3, 4]], np.int32), id="2 x 2"),
        pytest.param(np.arange(900, dtype=np.uint16)[None], id="a line"),
        pytest.param(np.full((50, 60), np.nan, np.float32), id="no number at all"),
        pytest.param(np.full((50, 60), 7, np.int8), id="constant"),
    ],
)
@pytest.mark.parametrize("plan", [TilePlan(), TilePlan(divisions=3), TilePlan(field_of_view_nm=10)])
def test_poor_pictures_become_inputs_too(pixels, plan):
    for pixel_size_nm in (None, (0.5, 0.5)):
        tiles = cut_tiles(pixels, pixel_size_nm, rule(tiles=plan))
        assert tiles.tiles
        assert all(np.isfinite(tile.values).all() and tile.values.size for tile in tiles.tiles)


# --- proportions ---


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.none() | st.tuples(st.floats(0.01, 0.19), st.floats(0.01, 0.19)),
)
def test_an_input_has_the_specimens_proportions_and_the_area_of_the_square(rows, columns, pixel_size_nm):
    asked = Preprocessing(input_px=448)
    height = rows * (pixel_size_nm[0] / pixel_size_nm[1] if pixel_size_nm else 1)

    seen = input_shape((0, 0, columns, rows), pixel_size_nm, asked)

    assert max(seen) <= asked.longest_px
    assert min(seen) >= 1
    ratio = height / columns
    scale = min(448 / math.sqrt(height * columns), asked.longest_px / max(height, columns))
    exact = (height * scale, columns * scale)
    assert all(abs(got - max(1.0, wanted)) <= 0.5 for got, wanted in zip(seen, exact, strict=True))
    if 1 / 20 < ratio < 20:
        assert seen[0] * seen[1] == pytest.approx(448**2, rel=0.01)


@pytest.mark.parametrize(
    ("size_px", "pixel_size_nm", "expected"),
    [
        pytest.param((2048, 2048), None, (448, 448), id="square"),
        pytest.param((1024, 4096), None, (224, 896), id="1 to 4"),
        pytest.param((512, 512), (2.0, 0.5), (896, 224), id="pixels four times as high as wide"),
        pytest.param((512, 512), (0.1, 0.1), (448, 448), id="square pixels"),
        pytest.param((512, 512), (1.0, 1000.0), (448, 448), id="a calibration that cannot be true"),
        pytest.param((2, 100_000), None, (1, 2048), id="a strip is bounded by its longer side"),
        pytest.param((100_000, 2), None, (2048, 1), id="an upright strip"),
        pytest.param((1, 1), None, (448, 448), id="one pixel"),
    ],
)
def test_shapes_of_inputs(size_px, pixel_size_nm, expected):
    assert input_shape((0, 0, size_px[1], size_px[0]), pixel_size_nm, Preprocessing()) == expected


# --- tile plans ---


@pytest.mark.parametrize(
    ("size_px", "pixel_size_nm", "options"),
    [
        ((100, 300), None, {}),
        ((300, 100), (0.5, 0.5), {}),
        ((128, 128), (0.5, 1.0), {}),
        ((1, 5000), None, {}),
        ((40, 60), None, {"longest_px": 32}),
    ],
    ids=["oblong", "upright", "pixels that are not square", "a line", "whatever the longest side"],
)
def test_square_proportions_are_always_the_same_square(size_px, pixel_size_nm, options):
    box = (0, 0, size_px[1], size_px[0])

    assert input_shape(box, pixel_size_nm, rule(proportions="square", **options)) == (64, 64)


def test_a_stretched_input_shows_the_whole_box():
    pixels = half_bright((60, 180))

    (tile,) = cut_tiles(pixels, (0.5, 1.0), rule(proportions="square", value_range=(0.0, 1.0))).tiles

    assert tile.values.shape == (1, 64, 64)
    assert tile.box_px == (0, 0, 180, 60)
    assert tile.values[0, :, :30].mean() < 0.2
    assert tile.values[0, :, 34:].mean() > 0.7


def test_maps_of_stretched_quadrants_lie_on_their_boxes():
    squares = quadrants(proportions="square")
    pixels = half_bright((60, 180))
    tiles = cut_tiles(pixels, (0.5, 1.0), squares).tiles

    # A map as a network of 8 px stride gives it: the mean of each cell of the input.
    maps = [tile.values[0].reshape(8, 8, 8, 8).mean(axis=(1, 3)) for tile in tiles]
    box, values = compose_cam(tiles, maps, (60, 180))

    assert box == (0, 0, 180, 60)
    assert values.shape == (16, 16)
    assert values[:, :7].max() < values[:, 9:].min()


def test_the_whole_field_by_default():
    assert plan_boxes((300, 500), (0.1, 0.1), Preprocessing()) == ((0, 0, 500, 300),)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 8))
def test_divisions_cover_the_field_once(rows, columns, divisions):
    boxes = plan_boxes((rows, columns), None, rule(tiles=TilePlan(divisions=divisions)))

    covered = np.zeros((rows, columns), int)
    for x0, y0, x1, y1 in boxes:
        assert x1 > x0
        assert y1 > y0
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()
    assert len(boxes) == min(divisions, rows) * min(divisions, columns)
    assert sorted(boxes, key=lambda box: (box[1], box[0])) == list(boxes)


@pytest.mark.parametrize(
    ("shape_px", "pixel_size_nm", "plan", "expected"),
    [
        pytest.param(
            (100, 200), (1.0, 1.0), fixed_view(100), ((0, 0, 100, 100), (100, 0, 200, 100)), id="fits exactly"
        ),
        pytest.param(
            (100, 150),
            (1.0, 1.0),
            fixed_view(100),
            ((0, 0, 100, 100), (50, 0, 150, 100)),
            id="overlaps evenly",
        ),
        pytest.param(
            (100, 200), (1.0, 1.0), fixed_view(500), ((0, 0, 200, 100),), id="larger than the field"
        ),
        pytest.param(
            (100, 100),
            (2.0, 1.0),
            fixed_view(100),
            ((0, 0, 100, 50), (0, 50, 100, 100)),
            id="square in nm, not in pixels",
        ),
        pytest.param(
            (100, 1000),
            (1.0, 1.0),
            fixed_view(100, most=3),
            ((0, 0, 100, 100), (450, 0, 550, 100), (900, 0, 1000, 100)),
            id="at most three an axis",
        ),
        pytest.param(
            (101, 1000), (1.0, 1.0), fixed_view(101, most=1), ((450, 0, 551, 101),), id="only the middle"
        ),
        pytest.param((100, 200), None, fixed_view(100), ((0, 0, 200, 100),), id="not calibrated: all of it"),
        pytest.param(
            (3, 2),
            (1.0, 1.0),
            fixed_view(0.001, most=1),
            ((0, 1, 1, 2),),
            id="smaller than a pixel: one pixel",
        ),
    ],
)
def test_a_fixed_field_of_view(shape_px, pixel_size_nm, plan, expected):
    assert plan_boxes(shape_px, pixel_size_nm, plan) == expected


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
    st.floats(1, 500),
    st.integers(1, 8),
)
def test_boxes_of_a_fixed_view_lie_inside_and_leave_no_gap_unless_too_many(shape, size_nm, view_nm, most):
    boxes = plan_boxes(shape, size_nm, fixed_view(view_nm, most))

    assert all(0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0] for x0, y0, x1, y1 in boxes)
    for axis, pixel_nm in ((0, size_nm[1]), (1, size_nm[0])):
        spans = sorted({(box[axis], box[axis + 2]) for box in boxes})
        length, side = shape[1 - axis], round(view_nm / pixel_nm)
        assert {end - start for start, end in spans} == {max(1, min(length, side))}
        assert len(spans) <= most
        if len(spans) < most:
            assert (spans[0][0], spans[-1][1]) == (0, length)
            assert all(after[0] <= before[1] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("plan", "pixel_size_nm", "missing"),
    [
        (rule(), None, False),
        (fixed_view(50), None, True),
        (fixed_view(50), (1.0, 1.0), False),
    ],
)
def test_a_missing_calibration_is_told_where_it_is_needed(plan, pixel_size_nm, missing):
    assert cut_tiles(half_bright(), pixel_size_nm, plan).field.scale_missing is missing


# --- the way back ---


def a_tile(box: tuple[int, int, int, int], view: View = "identity") -> Tile:
    return Tile(box, view, np.zeros((1, 1, 1), np.float32))


def test_one_box_keeps_its_own_grid_and_its_views_are_averaged():
    upper_left = np.zeros((3, 4), np.float32)
    upper_left[0, 0] = 4.0
    turned = [upper_left, upper_left[:, ::-1], upper_left[::-1], upper_left[::-1, ::-1]]
    tiles = [a_tile((10, 20, 50, 50), view) for view in VIEWS]

    box, values = compose_cam(tiles, turned, (100, 100))

    assert box == (10, 20, 50, 50)
    assert values.dtype == np.float32
    assert np.array_equal(values, upper_left)


def test_maps_are_averaged_where_boxes_overlap_and_zero_where_none_lies():
    boxes = ((0, 0, 60, 40), (30, 0, 90, 40))
    maps = [np.full((4, 6), 1.0, np.float32), np.full((4, 6), 3.0, np.float32)]

    box, values = compose_cam([a_tile(box) for box in boxes], maps, (40, 100))

    assert box == (0, 0, 100, 40)
    assert values.tolist() == [[1, 1, 1, 2, 2, 2, 3, 3, 3, 0]] * 4


def test_every_map_needs_its_tile():
    with pytest.raises(ValueError, match="zip"):
        compose_cam([a_tile((0, 0, 4, 4))], [], (4, 4))


@pytest.mark.parametrize(
    ("shape", "plan"),
    [
        pytest.param((340, 20), TilePlan(divisions=3), id="unlike boxes of a narrow strip"),
        pytest.param((301, 299), TilePlan(divisions=2), id="odd quadrants"),
        pytest.param((200, 150), TilePlan(field_of_view_nm=97), id="overlapping boxes"),
    ],
)
def test_no_cell_is_lost_between_those_of_the_common_grid(shape, plan):
    asked = rule(tiles=plan, input_px=448)
    tiles = [a_tile(box) for box in plan_boxes(shape, (1.0, 1.0), asked)]
    grids = [[math.ceil(px / 32) for px in input_shape(tile.box_px, None, asked)] for tile in tiles]
    for hot, grid in enumerate(grids):
        for row, column in np.ndindex(*grid):
            maps = [np.zeros(size, np.float32) for size in grids]
            maps[hot][row, column] = 1.0
            assert compose_cam(tiles, maps, shape)[1].any(), (tiles[hot].box_px, row, column)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_hot_cell_comes_back_to_its_place(data):
    shape = (data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300)))
    plan = data.draw(
        st.builds(TilePlan, divisions=st.integers(1, 4))
        | st.builds(TilePlan, field_of_view_nm=st.floats(20, 300), most_per_axis=st.integers(1, 4))
    )
    pixel_size_nm = data.draw(st.none() | st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)))
    boxes = plan_boxes(shape, pixel_size_nm, rule(tiles=plan))
    view = data.draw(st.sampled_from(VIEWS))
    tiles = [a_tile(box, view) for box in boxes]
    cells = [
        tuple(math.ceil(length / 32) for length in input_shape(box, pixel_size_nm, rule(input_px=224)))
        for box in boxes
    ]
    maps = [np.zeros(size, np.float32) for size in cells]
    hot = data.draw(st.integers(0, len(boxes) - 1))
    row, column = (data.draw(st.integers(0, count - 1)) for count in cells[hot])
    # The network saw the box in this view: there the cell lies elsewhere.
    seen_row = cells[hot][0] - 1 - row if view in ("flip_y", "rot180") else row
    seen_column = cells[hot][1] - 1 - column if view in ("flip_x", "rot180") else column
    maps[hot][seen_row, seen_column] = 1.0

    (x0, y0, x1, y1), values = compose_cam(tiles, maps, shape)

    found = np.argwhere(values > 0)
    assert len(found)
    left, top, right, bottom = boxes[hot]
    down, across = (bottom - top) / cells[hot][0], (right - left) / cells[hot][1]
    for found_row, found_column in found:
        y = y0 + (found_row + 0.5) * (y1 - y0) / values.shape[0]
        x = x0 + (found_column + 0.5) * (x1 - x0) / values.shape[1]
        assert top + row * down - 1e-6 <= y <= top + (row + 1) * down + 1e-6
        assert left + column * across - 1e-6 <= x <= left + (column + 1) * across + 1e-6


def test_the_cam_of_quadrants_is_the_picture_in_small():
    y, x = np.mgrid[:120, :160]
    pixels = (1000 + 900 * np.hypot(y - 90, x - 30) / 100).astype(np.uint16)
    tiles = cut_tiles(pixels, None, quadrants(views=VIEWS, value_range=(0.0, 1.0)))
    maps = [tile.values[0] for tile in tiles.tiles]

    box, values = compose_cam(tiles.tiles, maps, (120, 160))

    assert box == (0, 0, 160, 120)
    direct = grey_field(pixels, tiles.field.contrast, (values.shape[0], values.shape[1]))
    np.testing.assert_allclose(values, direct, atol=0.01)


# --- the manifest's part ---


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"clipped_fraction": 0.2}, "clipped_fraction"),
        ({"clipped_fraction": float("nan")}, "clipped_fraction"),
        ({"input_px": 8}, "input_px"),
        ({"views": ()}, "views"),
        ({"views": ("rot90",)}, "views"),
        ({"value_range": (1.0, 1.0)}, "the range 1.0 to 1.0 is empty"),
        ({"value_range": (0.0, float("inf"))}, "value_range"),
        ({"tiles": {"divisions": 0}}, "divisions"),
        ({"tiles": {"field_of_view_nm": 0}}, "field_of_view_nm"),
        ({"tiles": {"field_of_view_nm": float("inf")}}, "field_of_view_nm"),
        ({"aggregation": "largest"}, "aggregation"),
        ({"tile": {}}, "Extra inputs"),
    ],
    ids=str,
)
def test_a_rule_that_cannot_be_followed_is_refused(part, message):
    with pytest.raises(ValidationError, match=message):
        Preprocessing.model_validate(part)


def test_a_rule_survives_the_manifest():
    written = quadrants(views=VIEWS, clipped_fraction=0.001)

    assert Preprocessing.model_validate_json(written.model_dump_json()) == written
