"""Backbone + CAM head as Keras models: the same weights seen for training, for scoring, and for export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.fitting.backbones import Backbone

HEAD: Final = "cam"
NARROW: Final = "narrow"


@dataclass(frozen=True, slots=True)
class Network:
    """One set of weights in three views.

    `trunk` (frozen): picture [n, rows, columns, 1] -> intermediate features; `trainable`: intermediate features ->
    logits [n, labels]; `scoring`: picture -> (probabilities [n, labels], cam [n, h, w, labels]); `features`:
    picture -> the map that the head reads (behind the narrowing convolution, if any), what export takes to ONNX.
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


def build_network(
    backbone: Backbone, labels: tuple[str, ...], dropout: float = 0.2, head_width: int = 0
) -> Network:
    """Put a CAM head on a backbone: 1x1 convolution -> average -> logits; batch normalisation stays frozen.

    With a few hundred micrographs the statistics of a batch say more about the batch than about the lab, so the
    layers keep those of their pretrained weights. With a `head_width`, a 1x1 convolution to so many channels and a
    ReLU come first: what follows is still linear in its channels, so the map stays exact. The head computes in
    single precision whatever the policy: an average of half-precision values loses what decides between classes.
    """
    import keras
    from keras import layers

    backbone.trunk.trainable = False
    for layer in backbone.top.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    narrow = layers.Conv2D(head_width, 1, activation="relu", name=NARROW) if head_width else None
    head = layers.Conv2D(len(labels), 1, dtype="float32", name=HEAD)

    def last(intermediate: Any) -> Any:  # noqa: ANN401
        features = backbone.top(intermediate, training=False)
        return narrow(features) if narrow is not None else features

    intermediate = keras.Input(backbone.trunk.output.shape[1:], dtype="float32", name="intermediate")
    features = last(intermediate)
    dropped = layers.SpatialDropout2D(dropout)(features) if dropout else features
    logits = layers.GlobalAveragePooling2D(dtype="float32", name="logits")(head(dropped))
    picture = keras.Input((None, None, 1), dtype="float32", name="micrograph")
    seen = last(backbone.trunk(picture, training=False))
    cam = head(seen)
    pooled = layers.GlobalAveragePooling2D(dtype="float32")(cam)
    return Network(
        backbone=backbone,
        labels=labels,
        trunk=backbone.trunk,
        trainable=keras.Model(intermediate, logits),
        scoring=keras.Model(picture, [layers.Softmax(dtype="float32", name="probabilities")(pooled), cam]),
        features=keras.Model(picture, seen),
    )
