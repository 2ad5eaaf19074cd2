"""A bundle's graph with the temperature and the novelty that were fitted, and without any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.trusting.novelty import NOVELTY, append_novelty
from trainer.trusting.temperature import set_temperature

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle
    from trainer.trusting.novelty import NoveltyStatistics


def bare_model(bundle: Bundle) -> Any:  # noqa: ANN401 - onnx has no types
    """The graph (ModelProto) at temperature 1, without novelty. Raises GraphError where it ends in no softmax."""
    import onnx

    model = onnx.load_from_string(bundle.model_bytes)
    set_temperature(model, 1.0)
    graph = model.graph
    for kept, ours in (
        (graph.output, [put for put in graph.output if put.name == NOVELTY]),
        (graph.node, [node for node in graph.node if node.name.startswith(f"{NOVELTY}/")]),
        (graph.initializer, [one for one in graph.initializer if one.name.startswith(f"{NOVELTY}/")]),
    ):
        for one in ours:
            kept.remove(one)
    return model


def trusted_model(bundle: Bundle, temperature: float, statistics: NoveltyStatistics | None) -> bytes:
    """The graph with this temperature and, where there are statistics, the output `novelty`."""
    import onnx

    model = bare_model(bundle)
    set_temperature(model, temperature)
    if statistics is not None:
        append_novelty(model, statistics)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
