"""The ONNX folder as builders take it: read, and checked before any library sees it.

Runtimes answer a bad file in many ways: TensorRT parses junk "successfully" into an empty network,
names a missing external file only in its log, and crashes or hangs on others. So what can be said
of the file is said here, with the file's, node's or input's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffc_export.targets.onnx_precision import file_elements, file_precision, shares
from diffc_runtime.errors import InputError, value_words
from diffc_runtime.files import files_digest
from diffc_runtime.values import Input

MODEL = "model.onnx"
DESCRIPTION = "model.json"
REFERENCE = "reference.safetensors"


Size = tuple[int, int]
"""(H, W)."""


def size_words(size: Sequence[int]) -> str:
    """'24x24', of (H, W)."""
    return "x".join(map(str, size))


def reference_prefix(size: Size | None) -> str:
    """What a reference's tensors at a size begin with: 'at.24x24.'; '' at the working one, None."""
    return "" if size is None else f"at.{size_words(size)}."


@dataclass(frozen=True)
class InputSpec(Input):
    """A graph's input or output, as the runtime has it, and its sizes.

    sizes: what the last two dimensions are built for, those of ``shape`` first; empty: fixed.
    """

    sizes: tuple[Size, ...] = ()

    def shape_at(self, size: Size | None) -> tuple[int, ...]:
        """The shape where the sample has ``size``; None, and a fixed input: ``shape``."""
        return (*self.shape[:-2], *size) if self.sizes and size is not None else self.shape


def sizes_of(specs: Iterable[InputSpec]) -> tuple[Size, ...]:
    """What the sample among ``specs`` is built for; empty where it is fixed."""
    return next((spec.sizes for spec in specs if spec.sizes), ())


@dataclass(frozen=True)
class OnnxModel:
    """A checked ONNX file. content: what model.json says, kept whole for engine.json.

    files: the ONNX file first, then its external data. shares: of the weights of convolutions and
    matrix products, by the precision that the file has them in. fixed: input -> its batch size,
    where the graph allows only one (another exporter's; diffc's files take any).
    """

    path: Path
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    content: Mapping[str, Any]
    files: tuple[Path, ...]
    shares: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) that the sample may have, the working one first; empty: its shape is fixed."""
        return sizes_of(self.inputs)

    @property
    def precision(self) -> str:
        """What the file holds, by model.json, else by its weights."""
        return str(self.content.get("precision") or file_precision(self.shares))

    @property
    def reference(self) -> Path:
        """What torch gave on known inputs; may be missing."""
        return self.path.parent / REFERENCE


def read_onnx(source: Path) -> OnnxModel:
    """Read and check an ONNX folder, or a plain .onnx file.

    Raises InputError naming the file, node or input that is wrong.
    """
    path = source / MODEL if source.is_dir() else source
    content = _description(path.parent) if source.is_dir() else {}
    model = _parse(path)
    files = (path, *_external_files(model, path))
    _check_hashes(path.parent, content)
    _check_types(model, path)
    described = _by_name(content, path)
    inputs = tuple(_graph_spec(v, path, described.get(v.name)) for v in _real_inputs(model))
    moving = _output(content) if sizes_of(inputs) else {}
    outputs = tuple(
        replace(_graph_spec(v, path, moving.get(v.name)), sizes=()) for v in model.graph.output
    )
    inputs = _described(inputs, content, path)
    weight_shares, fixed = shares(file_elements(model.graph)), _fixed_batch(model)
    return OnnxModel(path, inputs, outputs, content, files, weight_shares, fixed)


def _by_name(content: Mapping[str, Any], path: Path) -> dict[str, Mapping[str, Any]]:
    """model.json's inputs by name. Raises InputError for sizes that are none."""
    described = {item["name"]: item for item in content.get("inputs", ())}
    for name, item in described.items():
        sizes = item.get("sizes", [])
        good = isinstance(sizes, list) and all(_is_size(size) for size in sizes)
        if not good or (sizes and sizes[0] != list(item["shape"])[-2:]):
            raise InputError(
                f"{path.parent / DESCRIPTION}: the sizes of input '{name}' are {sizes}",
                hint="they are [height, width] each, that of its shape first",
            )
    return described


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(
        isinstance(side, int) and side > 0 for side in value
    )  # fmt: skip


def _output(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """model.json's output by name, as one of the sample's sizes: at others it grows with it."""
    item = content.get("output")
    return {item["name"]: {**item, "sizes": [item["shape"][-2:]]}} if item else {}


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        hint = f"an ONNX folder holds {MODEL} and {DESCRIPTION}; `diffc export` writes one"
        raise InputError(f"{path} is missing", hint=hint) from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
        raise InputError(f"{path} does not describe an ONNX file (no list of inputs)")
    for item in content["inputs"]:
        for key, kind in (("name", str), ("shape", list), ("dtype", str)):
            if not isinstance(item, dict) or not isinstance(item.get(key), kind):
                raise InputError(f"{path}: an input has no {key}: {value_words(item)}")
    return content


def _check_hashes(folder: Path, content: Mapping[str, Any]) -> None:
    """Compare the files with the hash that the exporter wrote, where it wrote one."""
    written = content.get("sha256")
    if written and (folder / MODEL).is_file() and onnx_digest(folder) != written:
        raise InputError(
            f"{folder / MODEL} or its data were cut or altered since the export",
            hint="export it again: `diffc export`",
        )


def onnx_digest(folder: Path) -> str:
    """model.json's ``sha256``: over the names and hashes of model.onnx and its external data."""
    return files_digest(folder.glob(MODEL + "*"))


def _parse(path: Path) -> Any:
    """The graph without its external data (an onnx.ModelProto)."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="`diffc export` writes it")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not a protobuf"
        raise InputError(f"{path} is not an ONNX file, or was cut short ({reason})") from None
    if not model.graph.node:
        raise InputError(f"{path} holds no ONNX graph: it has no nodes")
    return model


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _external_files(model: Any, path: Path) -> list[Path]:
    """The external data files, each there and long enough for every tensor in it."""
    external = 1  # onnx.TensorProto.EXTERNAL
    needed: dict[Path, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location == external:
            file, end = _external_end(tensor, path)
            needed[file] = max(needed.get(file, 0), end)
    for file, size in needed.items():
        if not file.is_file():
            raise InputError(f"{path} keeps its weights in {file.name}, which is missing")
        if file.stat().st_size < size:
            length = file.stat().st_size
            raise InputError(f"{file} was cut short: {length} bytes of at least {size}")
    return sorted(needed)


def _external_end(tensor: Any, path: Path) -> tuple[Path, int]:
    """Where a tensor's data lie and where they end. Refuses a path outside the folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = Path(entries.get("location", ""))
    if location.is_absolute() or ".." in location.parts or location == Path():
        raise InputError(f"{path}: tensor '{tensor.name}' points outside its folder: '{location}'")
    try:
        offset, length = (int(entries.get(key, 0)) for key in ("offset", "length"))
    except ValueError as error:
        raise InputError(f"{path}: where tensor '{tensor.name}' lies is damaged: {error}") from None
    return path.parent / location, offset + length


def _check_types(model: Any, path: Path) -> None:
    """Raise InputError naming the node whose inputs' types do not go together."""
    import onnx

    try:
        onnx.shape_inference.infer_shapes(model, check_type=True)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: the types of a node's inputs do not fit: {reason}") from None


def _real_inputs(model: Any) -> list[Any]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _fixed_batch(model: Any) -> dict[str, int]:
    """The inputs that take one batch size only, and which."""
    first = {v.name: next(iter(v.type.tensor_type.shape.dim), None) for v in _real_inputs(model)}
    return {
        name: int(dim.dim_value)
        for name, dim in first.items()
        if dim is not None and dim.HasField("dim_value")
    }


def _graph_spec(value: Any, path: Path, item: Mapping[str, Any] | None) -> InputSpec:
    """A graph's input or output; item: what model.json says of it.

    Where that lists sizes, the last two dimensions are dynamic, and no others but the batch.
    """
    from onnx import helper

    tensor = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    sizes = tuple((h, w) for h, w in item.get("sizes", ())) if item else ()
    if sizes and item and dims[-2:] == [-1, -1]:
        dims[-2:] = item["shape"][-2:]
    elif sizes:
        mismatch = f"'{value.name}' is fixed at {dims[1:]}, {DESCRIPTION} lists {len(sizes)} sizes"
        raise InputError(f"{path}: {mismatch}")
    if not dims or -1 in dims[1:]:
        shape = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        reason = f"'{value.name}' has shape {shape}"
        hint = "every dimension but a leading batch must be fixed"
        hint += f", or have its sizes in {DESCRIPTION}"
        raise InputError(f"{path}: {reason}", hint=hint)
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise InputError(f"{path}: '{value.name}' has no type of numbers") from None
    if dtype == "object":
        raise InputError(f"{path}: '{value.name}' is of texts, and engines take numbers")
    return InputSpec(value.name, tuple(dims[1:]), dtype, sizes=sizes)


def _described(
    inputs: tuple[InputSpec, ...], content: Mapping[str, Any], path: Path
) -> tuple[InputSpec, ...]:
    """The graph's inputs with the kinds that model.json gives; both must agree."""
    if not content:
        return inputs
    described = {item["name"]: item for item in content["inputs"]}
    names = {spec.name for spec in inputs}
    if names != set(described):
        mismatch = f"{path} has inputs {sorted(names)}, {DESCRIPTION} describes {sorted(described)}"
        raise InputError(mismatch)
    for spec in inputs:
        item = described[spec.name]
        if tuple(item["shape"]) != spec.shape or item["dtype"] != spec.dtype:
            mismatch = (
                f"{spec.dtype} {spec.shape}, {DESCRIPTION} says {item['dtype']} {item['shape']}"
            )
            raise InputError(f"{path}: input '{spec.name}' is {mismatch}")
    kinds = {name: str(item.get("kind", "condition")) for name, item in described.items()}
    return tuple(replace(spec, kind=kinds[spec.name]) for spec in inputs)
