"""Finds the problems of a model repository, without a server.

Parsing config.pbtxt as the protobuf message finds unknown fields and enum names, with their line.
The other problems are found here: the server reports them only in its log, when it loads the model,
or (a duplicate input) not at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.bundle.triton_config import TENSORRT, backend_shape, config_messages

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput

_PLATFORMS = {"onnxruntime_onnx": "model.onnx", "tensorrt_plan": "model.plan"}
_BACKENDS = {"python": "model.py", "onnxruntime": "model.onnx", "tensorrt": "model.plan"}


def find_problems(repository: Path) -> list[str]:
    """Return every problem, with the name of its model; [] if there is none."""
    models = sorted(p for p in repository.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not models:
        return [f"{repository} holds no model"]
    return [f"{model.name}: {what}" for model in models for what in _model_problems(model)]


def _model_problems(folder: Path) -> Iterator[str]:
    from google.protobuf import text_format

    path = folder / "config.pbtxt"
    if not path.is_file():
        yield "no config.pbtxt"
        return
    try:
        config = text_format.Parse(path.read_text(), config_messages().ModelConfig())
    except text_format.ParseError as error:
        yield f"config.pbtxt:{error}"
        return
    if config.name != folder.name:
        yield f"the config's name is '{config.name}', the folder's '{folder.name}'"
    yield from _files(config, folder)
    yield from _tensors("input", config.input, config.max_batch_size)
    yield from _tensors("output", config.output, config.max_batch_size)
    yield from _batching(config)
    yield from _instances(config)
    yield from _warm_up(config)
    yield from _graphs(config)


def _files(config: ModelConfig, folder: Path) -> Iterator[str]:
    known = _PLATFORMS.get(config.platform) or _BACKENDS.get(config.backend)
    if known is None:
        yield f"unknown platform '{config.platform}' and backend '{config.backend}'"
        return
    versions = [p for p in folder.iterdir() if p.is_dir() and p.name.isdigit() and int(p.name) > 0]
    if not versions:
        yield "no version folder (1, 2, ...)"
    needed = [config.default_model_filename or known, *config.cc_model_filenames.values()]
    for version in versions:
        for name in needed:
            if not (version / name).exists():
                yield f"{version.name}/{name} is missing"


def _tensors(kind: str, tensors: Sequence[ModelInput], max_batch: int) -> Iterator[str]:
    if not tensors:
        yield f"no {kind}"
    for name, count in Counter(tensor.name for tensor in tensors).items():
        if count > 1:
            yield f"{kind} '{name}' is there {count} times"
    for tensor in tensors:
        where = f"{kind} '{tensor.name}'"
        if tensor.data_type == 0:
            yield f"{where} has no data_type"
        if not tensor.dims:
            yield f"{where} has no dims"
        if any(dim == 0 or dim < -1 for dim in tensor.dims):
            yield f"{where} has dims {list(tensor.dims)}"
        if tensor.HasField("reshape") and _elements(tensor.reshape.shape) != _elements(tensor.dims):
            yield f"{where} is reshaped from {list(tensor.dims)} to {list(tensor.reshape.shape)}"
        if tensor.HasField("reshape") and not tensor.reshape.shape and max_batch == 0:
            yield f"{where} is reshaped to no dimensions without a batch"


def _elements(dims: Sequence[int]) -> int:
    return math.prod(dims)


def _batching(config: ModelConfig) -> Iterator[str]:
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}"
    if not config.HasField("dynamic_batching"):
        return
    if config.max_batch_size == 0:
        yield "dynamic_batching needs a max_batch_size above 0"
    for size in config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= config.max_batch_size:
            yield f"preferred_batch_size {size} is outside 1..{config.max_batch_size}"


def _instances(config: ModelConfig) -> Iterator[str]:
    for group in config.instance_group:
        if group.count < 1:
            yield f"instance_group has count {group.count}"
        if config.platform == TENSORRT:
            yield from _profiles(config, list(group.profile))
        elif group.profile:
            yield "optimisation profiles belong to the TensorRT backend alone"


def _profiles(config: ModelConfig, opened: list[str]) -> Iterator[str]:
    """Check the profiles that the backend opens; the best batch of each is warmed up."""
    wrong = [name for name in opened if not name.isdigit()]
    if wrong:
        yield f"instance_group has profile '{wrong[0]}', which is not an index"
    if len(set(opened)) != len(opened):
        yield f"instance_group has a profile twice: {', '.join(opened)}"
    sizes = len(config.model_warmup)
    if max(len(opened), 1) < sizes:
        yield f"instance_group opens {len(opened) or 'no'} profiles for {sizes} tuned batch sizes"


def _warm_up(config: ModelConfig) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in config.input}
    for sample in config.model_warmup:
        where = f"model_warmup '{sample.name}'"
        if sample.batch_size > config.max_batch_size:
            yield f"{where} has batch_size {sample.batch_size} of {config.max_batch_size}"
        if set(sample.inputs) != {n for n, tensor in inputs.items() if not tensor.optional}:
            yield f"{where} gives {sorted(sample.inputs)}, the inputs are {sorted(inputs)}"
            continue
        for name, entry in sample.inputs.items():
            if entry.data_type != inputs[name].data_type:
                yield f"{where}: input '{name}' has another data_type"
            if not _fits(entry.dims, inputs[name].dims):
                yield f"{where}: input '{name}' has dims {list(entry.dims)}"


def _fits(given: Sequence[int], declared: Sequence[int]) -> bool:
    pairs = list(zip(given, declared, strict=False))
    same = all(d == g or (d == -1 and g > 0) for g, d in pairs)
    return same and len(given) == len(declared)


def _graphs(config: ModelConfig) -> Iterator[str]:
    cuda = config.optimization.cuda
    if cuda.graphs and config.platform != "tensorrt_plan" and config.backend != "tensorrt":
        yield "CUDA graphs belong to the TensorRT backend alone"
    inputs = {tensor.name: tensor for tensor in config.input}
    for spec in cuda.graph_spec:
        if spec.batch_size > config.max_batch_size:
            yield f"graph_spec has batch_size {spec.batch_size} of {config.max_batch_size}"
        for name, shape in spec.input.items():
            if name not in inputs or not _fits(shape.dim, backend_shape(inputs[name])):
                yield f"graph_spec: input '{name}' has dims {list(shape.dim)}"
