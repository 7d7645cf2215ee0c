"""Keeps a graph and its weights apart: a protobuf message has at most 2 GiB, denoisers have more.

    ApartModel    a graph, and its large weights, each of which is read when it is written
    open_apart    that of a file
    without_data  a weight of a graph whose values lie elsewhere
    nbytes        the size of a model's weights
    skeleton      a copy of the graph without its weights, for functions that serialise it
    on_skeleton   applies a function that serialises the graph (shape inference, conversions)
    stored_in     how to read a weight that lies in a file
    set_aside     put the weights into a file, so that the graph is small and its copies share them
    append        the same for one weight
    save          one file, or two where it is large

All changes of graphs in this package use these functions; a model's own ``ByteSize`` and
``SerializeToString`` raise EncodeError if it is large. The weights of a large model are never in
memory together: what exports or converts one reads and writes weight after weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from diffc_export.disks import write_array
from diffc_export.targets.base import Array

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

LARGEST_SINGLE_FILE = 256 * 2**20
"""Bytes of weights that are written into the graph's own file. Whatever reads or writes such a file
has the weights in memory more than once, and protobuf stops at 2 GiB."""
SMALL = 1024
"""Bytes: a constant that is no larger stays in the graph; it may be a shape, which shape inference
needs."""
_ALIGNMENT = 4096  # of a weight in its file: runtimes map whole pages of it

Read = Callable[[], Array]
"""Reads one weight."""


@dataclass
class ApartModel:
    """A graph, and the values of its large weights, which are read one at a time.

    Attributes:
        proto: The graph. The weights that ``values`` names have a type and a shape alone.
        values: How to read each of these weights, by its name.
    """

    proto: ModelProto
    values: dict[str, Read] = field(default_factory=dict)


def open_apart(path: Path) -> ApartModel:
    """The model of an ONNX file; weights that lie in another file are mapped when they are read."""
    import onnx

    model = ApartModel(onnx.load(path, load_external_data=False))
    for tensor in model.proto.graph.initializer:
        if is_apart(tensor):
            model.values[tensor.name] = stored_in(path.parent, tensor)
            del tensor.external_data[:]
    return model


def is_apart(tensor: TensorProto) -> bool:
    """Whether a weight's values lie elsewhere."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def stored_in(folder: Path, tensor: TensorProto) -> Read:
    """How to read a weight whose values lie in a file of ``folder``; the file is mapped."""
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    place = (folder / entries["location"], int(entries.get("offset", 0)))
    return _mapped(*place, dtype, tuple(tensor.dims))


def _mapped(path: Path, offset: int, dtype: Any, shape: Sequence[int]) -> Read:
    def read() -> Array:
        if not math.prod(shape):
            return np.empty(shape, dtype)
        size = (math.prod(shape) * dtype.itemsize,)
        values: Array = np.memmap(path, np.uint8, "r", offset, size).view(dtype).reshape(shape)
        return values

    return read


def without_data(name: str, data_type: int, shape: Sequence[int]) -> TensorProto:
    """A weight of a graph whose values lie elsewhere."""
    from onnx import TensorProto

    location = TensorProto.EXTERNAL
    return TensorProto(name=name, data_type=data_type, dims=shape, data_location=location)


def nbytes(model: ModelProto) -> int:
    """Return the bytes of all weights in a model's graph, in memory or in files."""
    return sum(map(_nbytes, model.graph.initializer))


def is_large(model: ModelProto) -> bool:
    """Whether the weights of a model get a file of their own."""
    return nbytes(model) > LARGEST_SINGLE_FILE


def skeleton(model: ModelProto) -> ModelProto:
    """Return a copy in which the large weights are inputs."""
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    _copy_fields(model, copy, ("graph",))
    _copy_fields(model.graph, copy.graph, ("initializer",))
    for tensor in model.graph.initializer:
        if _nbytes(tensor) > SMALL:
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
    large = {tensor.name for tensor in model.graph.initializer if _nbytes(tensor) > SMALL}
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


def _clear(message: Any, *leaving: str) -> None:
    for one, _ in message.ListFields():
        if one.name not in leaving:
            message.ClearField(one.name)


def _copy_fields(message: Any, to: Any, leaving: Collection[str] = ()) -> None:
    for one, value in message.ListFields():
        if one.name in leaving:
            continue
        if hasattr(value, "extend"):
            getattr(to, one.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(to, one.name).CopyFrom(value)
        else:
            setattr(to, one.name, value)


def set_aside(
    model: ModelProto, folder: Path, name: str, values: Mapping[str, Read] | None = None
) -> ModelProto:
    """Move the weights of ``model`` to the file ``folder/name``; a copy of it copies no weights.

    Models whose weights are in one folder may use each other's weights; a model must be saved
    there to be run.

    Args:
        model: The graph. Its weights are in memory but for those that ``values`` names.
        folder: Where the file is.
        name: The file's name.
        values: How to read the other weights; one of them is in memory at a time.
    """
    values = values or {}
    with (folder / name).open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.name in values or _nbytes(tensor) > SMALL:
                append(tensor, file, values.get(tensor.name))
    return model


def save(model: ModelProto, path: Path, values: Mapping[str, Read] | None = None) -> None:
    """Write ``path``, and ``path``.data beside it if the model is too large for one file.

    Args:
        model: The graph. Its weights are in memory but for those that ``values`` names; after they
            were written to ``path``.data, none is.
        path: The file.
        values: How to read the other weights; one of them is in memory at a time.
    """
    import onnx
    from onnx import numpy_helper

    values = values or {}
    if is_large(model):
        set_aside(model, path.parent, f"{path.name}.data", values)
    else:
        for tensor in model.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name](), tensor.name))
    onnx.save(model, path)


def append(tensor: TensorProto, file: BinaryIO, read: Read | None = None) -> None:
    """Append a weight to ``file``, and leave in ``tensor`` where it lies.

    ``read`` gives its values where they are not in ``tensor``.
    """
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor) if read is None else read()
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    place = {"location": Path(file.name).name, "offset": file.tell(), "length": array.nbytes}
    write_array(array, file)
    name, data_type, shape = tensor.name, tensor.data_type, list(tensor.dims)
    tensor.CopyFrom(without_data(name, data_type, shape))
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))


def _nbytes(tensor: TensorProto) -> int:
    """Return the bytes of one tensor; 4-bit types count as whole bytes."""
    from onnx import helper

    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * size)
