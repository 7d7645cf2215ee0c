"""One layer at given widths -> an ONNX folder, the smallest thing that a target can build.

The graphs are what the exporter writes for these layers inside a network: a group normalisation is
a Reshape, an InstanceNormalization, a Reshape and an affine map, with the SiLU that follows it. On
ONNX Runtime's processor provider a convolution so measured includes the reordering into and out of
its blocked layout, which in a U-Net the normalisation on each side forces as well.

Every graph also multiplies two numbers: targets read the precision that they built back from the
products and convolutions of a graph, and some layers have none. ``write_overhead`` is that alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffc_export.targets.onnx_file import DESCRIPTION, MODEL, onnx_digest

_OPSET = 20
_IR = 10


class Graph:
    """A graph under construction: nodes one after the other, weights by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[tuple[str, tuple[int, ...]]] = []

    def input(self, shape: Sequence[int]) -> str:
        """An input of ``shape`` without the batch."""
        self.inputs.append((f"in_{len(self.inputs)}", tuple(shape)))
        return self.inputs[-1][0]

    def weight(self, *shape: int) -> str:
        """Random weights, small enough for no layer to overflow."""
        values = np.random.default_rng(len(self.weights)).standard_normal(shape, np.float32)
        return self.constant(values * np.float32(0.05))

    def constant(self, values: Any) -> str:
        """A constant."""
        from onnx import numpy_helper

        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        from onnx import helper

        output = f"t_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def save(self, folder: Path, *outputs: str) -> Path:
        """Write model.onnx and model.json."""
        import onnx
        from onnx import TensorProto, helper

        kind = TensorProto.FLOAT
        product = self.add("MatMul", self.input((1,)), self.weight(1, 1))
        inputs = [helper.make_tensor_value_info(n, kind, ["batch", *s]) for n, s in self.inputs]
        given = [helper.make_tensor_value_info(n, kind, None) for n in (*outputs, product)]
        graph = helper.make_graph(self.nodes, "layer", inputs, given, self.weights)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR)
        model = onnx.shape_inference.infer_shapes(model)
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / MODEL)
        shapes = [{"name": n, "shape": list(s), "dtype": "float32"} for n, s in self.inputs]
        described = {"inputs": shapes, "precision": "fp32", "sha256": onnx_digest(folder)}
        (folder / DESCRIPTION).write_text(json.dumps(described), "utf-8")
        return folder


Facts = tuple[tuple[int, ...], ...]


def write_layer(kind: str, facts: Facts, sizes: Sequence[int], folder: Path) -> Path:
    """An ONNX folder with one layer (see ``layers.Layer``) at the widths ``sizes``."""
    graph = Graph()
    output = _BUILDERS[kind](graph, facts, sizes)
    return graph.save(folder, output)


def write_overhead(folder: Path) -> Path:
    """An ONNX folder whose call costs what every call costs, and no layer."""
    return Graph().save(folder)


def _conv(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    kernel, stride, padding, spatial = facts
    x = graph.input((sizes[0], *spatial))
    weight, bias = graph.weight(sizes[-1], sizes[0], *kernel), graph.weight(sizes[-1])
    return graph.add("Conv", x, weight, bias, strides=stride, pads=[*padding, *padding])


def _depthwise(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    kernel, stride, padding, spatial = facts
    x = graph.input((sizes[0], *spatial))
    weight, bias = graph.weight(sizes[0], 1, *kernel), graph.weight(sizes[0])
    pads = [*padding, *padding]
    return graph.add("Conv", x, weight, bias, strides=stride, pads=pads, group=sizes[0])


def _linear(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    x = graph.input((facts[0][0], sizes[0]))
    product = graph.add("MatMul", x, graph.weight(sizes[0], sizes[1]))
    return graph.add("Add", product, graph.weight(sizes[1]))


def _group_norm(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    (groups,), spatial = facts
    x = graph.input((sizes[0], *spatial))
    rows = graph.add("Reshape", x, graph.constant(np.array([0, groups, -1], np.int64)))
    ones = [graph.constant(np.full(groups, value, np.float32)) for value in (1, 0)]
    normed = graph.add("InstanceNormalization", rows, *ones)
    back = graph.add("Reshape", normed, graph.constant(np.array([0, sizes[0], *spatial], np.int64)))
    affine = (graph.weight(sizes[0], *[1] * len(spatial)) for _ in range(2))
    shifted = graph.add("Add", graph.add("Mul", back, next(affine)), next(affine))
    return graph.add("Mul", shifted, graph.add("Sigmoid", shifted))


def _layer_norm(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    x = graph.input((facts[0][0], sizes[0]))
    affine = graph.weight(sizes[0]), graph.weight(sizes[0])
    return graph.add("LayerNormalization", x, *affine, axis=-1)


def _attention(graph: Graph, facts: Facts, sizes: Sequence[int]) -> str:
    queries, keys, size = facts[0]
    head = size or sizes[0]
    heads = max(sizes[0] // head, 1)
    query, value = (graph.input((heads, n, head)) for n in (queries, keys))
    key = graph.input((heads, head, keys))
    scaled = graph.add("Mul", query, graph.constant(np.float32(head**-0.5)))
    probabilities = graph.add("Softmax", graph.add("MatMul", scaled, key), axis=-1)
    return graph.add("MatMul", probabilities, value)


_BUILDERS: dict[str, Callable[[Graph, Facts, Sequence[int]], str]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "linear": _linear,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "attention": _attention,
}
