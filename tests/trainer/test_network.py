"""Backbone and CAM head: three views of one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
import onnxruntime
import pytest
from toys import LABELS, RECIPE

from trainer.fitting.network import HEAD, NARROW
from trainer.fitting.training import new_network

if TYPE_CHECKING:
    from trainer.fitting.network import Network


def some_input(shape: tuple[int, ...] = (3, 40, 56, 1)) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def test_the_mean_of_the_map_is_the_logit_and_its_softmax_the_probability(network: Network) -> None:
    inputs = some_input()
    probabilities, cam = (np.asarray(value) for value in network.scoring(inputs, training=False))
    logits = np.asarray(network.trainable(network.trunk(inputs), training=False))
    assert cam.shape == (3, 5, 7, len(LABELS))
    np.testing.assert_allclose(cam.mean(axis=(1, 2)), logits, atol=1e-5)
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_map_is_the_head_on_the_last_features(network: Network) -> None:
    inputs = some_input()
    features = np.asarray(network.features(inputs, training=False))
    weights, bias = network.head
    _, cam = network.scoring(inputs, training=False)
    assert (weights.shape, bias.shape) == ((16, 2), (2,))
    np.testing.assert_allclose(features @ weights + bias, np.asarray(cam), atol=1e-5)


def test_a_change_of_the_head_is_seen_in_every_view(network: Network) -> None:
    head = network.trainable.get_layer(HEAD)
    kernel, _ = head.get_weights()
    head.set_weights([np.zeros_like(kernel), np.array([2.0, 0.0], dtype=np.float32)])
    inputs = some_input()
    probabilities, cam = network.scoring(inputs, training=False)
    np.testing.assert_allclose(np.asarray(cam)[..., 0], 2)
    np.testing.assert_allclose(np.asarray(probabilities)[:, 0], softmax(np.array([2.0, 0.0]))[0], rtol=1e-5)
    np.testing.assert_array_equal(network.head[1], [2, 0])


def test_only_the_upper_convolution_and_the_head_learn(network: Network) -> None:
    assert not network.trunk.trainable_variables
    names = {
        variable.path.rpartition("/")[0].rpartition("/")[2]
        for variable in network.trainable.trainable_variables
    }
    assert names == {"upper", HEAD}


def test_batch_normalisation_keeps_its_statistics_in_training(network: Network) -> None:
    layer = network.backbone.top.get_layer("upper_bn")
    before = [value.copy() for value in layer.get_weights()]
    network.trainable(network.trunk(some_input()) * 50, training=True)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("dropout", "differs"), [pytest.param(0.5, True, id="on"), pytest.param(0.0, False, id="off")]
)
def test_dropout_acts_in_training_only(toy_backbone: None, dropout: float, differs: bool) -> None:
    network = new_network(LABELS, RECIPE.model_copy(update={"dropout": dropout}), seed=0)
    intermediate = network.trunk(some_input())
    asked = np.asarray(network.trainable(intermediate, training=False))
    np.testing.assert_array_equal(asked, np.asarray(network.trainable(intermediate, training=False)))
    assert differs == (not np.allclose(asked, np.asarray(network.trainable(intermediate, training=True))))


def test_a_narrow_layer_comes_before_the_head_and_the_map_stays_exact(toy_backbone: None) -> None:
    network = new_network(LABELS, RECIPE.model_copy(update={"head_width": 5, "dropout": 0.3}), seed=0)
    inputs = some_input()
    features = np.asarray(network.features(inputs, training=False))
    weights, bias = network.head
    probabilities, cam = (np.asarray(value) for value in network.scoring(inputs, training=False))
    assert (features.shape[-1], weights.shape) == (5, (5, 2))
    assert features.min() >= 0
    np.testing.assert_allclose(features @ weights + bias, cam, atol=1e-5)
    np.testing.assert_allclose(softmax(cam.mean(axis=(1, 2))), probabilities, atol=1e-6)
    names = {variable.path.split("/")[-2] for variable in network.trainable.trainable_variables}
    assert names == {"upper", NARROW, HEAD}


def test_a_narrow_layer_is_exported(toy_backbone: None) -> None:
    from trainer.exporting.export import to_onnx

    network = new_network(LABELS, RECIPE.model_copy(update={"head_width": 5}), seed=0)
    session = onnxruntime.InferenceSession(to_onnx(network), providers=["CPUExecutionProvider"])
    inputs = some_input((1, 40, 56, 1))
    seen = session.run(["probabilities", "cam"], {"micrograph": inputs.transpose(0, 3, 1, 2)})
    probabilities, cam = (np.asarray(value) for value in network.scoring(inputs, training=False))
    np.testing.assert_allclose(seen[0], probabilities, atol=1e-5)
    np.testing.assert_allclose(seen[1].transpose(0, 2, 3, 1), cam, atol=1e-5)


def test_half_precision_leaves_weights_head_and_answers_in_single_precision(toy_backbone: None) -> None:
    single = new_network(LABELS, RECIPE.model_copy(update={"head_width": 5}), seed=0)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = new_network(LABELS, RECIPE.model_copy(update={"head_width": 5}), seed=0)
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = some_input()
    assert np.asarray(half.trunk(inputs)).dtype == np.float16
    assert half.trainable.get_layer(NARROW).compute_dtype == "float16"
    for value, exact in zip(half.scoring(inputs), single.scoring(inputs), strict=True):
        assert np.asarray(value).dtype == np.float32
        np.testing.assert_allclose(value, exact, atol=0.02)
    assert {str(variable.dtype) for variable in half.trainable.trainable_variables} == {"float32"}


def test_a_backbone_can_stay_frozen_as_a_whole(toy_backbone: None) -> None:
    network = new_network(LABELS, RECIPE.model_copy(update={"fine_tune_from": "last"}), seed=0)
    inputs = some_input()
    features = network.trunk(inputs)
    np.testing.assert_array_equal(features, network.backbone.top(features))
    assert [variable.path.split("/")[-2] for variable in network.trainable.trainable_variables] == [
        HEAD,
        HEAD,
    ]
