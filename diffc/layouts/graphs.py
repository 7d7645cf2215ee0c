"""diffc's graphs under the names and with the shapes by which diffusers' pipelines call a class.

A graph of diffc has a batch on every input. A pipeline gives one timestep to all rows, and FLUX's
gives the latent as tokens, and the place of each; transformers call their sample ``hidden_states``;
a text may end before its zeros. Only inputs and outputs change: the weights and every other node
stay, so that what was measured is what is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.models.families.base import PipelineCall
from diffc.models.files import read_json
from diffc_export.targets.onnx_file import DESCRIPTION

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, ValueInfoProto

TIMESTEP = "timestep"


def write_called(
    source: Path,
    call: PipelineCall,
    goal: Path,
    *,
    scalar_timestep: bool,
    zero_ended: Collection[str] = (),
) -> None:
    """Write the graph ``source`` as ``goal``, to be called in a pipeline's way.

    Args:
        source: A model.onnx of diffc, beside its model.json. Weights in a file beside it are
            copied, not read.
        call: The pipeline's way.
        goal: The ONNX file to write.
        scalar_timestep: True gives a whole timestep the shape (); any other has one dimension.
        zero_ended: Inputs (batch, rows, width) whose last rows are zeros, which a pipeline may
            leave out.
    """
    import onnx

    model = onnx.load(source, load_external_data=False)
    graph, before = model.graph, []
    if call.patch > 1:
        shape = read_json(source.with_name(DESCRIPTION))["inputs"][0]["shape"]
        apart, joined = _unpack_sample(graph, call.patch, shape), _pack(graph, call.patch, shape)
        _set_nodes(graph, [*apart, *graph.node, *joined])
    if any(value.name == TIMESTEP for value in graph.input):
        shape = () if scalar_timestep and call.whole_timestep else ("steps",)
        sample = graph.input[0].name
        before += _take_timestep(graph, call, shape, call.names.get(sample, sample))
    for value in graph.input:
        if value.name in zero_ended:
            before += _take_fewer_rows(graph, value)
    _rename(graph, call.names)
    _set_nodes(graph, [*before, *graph.node])
    _add_places(graph, call.places)
    onnx.save(model, goal)
    weights = source.with_name(f"{source.name}.data")
    if weights.is_file():
        shutil.copyfile(weights, goal.with_name(weights.name))


def _set_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    from onnx import NodeProto

    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors wherever the graph names them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]


def _take_timestep(
    graph: GraphProto, call: PipelineCall, shape: Sequence[str], sample: str
) -> list[NodeProto]:
    """Make the input ``timestep`` one number, or one a row, and return the nodes that spread it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    value = next(value for value in graph.input if value.name == TIMESTEP)
    kind, rows = value.type.tensor_type.elem_type, f"{TIMESTEP}_rows"
    _rename(graph, {TIMESTEP: rows})
    given = TensorProto.INT64 if call.whole_timestep else TensorProto.FLOAT
    value.CopyFrom(helper.make_tensor_value_info(TIMESTEP, given, list(shape)))
    factor = numpy_helper.from_array(np.float32(call.timestep_factor), f"{TIMESTEP}_factor")
    graph.initializer.append(factor)
    return [
        helper.make_node("Cast", [TIMESTEP], [f"{TIMESTEP}_real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{TIMESTEP}_real", factor.name], [f"{TIMESTEP}_here"]),
        helper.make_node("Cast", [f"{TIMESTEP}_here"], [f"{TIMESTEP}_cast"], to=kind),
        helper.make_node("Shape", [sample], [f"{TIMESTEP}_batch"], start=0, end=1),
        helper.make_node("Expand", [f"{TIMESTEP}_cast", f"{TIMESTEP}_batch"], [rows]),
    ]


def _take_fewer_rows(graph: GraphProto, value: ValueInfoProto) -> list[NodeProto]:
    """Let an input (batch, rows, width) have fewer rows, and return the nodes that add zeros."""
    import numpy as np
    from onnx import helper, numpy_helper

    name, whole = value.name, f"{value.name}_whole"
    kind = value.type.tensor_type.elem_type
    batch, rows, width = value.type.tensor_type.shape.dim
    _rename(graph, {name: whole})
    fewer = [batch.dim_param, f"{name}_rows", width.dim_value]
    full, zeros = f"{name}_full", {1: f"{name}_one_zero", 4: f"{name}_four_zeros"}
    numbers = {full: [rows.dim_value], **{zeros[n]: [0] * n for n in zeros}}
    for constant, numbers_of in numbers.items():
        tensor = numpy_helper.from_array(np.array(numbers_of, np.int64), constant)
        graph.initializer.append(tensor)
    value.CopyFrom(helper.make_tensor_value_info(name, kind, fewer))
    pads = f"{name}_pads"
    return [
        helper.make_node("Shape", [name], [f"{name}_given"], start=1, end=2),
        helper.make_node("Sub", [full, f"{name}_given"], [f"{name}_missing"]),
        helper.make_node("Concat", [zeros[4], f"{name}_missing", zeros[1]], [pads], axis=0),
        helper.make_node("Pad", [name, pads], [whole]),
    ]


def _add_places(graph: GraphProto, names: Sequence[str]) -> None:
    """Add inputs that the graph does not read, since it numbers its tokens itself."""
    from onnx import TensorProto, helper

    for name in names:
        shape = [f"{name}_rows", f"{name}_axes"]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _unpack_sample(graph: GraphProto, patch: int, shape: Sequence[int]) -> list[NodeProto]:
    """Make the first input tokens of patches, and return the nodes that give the latent back.

    Args:
        graph: Whose first input is a latent.
        patch: The height and width of a patch.
        shape: (C, H, W) of the latent.
    """
    from onnx import helper

    value, latent = graph.input[0], f"{graph.input[0].name}_latent"
    (channels, height, width), name = shape, value.name
    tokens = height // patch * (width // patch)
    _rename(graph, {name: latent})
    kind, batch = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim[0].dim_param
    packed = [batch, tokens, channels * patch**2]
    value.CopyFrom(helper.make_tensor_value_info(name, kind, packed))
    tiles = [-1, height // patch, width // patch, channels, patch, patch]
    whole = [-1, channels, height, width]
    return _turn(graph, (name, latent), tiles, (0, 3, 1, 4, 2, 5), whole)


def _pack(graph: GraphProto, patch: int, shape: Sequence[int]) -> list[NodeProto]:
    """Make the output tokens of patches, and return the nodes that pack the latent into them."""
    from onnx import helper

    (value,), (channels, height, width) = graph.output, shape
    latent, name, dims = f"{value.name}_latent", value.name, value.type.tensor_type.shape.dim
    tokens = [-1, height // patch * (width // patch), channels * patch**2]
    kind, batch = value.type.tensor_type.elem_type, dims[0].dim_param
    _rename(graph, {name: latent})
    value.CopyFrom(helper.make_tensor_value_info(name, kind, [batch, *tokens[1:]]))
    tiles = [-1, channels, height // patch, patch, width // patch, patch]
    return _turn(graph, (latent, name), tiles, (0, 2, 4, 1, 3, 5), tokens)


def _turn(
    graph: GraphProto,
    ends: tuple[str, str],
    tiles: Sequence[int],
    order: Sequence[int],
    whole: Sequence[int],
) -> list[NodeProto]:
    """Return the nodes that reshape a tensor into tiles, put their axes in order, and join them."""
    import numpy as np
    from onnx import helper, numpy_helper

    first, last = ends
    for name, shape in ((f"{first}_tiles", tiles), (f"{last}_whole", whole)):
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    return [
        helper.make_node("Reshape", [first, f"{first}_tiles"], [f"{first}_apart"]),
        helper.make_node("Transpose", [f"{first}_apart"], [f"{first}_turned"], perm=order),
        helper.make_node("Reshape", [f"{first}_turned", f"{last}_whole"], [last]),
    ]
