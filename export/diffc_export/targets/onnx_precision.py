"""Which precisions an ONNX file is for: those of its convolutions and matrix products.

Counted by weights, which is what the builders' own readings are counted by: what an engine turns
out to compute in is held against it. A layer is int8 (or fp8) where both of its inputs are
dequantised; with quantised weights alone it computes in what they are dequantised to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
QUANTISED, FLOATS = ("int8", "fp8"), ("fp32", "fp16", "bf16")
NAMES = {1: "fp32", 10: "fp16", 16: "bf16", 2: "int8", 3: "int8", 17: "fp8", 18: "fp8"}
"""onnx.TensorProto's numbers; int8 is for both signs, fp8 for what an accelerator calls that."""


def shares(elements: Sequence[tuple[str, int]]) -> dict[str, float]:
    """(precision, weight elements) of each heavy layer -> the share of each precision."""
    counts: dict[str, int] = {}
    for precision, count in elements:
        counts[precision] = counts.get(precision, 0) + count
    total = sum(counts.values()) or 1
    return {precision: count / total for precision, count in counts.items()}


def file_precision(held: Mapping[str, float]) -> str:
    """What a file with these shares is called: quantised where some of it is, else the largest."""
    quantised = [name for name in QUANTISED if held.get(name)]
    return max(quantised or held or ("fp32",), key=lambda name: held.get(name, 0.0))


def file_elements(graph: Any) -> list[tuple[str, int]]:
    """(precision, weight elements) of each layer whose weights are constants."""
    reader = _Reader(graph)
    elements = (reader.layer(node) for node in graph.node if node.op_type in _LAYERS)
    return [item for item in elements if item is not None]


class _Reader:
    """A graph with its constants and the makers of its tensors, by name."""

    def __init__(self, graph: Any) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type == "Constant":
                for tensor in (a.t for a in node.attribute if a.name == "value"):
                    self._constants[node.output[0]] = tensor

    def layer(self, node: Any) -> tuple[str, int] | None:
        """What a layer computes in, and how many weights it has; None without constant ones."""
        for weight, other in (node.input[:2], node.input[1::-1]):
            steps = list(self._steps(weight))
            tensor = self._constants.get(steps[-1].input[0] if steps else weight)
            if tensor is not None:
                kind = self._kind(steps, tensor, self._dequantised(other))
                return NAMES.get(kind, str(kind)), math.prod(tensor.dims)
        return None

    def _steps(self, name: str) -> Iterator[Any]:
        """The nodes that only pass a tensor on in another form, from the last to the first."""
        passes = (*_PASSES, "Cast", "QuantizeLinear", "DequantizeLinear")
        while (maker := self._makers.get(name)) is not None and maker.op_type in passes:
            yield maker
            name = maker.input[0]

    def _dequantised(self, name: str) -> bool:
        step = next((s for s in self._steps(name) if s.op_type not in _PASSES), None)
        return step is not None and step.op_type == "DequantizeLinear"

    def _kind(self, steps: Sequence[Any], tensor: Any, both: bool) -> int:
        """The type of a layer's weights; of what they are before they are dequantised, if both."""
        for index, step in enumerate(steps):
            if step.op_type == "Cast":
                return next(int(a.i) for a in step.attribute if a.name == "to")
            if step.op_type == "DequantizeLinear":
                scale = self._constants.get(step.input[1])
                return self._kind(steps[index + 1 :], tensor, both) if both else _type(scale)
            if step.op_type == "QuantizeLinear":
                return _type(self._constants.get(step.input[2] if len(step.input) > 2 else ""))
        return int(tensor.data_type)


def _type(tensor: Any) -> int:
    """A tensor's type; that of a zero point or scale that is left out or computed: int8, fp32."""
    return 1 if tensor is None else int(tensor.data_type)
