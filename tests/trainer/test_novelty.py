"""Novelty: Mahalanobis distances in 1, 2 ... K components, averaged; the same in numpy and in the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from bundles import tiny_model

from edge_agent.onnx_gate import ALLOWED_OPERATORS, gate_model
from trainer.exporting.bundle_writer import onnx_session
from trainer.trusting.feature_tap import MEAN, SPREAD, with_pooled_outputs
from trainer.trusting.novelty import (
    FEWEST_MICROGRAPHS,
    MOST_COMPONENTS,
    NOVELTY,
    NoveltyStatistics,
    TooFewMicrographs,
    append_novelty,
    novelty_statistics,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drawn(count: int, channels: int = 6, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means and spreads of correlated channels."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(channels, channels))
    mean = random.normal(size=(count, channels)) @ mixing + 5
    spread = np.exp(random.normal(0, 0.3, size=(count, channels)))
    return mean.astype(np.float32), spread.astype(np.float32)


def directly(
    fitted: tuple[NDArray[np.float32], NDArray[np.float32]],
    asked: tuple[NDArray[np.float32], NDArray[np.float32]],
    components: int,
) -> NDArray[np.float64]:
    """The definition, written once more: the mean over k = 1 ... K of d_k^2, and its root."""
    floor = 1e-3 * np.median(fitted[1])
    known, new = (np.hstack([mean, np.log(spread + floor)]).astype(float) for mean, spread in (fitted, asked))
    centre, scale = known.mean(axis=0), known.std(axis=0)
    known, new = (known - centre) / scale, (new - centre) / scale
    values, axes = np.linalg.eigh(np.cov(known.T))
    order = np.argsort(values)[::-1]
    squared = [
        ((new @ axes[:, order[:kept]]) ** 2 / values[order[:kept]]).sum(axis=1)
        for kept in range(1, components + 1)
    ]
    return np.sqrt(np.mean(squared, axis=0))


@pytest.mark.parametrize(
    ("count", "components"),
    [
        pytest.param(20, 2, id="20 micrographs carry 2 components"),
        pytest.param(79, 7, id="79 carry 7"),
        pytest.param(400, 12, id="no more than there are channels, twice"),
    ],
)
def test_novelty_is_the_mean_of_squared_distances_in_one_to_all_components(
    count: int, components: int
) -> None:
    known, new = drawn(count), drawn(9, seed=1)
    statistics = novelty_statistics("map", *known, micrographs=count)
    assert (statistics.components, statistics.micrographs) == (components, count)
    np.testing.assert_allclose(statistics.novelty(*new), directly(known, new, components), rtol=1e-6)


def test_components_are_not_more_than_a_good_many() -> None:
    statistics = novelty_statistics("map", *drawn(1000, channels=30), micrographs=1000)
    assert statistics.components == MOST_COMPONENTS


def test_several_boxes_of_one_micrograph_are_not_several_micrographs() -> None:
    known = drawn(80)
    assert novelty_statistics("map", *known, micrographs=80).components == 8
    assert novelty_statistics("map", *known, micrographs=20).components == 2


def test_the_training_pictures_are_about_one_component_s_worth_away_each() -> None:
    known = drawn(500)
    statistics = novelty_statistics("map", *known, micrographs=500)
    # d_k^2 has the mean k, so their mean over k = 1 ... K is (K + 1) / 2.
    assert np.mean(statistics.novelty(*known) ** 2) == pytest.approx((12 + 1) / 2, rel=0.01)


def test_the_unit_divides() -> None:
    statistics, new = novelty_statistics("map", *drawn(40), micrographs=40), drawn(5, seed=2)
    in_unit = replace(statistics, unit=2.5)
    np.testing.assert_allclose(in_unit.novelty(*new), statistics.novelty(*new) / 2.5)


def test_what_is_far_off_is_novel() -> None:
    known, (mean, spread) = drawn(100), drawn(1, seed=3)
    statistics = novelty_statistics("map", *known, micrographs=100)
    away = [float(statistics.novelty(mean + step, spread)[0]) for step in (0, 5, 50)]
    assert away[0] < away[1] < away[2]


@pytest.mark.parametrize(
    ("mean", "spread"),
    [
        pytest.param(1.0, 0.0, id="nothing changes in the field"),
        pytest.param(0.0, 0.0, id="dark"),
        pytest.param(1e6, 1e6, id="very large"),
    ],
)
def test_novelty_is_finite_whatever_the_map(mean: float, spread: float) -> None:
    statistics = novelty_statistics("map", *drawn(40), micrographs=40)
    asked = np.full((1, 6), mean, np.float32), np.full((1, 6), spread, np.float32)
    assert np.isfinite(statistics.novelty(*asked)).all()


def test_training_maps_in_which_nothing_changes_leave_it_finite() -> None:
    mean, spread = drawn(40)
    statistics = novelty_statistics("map", mean, np.zeros_like(spread), micrographs=40)
    assert statistics.floor > 0
    assert np.isfinite(statistics.novelty(mean, spread)).all()


def test_most_channels_dead_do_not_make_the_floor_vanish() -> None:
    mean, spread = drawn(40)
    spread[:, :4] = 0
    statistics = novelty_statistics("map", mean, spread, micrographs=40)
    assert statistics.floor == pytest.approx(1e-3 * np.median(spread[:, 4:]))


def test_a_channel_that_never_changed_says_nothing() -> None:
    mean, spread = drawn(60)
    mean[:, 2], spread[:, 2] = 7, 0.5
    statistics = novelty_statistics("map", mean, spread, micrographs=60)
    assert np.isfinite(statistics.projection).all()
    assert not statistics.projection[[2, 8]].any()
    new, spread = drawn(3, seed=1)
    changed = new.copy()
    changed[:, 2] += 100
    np.testing.assert_allclose(statistics.novelty(changed, spread), statistics.novelty(new, spread))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        pytest.param(FEWEST_MICROGRAPHS - 1, "novelty needs 20 training micrographs, there are 19", id="too few"),
        pytest.param(40, "do not differ: their novelty has no measure", id="all the same"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(count: int, text: str) -> None:
    mean = np.ones((count, 6), np.float32)
    with pytest.raises(TooFewMicrographs, match=text):
        novelty_statistics("map", mean, mean, micrographs=count)


# --- in the graph ---------------------------------------------------------------------------------


def tiny_statistics() -> NoveltyStatistics:
    session = onnx_session(
        with_pooled_outputs(onnx.load_from_string(tiny_model()), "features", ["probabilities"])
    )
    pictures = np.random.default_rng(5).normal(size=(50, 1, 64, 64)).astype(np.float32)
    pictures *= np.linspace(0.2, 1, 50, dtype=np.float32)[:, None, None, None]
    mean, spread = session.run([MEAN, SPREAD], {"micrograph": pictures})
    fitted = novelty_statistics("features", mean[:, :, 0, 0], spread[:, :, 0, 0], micrographs=50)
    return replace(fitted, unit=3.7)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 96), (2, 104, 56)], ids=str)
def test_the_graph_computes_the_same(shape: tuple[int, int, int]) -> None:
    statistics, model = tiny_statistics(), onnx.load_from_string(tiny_model())
    append_novelty(model, statistics)
    onnx.checker.check_model(model)
    session = onnx_session(with_pooled_outputs(model, "features", ["probabilities", NOVELTY]))
    picture = np.random.default_rng(6).normal(size=(shape[0], 1, *shape[1:])).astype(np.float32)
    mean, spread, seen = session.run([MEAN, SPREAD, NOVELTY], {"micrograph": picture})
    assert seen.shape == (shape[0],)
    expected = statistics.novelty(mean[:, :, 0, 0], spread[:, :, 0, 0])
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_a_constant_picture_has_a_finite_novelty_in_the_graph() -> None:
    model = onnx.load_from_string(tiny_model())
    append_novelty(model, tiny_statistics())
    (seen,) = onnx_session(model.SerializeToString()).run(
        [NOVELTY], {"micrograph": np.full((1, 1, 64, 64), 0.5, np.float32)}
    )
    assert np.isfinite(seen).all()


def test_the_graph_passes_the_agent_s_gate() -> None:
    model = onnx.load_from_string(tiny_model())
    append_novelty(model, tiny_statistics())
    gate_model(model.SerializeToString(), (("micrograph",), ("probabilities", NOVELTY)))
    assert {node.op_type for node in model.graph.node} <= ALLOWED_OPERATORS
