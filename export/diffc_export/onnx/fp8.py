"""Turns the int8 Q/DQ pairs of a graph into fp8 (E4M3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffc_export.targets.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_FP8_MOST = 448.0  # the largest E4M3 number


def to_fp8(whole: ModelProto, plain: ModelProto) -> None:
    """Turn the int8 Q/DQ of ``whole`` into E4M3, in place.

    onnxruntime.quantization writes E4M3 only with scales from a distribution; here the largest
    magnitude becomes E4M3's largest number, as in NVIDIA's tools.

    Args:
        plain: The same model with its weights in fp32.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in whole.graph.initializer}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    scales, done = {}, set[str]()
    for node in whole.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        value, scale, zero = node.input
        if scale not in scales:
            scales[scale] = numpy_helper.to_array(tensors[scale]) * np.float32(127 / _FP8_MOST)
            _store(tensors[scale], scales[scale])
        if zero not in done:
            done.add(zero)
            _store(tensors[zero], _as_e4m3(np.zeros(tuple(tensors[zero].dims), np.float32)))
        if value in tensors and value not in done:
            done.add(value)
            original = weights[value.removesuffix("_quantized")]
            _store(tensors[value], _as_e4m3(original / scales[scale]))


def _as_e4m3(values: Array) -> Array:
    import ml_dtypes

    return np.clip(values, -_FP8_MOST, _FP8_MOST).astype(ml_dtypes.float8_e4m3fn)


def _store(tensor: TensorProto, array: Array) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
