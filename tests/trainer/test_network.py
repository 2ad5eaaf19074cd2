"""Backbone and CAM head: three views of one set of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from toys import LABELS, RECIPE

from trainer.network import HEAD
from trainer.training import new_network

if TYPE_CHECKING:
    from trainer.network import Network


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
