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


def layer_macs(
    model: ModelProto, feed: Feed | None = None, folder: Path | None = None
) -> dict[str, float]:
    """Return the multiply-accumulates of each convolution and product with a constant, at batch 1.

    Args:
        model: The graph.
        feed: Inputs at batch 1. The model is run with them to get the shapes, for a graph with
            dynamic height and width; without them a dynamic dimension counts as 1.
        folder: Where the weights are, if they were set aside.
    """
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in OPERATORS and n.input[1] in weights]
    names = [node.output[0] for node in layers]
    shapes = _inferred_shapes(model) if feed is None else _run_shapes(model, names, feed, folder)
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


def _run_shapes(
    model: ModelProto, names: Sequence[str], feed: Feed, folder: Path | None
) -> dict[str, list[int]]:
    """Return the shapes of tensors in a run of the model."""
    import onnx
    from onnx import helper

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        probe.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
        value = helper.make_tensor_value_info(f"{name}/shape", onnx.TensorProto.INT64, None)
        probe.graph.output.append(value)
    with temporary_folder() as scratch:
        if folder is None:
            folder = scratch
            set_aside(probe, folder, "shapes.data")
        onnx.save(probe, folder / "shapes.onnx")
        session = open_session(folder / "shapes.onnx", 1, in_file=True)
        shapes = session.run(None, dict(feed))
    return {name: shape.tolist() for name, shape in zip(names, shapes, strict=True)}


def open_session(path: Path, threads: int, *, in_file: bool = False, plain: bool = False) -> Any:
    """Open a graph in ONNX Runtime on the CPU, for few calls: no memory is kept for later ones.

    Args:
        path: The ONNX file.
        threads: Of the runtime.
        in_file: The weights stay in their file, which is mapped; it costs time. Else the runtime
            copies them into the layouts that its kernels read fastest.
        plain: The graph is run as it is, in its own order: no optimisation fuses an operator, and
            whatever reads an activation comes where the graph has it. By itself the runtime leaves
            outputs that nothing waits for to the end, with all that they are computed from.
    """
    from onnxruntime import ExecutionOrder
    from onnxruntime import GraphOptimizationLevel as Level

    ort.onnxruntime("ort-cpu", "cpu")
    options = library.session_options(threads)
    options.enable_mem_pattern = False
    if in_file:
        # one level more copies the weights of convolutions into another layout
        options.graph_optimization_level = Level.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    if plain:
        options.graph_optimization_level = Level.ORT_DISABLE_ALL
        options.execution_order = ExecutionOrder.PRIORITY_BASED
    return library.open_session(path, options, ["CPUExecutionProvider"])
