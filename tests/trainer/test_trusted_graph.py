"""A graph with limits, and without them again: the network's own answers are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
from bundles import Form, tiny_bundle

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import open_bundle
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_graph import by_method
from trainer.trusting.novelty import NOVELTY, NoveltyStatistics, novelty_statistics
from trainer.trusting.trusted_graph import bare_model, trusted_model

if TYPE_CHECKING:
    from pathlib import Path

    from limited import Limited
    from numpy.typing import NDArray

    from edge_agent.model_bundle import Bundle

PICTURE = np.random.default_rng(1).normal(size=(1, 1, 64, 64)).astype(np.float32)


def statistics(seed: int = 0) -> NoveltyStatistics:
    random = np.random.default_rng(seed)
    mean, spread = random.normal(size=(30, 8)), random.uniform(0.5, 1, size=(30, 8))
    return novelty_statistics("features", mean, spread, micrographs=30)


def answers(model: bytes, *names: str) -> list[NDArray[np.float32]]:
    seen: list[NDArray[np.float32]] = onnx_session(model).run(list(names), {"micrograph": PICTURE})
    return seen


def encoded(model: Any) -> bytes:
    return bytes(model.SerializeToString())


def retrusted(bundle: Bundle, temperature: float, known: NoveltyStatistics | None) -> Bundle:
    """The bundle as if its file were the trusted one."""
    return replace(bundle, model_bytes=trusted_model(bundle, temperature, known))


@pytest.mark.parametrize("form", ["every class", "winner", "winner, one size", "no map"])
def test_without_limits_again_the_graph_answers_as_before(tmp_path: Path, form: Form) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b", form=form))
    before = answers(bundle.model_bytes, "probabilities")
    trusted = retrusted(bundle, 3.0, statistics())
    assert [put.name for put in onnx_session(trusted.model_bytes).get_outputs()][-1] == NOVELTY
    softer, novelty = answers(trusted.model_bytes, "probabilities", NOVELTY)
    assert softer.max() < before[0].max()
    assert novelty.shape == (1,)
    bare = encoded(bare_model(trusted))
    np.testing.assert_array_equal(answers(bare, "probabilities")[0], before[0])
    assert NOVELTY not in [put.name for put in onnx_session(bare).get_outputs()]


def test_nothing_of_an_earlier_novelty_or_temperature_stays(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    once = retrusted(bundle, 2.0, statistics(1))
    often = retrusted(retrusted(retrusted(bundle, 5.0, statistics(3)), 0.7, None), 2.0, statistics(1))
    graphs = [onnx.load_from_string(one.model_bytes).graph for one in (once, often)]
    assert [len(graph.node) for graph in graphs] == [len(graphs[0].node)] * 2
    assert {one.name for one in graphs[0].initializer} == {one.name for one in graphs[1].initializer}
    for one, other in zip(
        answers(once.model_bytes, "probabilities", NOVELTY, "cam"),
        answers(often.model_bytes, "probabilities", NOVELTY, "cam"),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_temperature_alone_adds_no_output(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    names = [put.name for put in onnx_session(trusted_model(bundle, 2.0, None)).get_outputs()]
    assert names == ["probabilities", "cam"]


def test_the_map_stays_evidence_before_the_temperature(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "b"))
    one, other = (answers(trusted_model(bundle, value, None), "cam")[0] for value in (1.0, 4.0))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_another_map_of_the_same_graph_leaves_novelty_and_temperature_alone(
    limited: Limited, method: Literal["gradcam", "hirescam"]
) -> None:
    bundle = open_bundle(limited.trusted)
    other = by_method(bundle, method)
    names = ("probabilities", NOVELTY)
    for seen, expected in zip(
        answers(other.model_bytes, *names), answers(bundle.model_bytes, *names), strict=True
    ):
        np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert other.manifest.thresholds == bundle.manifest.thresholds
    assert Classifier(other).bundle is other


def test_a_graph_that_is_cut_behind_its_feature_map_is_not_judged_by_novelty(limited: Limited) -> None:
    exact = by_method(by_method(open_bundle(limited.trusted), "gradcam"), "cam")
    assert exact.manifest.tensors.novelty is None
    assert exact.manifest.thresholds.novelty is None  # type: ignore[union-attr]
    assert [put.name for put in onnx_session(exact.model_bytes).get_outputs()] == ["probabilities", "cam"]
