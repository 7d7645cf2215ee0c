"""Keeps a graph and its weights apart: a protobuf message has at most 2 GiB, denoisers have more.

    nbytes        the size of a model's weights
    skeleton      a copy of the graph without its weights, for functions that serialise it
    on_skeleton   applies a function that serialises the graph (shape inference, conversions)
    set_aside     put the weights into a file, so that the graph is small and its copies share them
    bring_back    the opposite
    save          one file, or two where it is large

All changes of graphs in this package use these functions; a model's own ``ByteSize`` and
``SerializeToString`` raise EncodeError if it is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

LARGEST_SINGLE_FILE = 1_900_000_000  # bytes; protobuf stops at 2 GiB
_SMALL = 1024  # bytes; a smaller constant may be a shape, which shape inference needs


def nbytes(model: ModelProto) -> int:
    """Return the bytes of all weights in a model's graph, in memory or in files."""
    return sum(map(_nbytes, model.graph.initializer))


def skeleton(model: ModelProto) -> ModelProto:
    """Return a copy in which the large weights are inputs."""
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    _copy_fields(model, copy, ("graph",))
    _copy_fields(model.graph, copy.graph, ("initializer",))
    for tensor in model.graph.initializer:
        if _nbytes(tensor) > _SMALL:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(value)
        else:
            copy.graph.initializer.append(tensor)
    return copy


def on_skeleton(model: ModelProto, change: Callable[[ModelProto], ModelProto]) -> None:
    """Apply ``change`` to ``model``, in place; ``change`` sees the large weights as inputs.

    Args:
        change: A model -> another model, in which weights that are still read keep their names.
    """
    large = {tensor.name for tensor in model.graph.initializer if _nbytes(tensor) > _SMALL}
    changed = change(skeleton(model))
    inputs = [value for value in changed.graph.input if value.name not in large]
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    read = {name for node in changed.graph.node for name in node.input}
    read |= {value.name for value in changed.graph.output}
    weights = model.graph.initializer
    for index in reversed(range(len(weights))):
        if weights[index].name not in large & read:
            del weights[index]
    weights.extend(changed.graph.initializer)
    _clear(model.graph, "initializer")
    _copy_fields(changed.graph, model.graph, ("initializer",))
    _clear(model, "graph")
    _copy_fields(changed, model, ("graph",))


def _clear(message: Any, leaving: str) -> None:
    for field, _ in message.ListFields():
        if field.name != leaving:
            message.ClearField(field.name)


def _copy_fields(message: Any, to: Any, leaving: Collection[str] = ()) -> None:
    for field, value in message.ListFields():
        if field.name in leaving:
            continue
        if hasattr(value, "extend"):
            getattr(to, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(to, field.name).CopyFrom(value)
        else:
            setattr(to, field.name, value)


def set_aside(model: ModelProto, folder: Path, name: str) -> ModelProto:
    """Move the weights of ``model`` to the file ``folder/name``; a copy of it copies no weights.

    Models whose weights are in one folder may use each other's weights; a model must be saved
    there to be run.
    """
    from onnx import external_data_helper as external

    external.convert_model_to_external_data(model, location=name, size_threshold=_SMALL)
    external.write_external_data_tensors(model, str(folder))
    return model


def bring_back(model: ModelProto, folder: Path) -> ModelProto:
    """Load the weights of ``model`` into memory again, and return it."""
    from onnx import external_data_helper as external

    external.load_external_data_for_model(model, str(folder))
    return model


def save(model: ModelProto, path: Path) -> None:
    """Write ``path``, and ``path``.data beside it if the model is too large for one file.

    The model's weights must be in memory. If they are written to ``path``.data, they are no longer
    in memory afterwards.
    """
    import onnx

    large = nbytes(model) > LARGEST_SINGLE_FILE
    location = f"{path.name}.data" if large else None
    onnx.save(model, path, save_as_external_data=large, location=location)


def _nbytes(tensor: TensorProto) -> int:
    """Return the bytes of one tensor; 4-bit types count as whole bytes."""
    from onnx import helper

    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * size)
