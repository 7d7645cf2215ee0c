"""Which precision a TensorRT network or engine computes in, layer by layer.

Two readings of the same thing:
- the strongly typed network, from the types of what each convolution and matrix product is given
  (all that can be had ahead of time: an engine cannot be opened without its GPU);
- the built engine, from the inspector's JSON, where there is a GPU. Its form changed in TensorRT
  11 ("Bindings" became "I/O Tensors"); both are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = {
    "FLOAT": "fp32",
    "HALF": "fp16",
    "BF16": "bf16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "FP8": "fp8",
    "INT4": "int4",
    "FP4": "fp4",
}
_PASSES_WEIGHTS = {"SHUFFLE", "IDENTITY", "CAST", "UNSQUEEZE", "SQUEEZE"}


def network_elements(trt: Any, network: Any) -> list[tuple[str, int]]:
    """(precision, weight elements) of each convolution and product with constant weights."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    elements = (_layer_elements(trt, layer, makers) for layer in layers)
    return [item for item in elements if item is not None]


def _layer_elements(trt: Any, layer: Any, makers: Mapping[str, Any]) -> tuple[str, int] | None:
    kind = layer.type.name
    if kind in ("CONVOLUTION", "DECONVOLUTION"):
        weights = _fixed_kernel(trt, layer, kind) or _constant_elements(layer, 1, makers)
        return (_input_precision(layer, 0, makers), weights) if weights else None
    if kind == "MATRIX_MULTIPLY":
        for index in range(2):
            if weights := _constant_elements(layer, index, makers):
                return _input_precision(layer, 1 - index, makers), weights
    return None


def _fixed_kernel(trt: Any, layer: Any, kind: str) -> int:
    """Elements of a kernel that is no tensor of the network; 0 when it is one.

    ``get_layer`` gives the base class; changing ``__class__`` is the library's documented cast.
    """
    cast = {"CONVOLUTION": trt.IConvolutionLayer, "DECONVOLUTION": trt.IDeconvolutionLayer}
    layer.__class__ = cast[kind]
    return int(layer.kernel.size)


def _constant_elements(layer: Any, index: int, makers: Mapping[str, Any]) -> int:
    """Elements of an input that is a constant, cast or (de)quantised or not; else 0."""
    tensor = layer.get_input(index)
    maker = makers.get(tensor.name) if tensor is not None else None
    while maker is not None and maker.type.name in _PASSES_WEIGHTS | {"DEQUANTIZE", "QUANTIZE"}:
        maker = makers.get(maker.get_input(0).name)
    if maker is None or maker.type.name != "CONSTANT":
        return 0
    size = 1
    for dim in maker.get_output(0).shape:
        size *= dim
    return size


def _input_precision(layer: Any, index: int, makers: Mapping[str, Any]) -> str:
    """The type of an input, or of what was dequantised into it (the builder fuses the two)."""
    tensor = layer.get_input(index)
    maker = makers.get(tensor.name)
    if maker is not None and maker.type.name == "DEQUANTIZE":
        tensor = maker.get_input(0)
    name = str(tensor.dtype.name)
    return _NAMES.get(name, name.lower())


def engine_elements(inspected: str) -> list[tuple[str, int]]:
    """(precision, weight elements) of each layer that the inspector gives weights for.

    inspected: what ``get_engine_information(JSON)`` gave for an engine built with detailed
    profiling verbosity. Empty when it names no layer's weights.
    """
    elements = []
    for item in json.loads(inspected).get("Layers", []):
        weights = item.get("Weights") if isinstance(item, dict) else None
        if isinstance(weights, dict) and weights.get("Count"):
            name = str(weights.get("Type", "")).upper()
            elements.append((_NAMES.get(name, name.lower()), int(weights["Count"])))
    return elements


def coverage(inspected: Sequence[tuple[str, int]], typed: Sequence[tuple[str, int]]) -> float:
    """How much of the typed network's weights the inspector tells of.

    0 where it names a type that is not known here: its words have changed, and the others too may
    mean something else.
    """
    if any(name not in _NAMES.values() for name, _ in inspected):
        return 0.0
    total = sum(count for _, count in typed)
    return sum(count for _, count in inspected) / total if total else 0.0


def engine_tensors(inspected: str) -> list[str]:
    """The names of an engine's inputs and outputs, from either form of the inspector's JSON."""
    content = json.loads(inspected)
    if "I/O Tensors" in content:
        return [item["Name"] for item in content["I/O Tensors"]]
    return list(content.get("Bindings", []))
