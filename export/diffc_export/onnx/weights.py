"""A graph and its weights apart: protobuf takes no message above 2 GiB, and denoisers are larger.

    nbytes        what a model's weights take
    skeleton      a copy of the graph without its weights, for what serialises it
    on_skeleton   a change of a graph (shape inference, conversions) that serialises it
    set_aside     put the weights into a file, so that the graph is small and its copies share them
    bring_back    the opposite
    save          one file, or two where it is large

Whatever is done to a graph in this package goes through these; a model's own ``ByteSize`` and
``SerializeToString`` raise EncodeError on a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

LARGEST_SINGLE_FILE = 1_900_000_000  # bytes; protobuf stops at 2 GiB
_SMALL = 1024  # bytes; below, a constant may be a shape, which inference has to know


def nbytes(model: Any) -> int:
    """The bytes of all weights in a model's graph, wherever they are kept."""
    return sum(map(_nbytes, model.graph.initializer))


def skeleton(model: Any) -> Any:
    """A copy in which the large weights are inputs."""
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


def on_skeleton(model: Any, change: Callable[[Any], Any]) -> None:
    """``model`` becomes ``change(model)``, in place; ``change`` sees the large weights as inputs.

    change: a model -> another one, in which the weights that are still read have their names.
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


def set_aside(model: Any, folder: Path, name: str) -> Any:
    """``model`` with its weights in ``folder``/``name``, in place; a copy of it copies no weights.

    Models set aside in one folder may take each other's weights; saved there, they can be run.
    """
    from onnx import external_data_helper as external

    external.convert_model_to_external_data(model, location=name, size_threshold=_SMALL)
    external.write_external_data_tensors(model, str(folder))
    return model


def bring_back(model: Any, folder: Path) -> Any:
    """``model`` with its weights in memory again, in place."""
    from onnx import external_data_helper as external

    external.load_external_data_for_model(model, str(folder))
    return model


def save(model: Any, path: Path) -> None:
    """Write ``path``, and ``path``.data beside it where one file cannot hold the whole.

    The model's weights are in memory; where they were written beside it they are no longer.
    """
    import onnx

    large = nbytes(model) > LARGEST_SINGLE_FILE
    location = f"{path.name}.data" if large else None
    onnx.save(model, path, save_as_external_data=large, location=location)


def _nbytes(tensor: Any) -> int:
    """Bytes of one tensor; 4-bit types count as whole bytes."""
    from onnx import helper

    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * size)
