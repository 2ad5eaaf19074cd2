"""Backbone + CAM head as Keras models: the same weights seen for training, for scoring, and for export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.backbones import Backbone

HEAD: Final = "cam"


@dataclass(frozen=True, slots=True)
class Network:
    """One set of weights in three views.

    `trunk` (frozen): picture [n, rows, columns, 1] -> intermediate features; `trainable`: intermediate features ->
    logits [n, labels]; `scoring`: picture -> (probabilities [n, labels], cam [n, h, w, labels]); `features`:
    picture -> last feature map, what export takes to ONNX.
    """

    backbone: Backbone
    labels: tuple[str, ...]
    trunk: Any
    trainable: Any
    scoring: Any
    features: Any

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights [channels, labels] and bias [labels] of the 1x1 convolution that draws the evidence maps."""
        kernel, bias = self.trainable.get_layer(HEAD).get_weights()
        return kernel[0, 0], bias


def build_network(backbone: Backbone, labels: tuple[str, ...], dropout: float = 0.2) -> Network:
    """Put a CAM head on a backbone: 1x1 convolution -> average -> logits; batch normalisation stays frozen.

    With a few hundred micrographs the statistics of a batch say more about the batch than about the lab, so the
    layers keep those of their pretrained weights.
    """
    import keras
    from keras import layers

    backbone.trunk.trainable = False
    for layer in backbone.top.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    intermediate = keras.Input(backbone.trunk.output.shape[1:], name="intermediate")
    features = backbone.top(intermediate, training=False)
    dropped = layers.SpatialDropout2D(dropout)(features) if dropout else features
    head = layers.Conv2D(len(labels), 1, name=HEAD)
    trainable = keras.Model(intermediate, layers.GlobalAveragePooling2D(name="logits")(head(dropped)))
    picture = keras.Input((None, None, 1), name="micrograph")
    last = backbone.top(backbone.trunk(picture, training=False), training=False)
    cam = head(last)
    probabilities = layers.Softmax(name="probabilities")(layers.GlobalAveragePooling2D()(cam))
    return Network(
        backbone=backbone,
        labels=labels,
        trunk=backbone.trunk,
        trainable=trainable,
        scoring=keras.Model(picture, [probabilities, cam]),
        features=keras.Model(picture, last),
    )
