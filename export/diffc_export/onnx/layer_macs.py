"""The multiply-accumulates of the layers of an ONNX graph, and a session that runs it here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc_export.disks import temporary_folder
from diffc_export.onnx.weights import set_aside, skeleton
from diffc_export.targets import ort
from diffc_export.targets.base import Array
from diffc_runtime.libraries import ort as library

if TYPE_CHECKING:
    from onnx import ModelProto

OPERATORS = ["Conv", "MatMul", "Gemm"]
"""The layers that have multiply-accumulates, and that quantisation changes."""
Feed = Mapping[str, Array]


def layer_macs(model: ModelProto, feed: Feed | None = None) -> dict[str, float]:
    """Return the multiply-accumulates of each convolution and product with a constant, at batch 1.

    Args:
        feed: Inputs at batch 1. The model is run with them to get the shapes, for a graph with
            dynamic height and width; without them a dynamic dimension counts as 1.
    """
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in OPERATORS and n.input[1] in weights]
    names = [node.output[0] for node in layers]
    shapes = _inferred_shapes(model) if feed is None else _run_shapes(model, names, feed)
    macs = {}
    for node in layers:
        out = shapes.get(node.output[0], [])
        positions = out[2:] if node.op_type == "Conv" else out[1:-1]
        macs[node.name] = float(weights[node.input[1]] * math.prod(positions))
    return macs


def _inferred_shapes(model: ModelProto) -> dict[str, list[int]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    return {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }


def _run_shapes(model: ModelProto, names: Sequence[str], feed: Feed) -> dict[str, list[int]]:
    """Return the shapes of tensors in a run of the model."""
    import onnx
    from onnx import helper

    with temporary_folder() as scratch:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        set_aside(probe, scratch, "model.data")
        del probe.graph.output[:]
        for name in names:
            probe.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
            value = helper.make_tensor_value_info(f"{name}/shape", onnx.TensorProto.INT64, None)
            probe.graph.output.append(value)
        onnx.save(probe, Path(scratch) / "model.onnx")
        shapes = open_session(Path(scratch) / "model.onnx", 1).run(None, dict(feed))
    return {name: shape.tolist() for name, shape in zip(names, shapes, strict=True)}


def open_session(path: Path, threads: int) -> Any:
    """Open a graph in ONNX Runtime on the CPU, with so many threads."""
    ort.onnxruntime("ort-cpu", "cpu")
    return library.open_session(path, library.session_options(threads), ["CPUExecutionProvider"])
