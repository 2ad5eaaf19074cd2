"""One number by which logits are divided, so that probabilities are frequencies: fitted, and set in the graph.

Temperature scaling after C. Guo et al., ICML 2017: the number that makes held-out answers the least surprising. The
answer to a micrograph is the mean over its network inputs (boxes, views), so that mean is what has to be likely.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from trainer.exporting.cam_head import PROBABILITIES
from trainer.exporting.head_walk import find_logits
from trainer.exporting.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LOWEST, HIGHEST = 0.1, 10.0
"""Beyond, held-out answers are all right (or no better than chance) and say nothing about how sure to be."""
_STEPS: Final = 200
_SMALLEST: Final = 1e-30
_TENSOR: Final = "trusted/temperature"


def tempered(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """Probabilities [n, labels] of logits at a temperature.

    Not of probabilities at another temperature: what single precision has rounded to 0 cannot be softened again.
    """
    divided = logits.astype(np.float64) / temperature
    raised = np.exp(divided - divided.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def fit_temperature(
    inputs: Sequence[NDArray[np.floating[Any]]], true: Sequence[int], groups: Sequence[str]
) -> float:
    """The temperature of the least mean log loss of held-out micrographs.

    `inputs` has each micrograph's logits [network inputs, labels], `true` its class. Each group has equal weight:
    forty near-equal pictures of one sample are not forty pieces of evidence. The true class is asked for with
    (n + 1) / (n + 2), n groups, not 1 (J. Platt, Advances in Large Margin Classifiers, 1999): answers that are all
    right would else ask for any certainty whatever.
    """
    names, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weight, target = 1 / sizes[member], (len(names) + 1) / (len(names) + 2)
    counts = np.array([len(rows) for rows in inputs])
    joined = _Inputs(np.concatenate(inputs), np.cumsum(counts) - counts, counts, np.asarray(true))
    tried = np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), _STEPS + 1))
    losses = [_loss(joined, weight, target, value) for value in tried]
    return float(f"{tried[int(np.argmin(losses))]:.4g}")


class _Inputs(NamedTuple):
    """Network inputs of all micrographs one after the other; those of one begin at its start."""

    logits: NDArray[np.floating[Any]]
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]
    true: NDArray[np.intp]


def _loss(inputs: _Inputs, weight: NDArray[np.float64], target: float, temperature: float) -> float:
    sums = np.add.reduceat(tempered(inputs.logits, temperature), inputs.starts)
    told = np.log(np.maximum(sums / inputs.counts[:, None], _SMALLEST))
    of_true = told[np.arange(len(told)), inputs.true]
    of_others = (told.sum(axis=1) - of_true) / (told.shape[1] - 1)
    losses = -(target * of_true + (1 - target) * of_others)
    return float((weight * losses).sum() / weight.sum())


def set_temperature(model: Any, temperature: float) -> None:  # noqa: ANN401 - onnx has no types
    """Divide the logits of a ModelProto by this before the softmax, in place of the division that is there.

    Raises:
        GraphError: the probabilities are no softmax.
    """
    from onnx import helper, numpy_helper

    logits = find_logits(OnnxGraph(model))
    places = [at for at, node in enumerate(model.graph.node) if PROBABILITIES in node.output]
    softmax = model.graph.node[places[0]]
    if softmax.input[0] == logits:
        division = helper.make_node("Div", [logits, _TENSOR], [f"{_TENSOR}/logits"], f"{_TENSOR}/logits")
        softmax.input[0] = division.output[0]
        model.graph.node.insert(places[0], division)
    else:
        (division,) = (node for node in model.graph.node if softmax.input[0] in node.output)
        earlier, division.input[1] = division.input[1], _TENSOR
        _drop(model, {_TENSOR, *({earlier} - {name for node in model.graph.node for name in node.input})})
    model.graph.initializer.append(numpy_helper.from_array(np.float32(temperature), _TENSOR))


def _drop(model: Any, names: set[str]) -> None:  # noqa: ANN401
    for tensor in [one for one in model.graph.initializer if one.name in names]:
        model.graph.initializer.remove(tensor)
