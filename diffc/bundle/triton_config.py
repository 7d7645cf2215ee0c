"""Writes config.pbtxt from Triton's own protobuf message.

Shapes leave the batch out where the server batches (``max_batch_size`` above 0). An input of shape
(batch,) is declared ``dims: [1] reshape: {}``: Triton has no input without dimensions, so clients
send (batch, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from diffc.errors import UnavailableError
from diffc_export.targets import on_gpu, target
from diffc_runtime.calls import PROMPTS, REQUEST, served_name
from diffc_runtime.images import is_picture
from diffc_runtime.json_types import JsonObject

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelInstanceGroup

    from diffc.bundle.contents import BundleContents

QUEUE_DELAY_US = 0
"""How long a request waits for others to share a batch with: not at all. Those that come while a
batch runs share the next; a wait would be added to every step of a client that is alone."""

LEAST_SHARED = 8
"""The least number of rows in a batch of steps, if the backend serves any batch."""


TENSORRT = "tensorrt_plan"


def config_messages() -> ModuleType:
    """Return the module that holds Triton's ModelConfig.

    Raises:
        UnavailableError: tritonclient is missing.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        hint = "pip install 'diffc[triton]', or --server none for a folder without a server"
        raise UnavailableError(
            f"a Triton model repository needs tritonclient[grpc] ({error})", hint=hint
        ) from None
    module: ModuleType = model_config_pb2
    return module


def to_text(config: ModelConfig) -> str:
    """Return a ModelConfig as the text of config.pbtxt."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config))


def batch_ranges(info: JsonObject) -> list[tuple[int, int, int]]:
    """Return (min, opt, max) batch of each profile at the engine's own resolution, sorted."""
    from diffc_runtime.engines import serves

    items = (next(iter(p.values())) for p in info["profiles"] if serves(p, info))
    return sorted((r["min"][0], r["opt"][0], r["max"][0]) for r in items)


def largest_batch(info: JsonObject) -> int:
    """Return the largest batch that the engine serves; 0 if it has no limit."""
    return max((high for _, _, high in batch_ranges(info)), default=0)


def max_batch(info: JsonObject) -> int:
    """Return ``max_batch_size``; 0 if the server must not batch, because some sizes are not served.

    A TensorRT engine with one static profile per batch serves 1, 4 and 8, say, but not 3. ONNX
    Runtime serves more than it was measured at, so the steps of several requests can always share a
    batch; a decoder, whose images are large, keeps to the batches that it was measured at.
    """
    backend = target(info["target"]).facts.triton
    most = largest_batch(info)
    if backend is not None and backend.any_batch:
        steps = any(item["kind"] == "timestep" for item in info["inputs"])
        return max(most, LEAST_SHARED if steps else 0) or 64
    served = {size for low, _, high in batch_ranges(info) for size in range(low, high + 1)}
    return most if served == set(range(1, most + 1)) else 0


def no_batching_note(info: JsonObject) -> str | None:
    """Return a line for an engine whose steps cannot share a batch; None if they can."""
    if max_batch(info) > 1:
        return None
    sizes = ", ".join(str(size) for size in sorted({high for _, _, high in batch_ranges(info)}))
    return (
        f"`denoiser` serves batches of {sizes} alone, so the server cannot put the steps of"
        " different requests together: for `pipeline_bls` build with --batch 1,4,8 --one-profile"
    )


def engine_model(
    name: str, info: JsonObject, *, native: bool, plans: Mapping[str, str]
) -> ModelConfig:
    """Return the config of a model that runs an engine.

    Args:
        name: The model's name.
        info: The engine's engine.json.
        native: True runs it under its own backend, False in Python.
        plans: Compute capability -> the engine's file for it.
    """
    pb = config_messages()
    backend = target(info["target"]).facts.triton
    most = max_batch(info)
    config = pb.ModelConfig(name=name, max_batch_size=most)
    if native and backend is not None:
        config.platform = backend.platform
        config.default_model_filename = backend.file
    else:
        config.backend = "python"
    if len(plans) > 1:
        config.cc_model_filenames.update(plans)
    for item in info["inputs"]:
        config.input.append(_tensor(pb.ModelInput, item, most))
    for item in info["outputs"]:
        config.output.append(_tensor(pb.ModelOutput, _at_every_size(item, info), most))
    config.instance_group.append(_instances(info["target"], 1, native))
    _batch_dynamically(config, info)
    _warm_up(config, info)
    if native and backend is not None and backend.platform == TENSORRT:
        config.instance_group[0].profile.extend(_profile_names(info))
        _capture_graphs(config, info)
    return config


def _profile_names(info: JsonObject) -> list[str]:
    """Return the profiles at the engine's own resolution, by their index in the engine.

    If the config names none, the backend opens the engine's first profile alone.
    """
    from diffc_runtime.engines import serves

    return [str(i) for i, profile in enumerate(info["profiles"]) if serves(profile, info)]


def backend_shape(tensor: ModelInput) -> list[int]:
    """Return the shape that the backend sees, without the server's batch: the reshape's if there is
    one.
    """
    return list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)


def _tensor(kind: type[ModelInput], item: JsonObject, most: int) -> ModelInput:
    """Return an input or output; without server batching its first dimension is the batch."""
    pb = config_messages()
    dims = list(item["shape"])
    tensor = kind(name=item["name"], data_type=_data_type(item["dtype"]))
    if most == 0:
        tensor.dims.extend([-1, *dims])
    elif dims:
        tensor.dims.extend(dims)
    else:
        tensor.dims.append(1)
        tensor.reshape.CopyFrom(pb.ModelTensorReshape())
    return tensor


def _at_every_size(output: JsonObject, info: JsonObject) -> JsonObject:
    """Return an output of engine.json as the engine has it: -1 for what varies with the size.

    A backend refuses a config whose output has other dimensions than its model's. An input may be
    declared at one size of several.
    """
    if not any(item.get("sizes") for item in info["inputs"]):
        return output
    return {**output, "shape": [*output["shape"][:-2], -1, -1]}


def _data_type(dtype: str) -> int:
    pb = config_messages()
    names = {"float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}
    return int(pb.DataType.Value(names.get(dtype, f"TYPE_{dtype.upper()}")))


def _instances(name: str, count: int, native: bool) -> ModelInstanceGroup:
    pb = config_messages()
    gpu = native and on_gpu(name)
    kind = pb.ModelInstanceGroup.KIND_GPU if gpu else pb.ModelInstanceGroup.KIND_CPU
    return pb.ModelInstanceGroup(count=count, kind=kind)


def _batch_dynamically(config: ModelConfig, info: JsonObject) -> None:
    """Let requests of several clients share a batch, best in the sizes of the engine's tuning."""
    if config.max_batch_size < 2:
        return
    sizes = sorted({opt for _, opt, _ in batch_ranges(info) if opt > 1} | {config.max_batch_size})
    config.dynamic_batching.preferred_batch_size.extend(sizes)
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US


def _warm_up(config: ModelConfig, info: JsonObject) -> None:
    """Warm up with zeros at every batch size that the engine is tuned for."""
    pb = config_messages()
    sizes = sorted({opt for _, opt, _ in batch_ranges(info)}) or [1]
    for size in sizes:
        sample = pb.ModelWarmup(
            name=f"batch_{size}", batch_size=size if config.max_batch_size else 0
        )
        for tensor in config.input:
            entry = sample.inputs[tensor.name]
            entry.data_type, entry.zero_data = tensor.data_type, True
            entry.dims.extend(size if dim == -1 else dim for dim in tensor.dims)
        config.model_warmup.append(sample)


def _capture_graphs(config: ModelConfig, info: JsonObject) -> None:
    """Capture CUDA graphs for the shapes that the engine is tuned for, and for full batches."""
    cuda = config.optimization.cuda
    cuda.graphs, cuda.output_copy_stream = True, True
    for size in sorted({opt for _, opt, _ in batch_ranges(info)} | {largest_batch(info)}):
        spec = cuda.graph_spec.add(batch_size=size if config.max_batch_size else 0)
        for tensor in config.input:
            # the backend puts the batch before these dims, and looks at no reshape
            dims = (size if d == -1 else d for d in backend_shape(tensor))
            spec.input[tensor.name].dim.extend(dims)


# The pipeline models ------------------------------------------------------------------------------


def bls_instances(info: JsonObject) -> int:
    """Return the number of loops at a time: the rows in a batch of the denoiser, from 2 to 8."""
    return min(max(max_batch(info), largest_batch(info), 2), 8)


def pipeline_model(
    name: str, contents: BundleContents, instances: int, *, several_sizes: bool = False
) -> ModelConfig:
    """Return the config of a model that makes images.

    Only the conditions are required inputs, and not even they where prompts are taken: a request
    has either.

    Args:
        name: The model's name.
        contents: The engines.
        instances: How many requests it works at.
        several_sizes: Whether a request may ask for another size than the usual one.
    """
    pb = config_messages()
    config = pb.ModelConfig(name=name, backend="python")
    for field, dtype in REQUEST.items():
        config.input.add(name=field, data_type=_data_type(dtype), dims=[1], optional=True)
    for field in PROMPTS if contents.texts else ():
        config.input.add(name=field, data_type=pb.TYPE_STRING, dims=[-1], optional=True)
    for item in contents.info["inputs"]:
        if item["kind"] == "condition":
            kind, dims = _data_type(item["dtype"]), [-1, *item["shape"]]
            name, either = served_name(item["name"]), bool(contents.texts)
            config.input.add(name=name, data_type=kind, dims=dims, optional=either)
            none = f"unconditional_{item['name']}"
            config.input.add(name=none, data_type=kind, dims=dims, optional=True)
    shape = sample_shape(contents)
    channels, *size = (*shape[:-2], -1, -1) if several_sizes else shape
    if is_picture(shape):
        config.output.add(name="images", data_type=pb.TYPE_UINT8, dims=[-1, *size, channels])
    config.output.add(name="samples", data_type=pb.TYPE_FP32, dims=[-1, channels, *size])
    if contents.texts:
        config.output.add(name="notes", data_type=pb.TYPE_STRING, dims=[-1])
    config.instance_group.append(_instances(contents.target, instances, native=False))
    return config


def sample_shape(contents: BundleContents) -> tuple[int, ...]:
    """Return (C, H, W) of the pipeline's result: the decoder's output, else the sample's."""
    decoder = contents.decoder_info
    if decoder is not None:
        return tuple(decoder["outputs"][0]["shape"])
    sample = next(item for item in contents.info["inputs"] if item["kind"] == "sample")
    return tuple(sample["shape"])
