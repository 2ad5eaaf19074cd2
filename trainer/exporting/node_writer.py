"""Writes ONNX nodes one after the other, each with a name of its own below one prefix.

Only this module knows which operators take their axes as an attribute and which as an input, in which version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AXES_AS_INPUT_SINCE = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18}


class NodeWriter:
    """Collects nodes and constants, to be put at the end of a graph."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.prefix, self.opset = prefix, opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *inputs: str, out: str | None = None, **given: Any) -> str:  # noqa: ANN401
        """Write one node and give the name of its output."""
        from onnx import helper

        name = out or f"{self.prefix}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **given))
        return name

    def constant(self, values: NDArray[Any] | np.generic) -> str:
        """Name of a constant with these values, written once."""
        from onnx import numpy_helper

        array = np.asarray(values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self.prefix}/constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def is_constant(self, name: str) -> bool:
        """Whether a name is that of a constant written here."""
        return name in self._known.values()

    def number(self, value: float) -> str:
        """Name of a float constant."""
        return self.constant(np.float32(value))

    def reshape(self, name: str, sizes: tuple[int, ...], out: str | None = None) -> str:
        """Give a tensor other sizes, one of which may be -1."""
        return self("Reshape", name, self.constant(np.array(sizes, np.int64)), out=out)

    def unsqueeze(self, name: str, axes: tuple[int, ...]) -> str:
        """Put axes of size 1 into a tensor, numbered as in the result."""
        return self("Unsqueeze", name, self.constant(np.array(axes, np.int64)))

    def slice(self, name: str, start: int, end: int, axis: int) -> str:
        """Take a tensor's part from `start` to before `end` along an axis."""
        limits = [self.constant(np.array([value], np.int64)) for value in (start, end, axis)]
        return self("Slice", name, *limits)

    def reduce(
        self, operator: str, name: str, axes: tuple[int, ...], *, keep: bool = False, out: str | None = None
    ) -> str:
        """Take axes of a tensor together."""
        if self.opset >= _AXES_AS_INPUT_SINCE[operator]:
            return self(operator, name, self.constant(np.array(axes, np.int64)), out=out, keepdims=int(keep))
        return self(operator, name, out=out, axes=list(axes), keepdims=int(keep))
