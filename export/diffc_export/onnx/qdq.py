"""Q/DQ pairs of onnxruntime.quantization, in a graph whose weights lie in a file.

    Pairs              which pairs: int8, int8 with zero points, fp8
    activation_ranges  the least and the largest value of every layer's inputs, over many calls
    write_pairs        the graph with the pairs; its int8 weights lie in a file as well

The library takes whole models: it reads every weight for its scale, and has them in memory several
times. Here its classes get small ones. Ranges are of a graph that names the file of its weights.
Pairs are written into a graph with one number in the place of each weight; then, for each weight,
into a model of the layers that read it and of nothing else, whose scales and int8 values go into
the whole. Scales follow from a weight, from the biases of its layers (the library widens the scale
of a small weight beside a large bias) and from the ranges of their inputs, so that the result is
that of the library's ``quantize_static`` bit for bit (tests/onnx/test_qdq.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffc_export.events import Progress, Work
from diffc_export.onnx.fp8 import to_fp8
from diffc_export.onnx.layer_macs import OPERATORS, Feed, open_session
from diffc_export.onnx.weights import append, is_apart, skeleton, stored_in

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Ranges = Mapping[str, Any]
"""Tensor -> the library's ``TensorData``."""
_SUFFIXES = ("_quantized", "_scale", "_zero_point")  # of what the library makes of a weight


@dataclass(frozen=True)
class Pairs:
    """Which pairs are written.

    Attributes:
        precision: ``int8`` or ``fp8``.
        asymmetric: int8 inputs of layers are uint8 with a zero point.
    """

    precision: str = "int8"
    asymmetric: bool = False


def activation_ranges(
    plain: ModelProto, folder: Path, feeds: Sequence[Feed], threads: int, *, in_file: bool
) -> Ranges:
    """The least and the largest value of each layer's inputs and outputs.

    Args:
        plain: The fp32 graph, whose weights were set aside in ``folder``.
        folder: A folder for the graph that is run, too.
        feeds: The inputs of the calls.
        threads: Of the runtime.
        in_file: Whether the weights stay in their file during the calls (``open_session``).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    graph, run = folder / "graph.onnx", folder / "ranges.onnx"
    onnx.save(skeleton(plain), graph)
    calibrator = MinMaxCalibrater(graph, OPERATORS, str(run))
    _put_weights(calibrator.model, plain.graph.initializer)
    calibrator.augment_graph()
    # the library's own session would take every core, and ranges would follow from their number
    calibrator.infer_session = open_session(run, threads, in_file=in_file, plain=True)
    calibrator.collect_data(Reader())
    ranges: Ranges = dict(calibrator.compute_data().items())
    return ranges


def write_pairs(plain: ModelProto, folder: Path, ranges: Ranges, pairs: Pairs) -> Work[ModelProto]:
    """The graph with a pair before each layer.

    Args:
        plain: The fp32 graph, whose weights were set aside in ``folder``.
        folder: A folder for the int8 weights, too.
        ranges: What ``activation_ranges`` gave.
        pairs: Which pairs.

    Returns:
        A graph whose large weights lie in files of ``folder``.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    onnx.save(skeleton(plain), folder / "graph.onnx")
    typed = load_model_with_shape_infer(folder / "graph.onnx")
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    stand_ins = {name: _stand_in(tensor) for name, tensor in weights.items() if is_apart(tensor)}
    for node in _layers(typed.graph.node):
        for name in node.input[2:]:
            if name in stand_ins:  # the library copies a bias that two layers share
                stand_ins[name] = _in_memory(weights[name], folder)
    _put_weights(typed, [stand_ins.get(name, weights[name]) for name in weights])
    whole = onnx.ModelProto()
    whole.CopyFrom(typed)
    whole = _with_pairs(whole, ranges, pairs)
    ONNXModel(whole).topological_sort()
    results = {tensor.name: tensor for tensor in whole.graph.initializer}
    for name in stand_ins.keys() & results.keys():
        results[name].CopyFrom(weights[name])
    large = [name for name in stand_ins if f"{name}_quantized" in results]
    with (folder / "whole.data").open("wb") as file:
        for index, name in enumerate(large):
            yield Progress(index, len(large), f"writing {pairs.precision} weights")
            part = _readers(typed, name, _in_memory(weights[name], folder))
            for tensor in _with_pairs(part, ranges, pairs).graph.initializer:
                if tensor.name == f"{name}_quantized":
                    # before it is copied: a graph keeps the memory of what it had, to its end
                    append(tensor, file)
                if tensor.name in (f"{name}{suffix}" for suffix in _SUFFIXES):
                    results[tensor.name].CopyFrom(tensor)
    return whole


def _with_pairs(model: ModelProto, ranges: Ranges, pairs: Pairs) -> ModelProto:
    """Return what the library makes of a model whose weights are in memory; ``model`` is lost."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    fp8 = pairs.precision == "fp8"
    before = onnx.ModelProto()
    if fp8:
        before.CopyFrom(model)
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    quantizer = QDQQuantizer(
        model,
        not fp8,  # fp8 has one scale for a weight, int8 one for each of its channels
        False,
        QuantType.QInt8,
        QuantType.QUInt8 if pairs.asymmetric and not fp8 else QuantType.QInt8,
        {name: value for name, value in ranges.items() if name in names},
        [],
        [],
        OPERATORS,
        {
            "ActivationSymmetric": fp8 or not pairs.asymmetric,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "MatMulConstBOnly": True,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": OPERATORS,
        },
    )
    model = quantizer.quantize_model()
    if fp8:
        to_fp8(model, before)
    return model


def _layers(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    return (node for node in nodes if node.op_type in OPERATORS)


def _readers(typed: ModelProto, name: str, weight: TensorProto) -> ModelProto:
    """Return a model of the layers that read a weight, with stand-ins for all other weights."""
    import onnx

    model = onnx.ModelProto()
    model.ir_version = typed.ir_version
    model.opset_import.extend(typed.opset_import)
    model.metadata_props.extend(typed.metadata_props)  # says that shapes were inferred
    model.graph.name = name
    model.graph.node.extend(node for node in _layers(typed.graph.node) if name in node.input)
    names = {one for node in model.graph.node for one in (*node.input, *node.output)}
    graph = typed.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    model.graph.value_info.extend(value for value in values if value.name in names)
    for tensor in graph.initializer:
        if tensor.name in names:
            model.graph.initializer.append(weight if tensor.name == name else tensor)
    return model


def _put_weights(model: ModelProto, weights: Sequence[TensorProto]) -> None:
    """Give a skeleton the weights that it has as inputs."""
    names = {tensor.name for tensor in weights}
    inputs = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:], model.graph.initializer[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(weights)


def _stand_in(tensor: TensorProto) -> TensorProto:
    """Return one value in as many dimensions as a weight has."""
    from onnx import helper, numpy_helper

    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return numpy_helper.from_array(np.zeros((1,) * len(tensor.dims), dtype), tensor.name)


def _in_memory(tensor: TensorProto, folder: Path) -> TensorProto:
    """Return a weight with its values, wherever they lie."""
    from onnx import numpy_helper

    if not is_apart(tensor):
        return tensor
    return numpy_helper.from_array(stored_in(folder, tensor)(), tensor.name)
