"""How well the network answers on whole validation crops: class-balanced loss and accuracy, and the confusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.fitting.network import Network


@dataclass(frozen=True, slots=True)
class Validation:
    """Class-balanced cross-entropy and accuracy; `confusion[is][answered]` counts crops, in the labels' order."""

    loss: float
    balanced_accuracy: float
    confusion: tuple[tuple[int, ...], ...]


def validated(
    network: Network, features: Sequence[NDArray[np.float16]], targets: NDArray[np.intp]
) -> Validation | None:
    """Answer on the intermediate features of whole crops, each at its own shape; None where there are none."""
    if not features:
        return None
    answers = [
        np.asarray(network.trainable(one[None].astype(np.float32), training=False)) for one in features
    ]
    logits = np.concatenate(answers)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = log_probabilities[np.arange(len(targets)), targets]
    answered = logits.argmax(axis=1)
    present = sorted(set(targets.tolist()))
    confusion = np.zeros((len(network.labels), len(network.labels)), dtype=int)
    np.add.at(confusion, (targets, answered), 1)
    return Validation(
        loss=float(np.mean([-own[targets == label].mean() for label in present])),
        balanced_accuracy=float(
            np.mean([(answered == targets)[targets == label].mean() for label in present])
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )
