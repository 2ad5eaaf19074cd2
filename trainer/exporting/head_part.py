"""A network's head by itself, to be run on feature maps that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.exporting.back_propagation import Tape
    from trainer.exporting.head_walk import Head


class HeadPart:
    """What some tensors behind the feature map become, for features that are given: [n, labels] and the like."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        head: Head,
        names: tuple[str, ...],
        tape: Tape | None = None,
    ) -> None:
        import onnx
        from onnx import TensorProto, helper

        graph = OnnxGraph(model)
        written = list(tape.write.nodes) if tape else []
        read = {head.logits, *(name for node in written for name in node.input)}
        wanted = {id(node) for name in read for node in graph.upstream(name, head.features)}
        nodes = [node for node in model.graph.node if id(node) in wanted] + written
        used = {name for node in nodes for name in node.input}
        size = list(head.shapes[head.features])
        whole = helper.make_graph(
            nodes,
            "part",
            [helper.make_tensor_value_info(head.features, TensorProto.FLOAT, size)],
            [onnx.ValueInfoProto(name=name) for name in names],
            [
                *(one for one in model.graph.initializer if one.name in used),
                *(tape.write.constants if tape else ()),
            ],
        )
        part = helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)
        self._session = onnx_session(part.SerializeToString())
        self._names, self._input = list(names), head.features

    def __call__(self, features: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Values of the tensors, in order."""
        return list(self._session.run(self._names, {self._input: features}))
