"""Writes the precision into an ONNX file: from an fp32 folder to an fp16 or bf16 folder.

Builders of strongly typed engines keep what the file says, so the file says everything: weights in
the low precision, and a Cast wherever a tensor goes from one precision to the other. Inputs and
outputs of the graph keep their types.

Kept in fp32 (``KEEP``): the timestep embedding's waves, whose arguments go to 1000, and sums over a
whole tensor; nodes with a constant that the low precision cannot hold (``fragile``), such as the
1e-15 that guards a division; and the nodes that the caller names (``sensitive``). quantize.py
measures which layers are sensitive to int8 and fp8. For fp16 and bf16 nothing is measured here; the
parity check shows their error.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffc_export.onnx.weights import (
    ApartModel,
    Read,
    on_skeleton,
    open_apart,
    save,
    without_data,
)
from diffc_export.targets.onnx_file import DESCRIPTION, MODEL, REFERENCE, onnx_digest, read_onnx
from diffc_runtime.errors import InputError, RequestError
from diffc_runtime.files import utf8_path

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_WAVES = ("Sin", "Cos", "Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Range")
_SUMS = ("ReduceMean", "ReduceSum", "ReduceL2", "CumSum")
_TYPED = ("Cast", "CastLike", "ConstantOfShape", "RandomNormal", "RandomNormalLike")
KEEP = frozenset((*_WAVES, *_SUMS, *_TYPED, "If", "Loop", "Scan"))
_ALWAYS_FP32 = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that the ONNX operator itself fixes at float32."""
LOW = {"fp16": 10, "bf16": 16}  # onnx.TensorProto.FLOAT16, BFLOAT16
_FLOAT = 1
_OWN = ("", "ai.onnx")  # names of the domain of ONNX's own operators
_PIECE = 2**22  # values that are looked at together
_BF16_OPSET = 22  # the first whose convolutions take bfloat16


def convert_precision(
    folder: Path, out: Path, precision: str, sensitive: Collection[str] = ()
) -> dict[str, Any]:
    """Write ``out``, an ONNX folder in fp16 or bf16, from the fp32 ``folder``.

    Args:
        sensitive: The names of more nodes to keep in fp32.

    Returns:
        The content of model.json.

    Raises:
        RequestError: ``precision`` is another one.
        InputError: ``folder`` is not in fp32.
    """
    import onnx

    if precision not in LOW:
        raise RequestError(f"'{precision}' is not written by casts", hint=f"known: {list(LOW)}")
    source = read_onnx(folder)
    if source.precision != "fp32":
        raise InputError(f"{source.path} is {source.precision} already, fp32 is needed")
    apart = open_apart(source.path)
    if precision == "bf16":
        on_skeleton(apart.proto, partial(_with_opset, opset=_BF16_OPSET))
    on_skeleton(apart.proto, partial(onnx.shape_inference.infer_shapes, data_prop=True))
    kept = frozenset(sensitive) | fragile(apart.proto.graph, LOW[precision], apart.values)
    Lowering(apart, LOW[precision], kept).run()
    return write_folder(apart, out, folder, precision, {"kept_fp32": sorted(kept)})


_MOVES = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Identity", "Slice", "Concat")
_DIVIDES = ("Div", "Reciprocal", "Log")
_ROOTS = ("Sqrt", "Pow")


def fragile(
    graph: GraphProto, low: int, values: Mapping[str, Read] | None = None
) -> frozenset[str]:
    """Return the nodes that would break in the ``low`` type, and give every node a name.

    The type loses a constant if all its values lie below the type's smallest normal number (1e-15
    is 0 in fp16, and x / (y + 0) infinite), or if one lies above its largest. Fragile are the nodes
    that take such a constant, and the nodes that divide by a value computed from it, even if other
    nodes move that value in between. ``values`` reads the weights that are not in the graph.
    """
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    lost = {name for name, array in _constants(graph, values or {}) if _is_lost(array, low)}
    kept, small = set(), set[str]()
    for node in graph.node:
        follows = node.op_type in (*_MOVES, *_ROOTS, *_DIVIDES) and small.intersection(node.input)
        if lost.intersection(node.input) or follows:
            kept.add(node.name)
            if node.op_type not in _DIVIDES:
                small.update(node.output)
    return frozenset(kept)


def _constants(graph: GraphProto, values: Mapping[str, Read]) -> Iterator[tuple[str, Any]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.data_type == _FLOAT:
            read = values.get(tensor.name)
            yield tensor.name, numpy_helper.to_array(tensor) if read is None else read()
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and attribute.t.data_type == _FLOAT:
                yield node.output[0], numpy_helper.to_array(attribute.t)


def _is_lost(array: Any, low: int) -> bool:
    import ml_dtypes
    import numpy as np
    from onnx import helper

    limits: Any = ml_dtypes.finfo(helper.tensor_dtype_to_np_dtype(low))  # type: ignore[no-untyped-call]
    flat, largest = array.reshape(-1), 0.0
    for first in range(0, flat.size, _PIECE):
        piece = flat[first : first + _PIECE]
        sizes = np.abs(piece[np.isfinite(piece)])
        largest = max(largest, float(sizes.max(initial=0.0)))
    return bool(0 < largest < float(limits.tiny) or largest > float(limits.max))


def _with_opset(model: ModelProto, opset: int) -> ModelProto:
    from onnx import version_converter

    current = next(o.version for o in model.opset_import if o.domain in _OWN)
    return version_converter.convert_version(model, opset) if current < opset else model


def write_folder(
    apart: ApartModel, out: Path, folder: Path, precision: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write a converted graph as an ONNX folder, with the description and reference of ``folder``.

    Args:
        facts: More content for model.json.

    Returns:
        The content of model.json.
    """
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    save(apart.proto, out / MODEL, apart.values)
    onnx.checker.check_model(utf8_path(out / MODEL))
    if (folder / REFERENCE).is_file():
        shutil.copyfile(folder / REFERENCE, out / REFERENCE)
    described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    opset = next(o.version for o in apart.proto.opset_import if o.domain in _OWN)
    exported = described["sha256"] if "sha256" in described else onnx_digest(folder)
    described |= {"precision": precision, "opset": opset, "sha256": onnx_digest(out), **facts}
    described["made_from"] = exported
    (out / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")
    return described


class Lowering:
    """One pass over a graph: every node gets a precision, and a Cast joins two different ones."""

    def __init__(self, apart: ApartModel, low: int, sensitive: frozenset[str]) -> None:
        self._graph = graph = apart.proto.graph
        self._values = apart.values
        self._low = low
        self._sensitive = sensitive
        self._weights = {t.name: t for t in graph.initializer if t.data_type == _FLOAT}
        self._type_of = self._float_values()  # tensor -> its type after the pass
        self._copies: dict[tuple[str, int], str] = {}  # (tensor, type) -> its cast's output
        self._nodes: list[NodeProto] = []

    def _float_values(self) -> dict[str, int]:
        graph = self._graph
        values = [*graph.input, *graph.value_info, *graph.output]
        return {v.name: _FLOAT for v in values if v.type.tensor_type.elem_type == _FLOAT}

    def run(self) -> None:
        """Rewrite the graph in place."""
        outputs = {value.name for value in self._graph.output}
        for node in list(self._graph.node):
            _inline_constant(node, self._weights)
            if node.op_type == "Constant" and node.output[0] in self._weights:
                continue
            kind = self._kind(node)
            self._take_inputs(node, kind)
            self._nodes.append(node)
            for index, name in enumerate(node.output):
                self._give_output(node, index, name, kind, name in outputs)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._store_weights()
        del self._graph.value_info[:]  # stale now; shape inference makes it again

    def _kind(self, node: NodeProto) -> int:
        high = node.op_type in KEEP or node.name in self._sensitive
        return _FLOAT if high else self._low

    def _take_inputs(self, node: NodeProto, kind: int) -> None:
        fixed = _ALWAYS_FP32.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self._weights or name in self._type_of:
                node.input[index] = self._as(name, _FLOAT if index in fixed else kind)

    def _as(self, name: str, kind: int) -> str:
        """Return the name of tensor ``name`` in the type ``kind``; adds a Cast if there is none."""
        from onnx import helper

        if self._type_of.get(name) == kind and name not in self._weights:
            return name
        key = (name, kind)
        if key not in self._copies:
            self._copies[key] = f"{name}/{kind}"
            if name not in self._weights:
                cast = helper.make_node(
                    "Cast", [name], [self._copies[key]], to=kind, name=f"{name}/cast{kind}"
                )
                self._nodes.append(cast)
        return self._copies[key]

    def _give_output(
        self, node: NodeProto, index: int, name: str, kind: int, is_output: bool
    ) -> None:
        from onnx import helper

        if name not in self._type_of or kind == _FLOAT:
            return
        if not is_output:
            self._type_of[name] = kind
            return
        inner = f"{name}/{kind}"  # a graph output keeps its name and its type
        node.output[index] = inner
        self._copies[(name, kind)] = inner
        self._nodes.append(helper.make_node("Cast", [inner], [name], to=_FLOAT, name=f"{name}/out"))

    def _store_weights(self) -> None:
        """Put the weights into the graph in the types in which nodes take them."""
        weights = self._graph.initializer
        before = len(weights)
        for tensor in self._convert_weights():
            weights.append(tensor)
        for index in reversed(range(before)):
            name = weights[index].name
            if name in self._weights:
                self._values.pop(name, None)
                del weights[index]

    def _convert_weights(self) -> Iterator[TensorProto]:
        """Give each weight once for each type in which a node takes it.

        One that lies elsewhere is converted when it is read.
        """
        from onnx import helper, numpy_helper

        for (name, kind), copy in self._copies.items():
            if name not in self._weights:
                continue
            weight, dtype = self._weights[name], helper.tensor_dtype_to_np_dtype(kind)
            if name in self._values:
                self._values[copy] = partial(_cast, self._values[name], dtype)
                yield without_data(copy, kind, weight.dims)
            else:
                yield numpy_helper.from_array(numpy_helper.to_array(weight).astype(dtype), copy)


def _cast(read: Read, dtype: Any) -> Any:
    return read().astype(dtype, copy=False)


def _inline_constant(node: NodeProto, weights: dict[str, TensorProto]) -> None:
    """Add the float value of a Constant node to ``weights``, to be converted with them."""
    if node.op_type != "Constant":
        return
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == _FLOAT:
            attribute.t.name = node.output[0]
            weights[node.output[0]] = attribute.t
