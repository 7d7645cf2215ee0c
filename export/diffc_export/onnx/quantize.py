"""int8 or fp8 written into the ONNX file: Q/DQ pairs before each convolution and matrix product.

    calibrate    the ranges of activations, over denoising trajectories of the dense model itself:
                 an activation's range changes tenfold from noise to image, so every timestep counts
    quantize     Q/DQ on inputs (per tensor) and weights (per channel, symmetric); biases, outputs
                 and every other operator stay in float: TensorRT and OpenVINO fuse these pairs,
                 ONNX Runtime's CPU kernels do not (they want outputs in int8 too)
                 int8 inputs are symmetric, as TensorRT wants them, or uint8 with a zero point where
                 the runtime takes one: most layers read a SiLU's output, which is hardly ever
                 negative, so a zero point makes their steps nearly half as large
                 fp8 (E4M3, for TensorRT): the same places, every tensor with one scale
    sensitive    each layer's own effect on the output, measured; those that spoil most for the work
                 they save stay in fp32 until the whole is within the tolerance

Ranges and Q/DQ are onnxruntime.quantization's; runs are ONNX Runtime's on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffc_runtime.errors import CheckFailed, InputError, RequestError

from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work
from diffc_export.onnx.precision import write_folder
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE, bring_back, set_aside, skeleton
from diffc_export.targets import ort
from diffc_export.targets.base import Array
from diffc_export.targets.onnx_file import OnnxModel, read_onnx

Feed = Mapping[str, Array]
PRECISIONS = ("int8", "fp8")
_OPERATORS = ["Conv", "MatMul", "Gemm"]
_FP8_MOST = 448.0  # the largest E4M3 number
_ROWS = 6  # steps of the trajectories that errors are measured on, beside the noise levels


@dataclass(frozen=True)
class QuantizeOptions:
    """trajectories: seeds to calibrate on. tolerance: relative L2 error that the whole may have.

    keep_most: the largest share of layers that may stay in fp32; beyond it int8 is given up.
    asymmetric: int8 inputs of layers are uint8 with a zero point; fp8 has none.
    """

    trajectories: int = 4
    tolerance: float = 0.1
    keep_most: float = 0.5
    threads: int = 1
    asymmetric: bool = False


def quantize(
    folder: Path,
    out: Path,
    options: QuantizeOptions,
    calibration: Path | None = None,
    precision: str = "int8",
) -> Work[dict[str, Any]]:
    """Write ``out``, an int8 or fp8 ONNX folder, from the fp32 ``folder``; returns its model.json.

    calibration: the ONNX folder whose trajectories are used (the dense model's); None: ``folder``.
    ``kept_fp32`` in model.json names the layers that stay in fp32, ``int8_error`` (``fp8_error``)
    the error left. Raises CheckFailed when more than ``keep_most`` of the layers would have to
    stay, RequestError for another precision.
    """
    import onnx

    if precision not in PRECISIONS:
        raise RequestError(f"'{precision}' is not quantised to", hint=f"known: {list(PRECISIONS)}")
    source = read_onnx(folder)
    if source.precision != "fp32":
        raise InputError(f"{source.path} is {source.precision} already, fp32 is needed")
    feeds = yield from trajectory_feeds(read_onnx(calibration or folder), options)
    yield Progress(0, None, "calibrating")
    plain = onnx.load(source.path)
    if precision == "fp8":
        whole = _quantized(source, feeds, per_channel=False)
        to_fp8(whole, plain)
    else:
        whole = _quantized(source, feeds, asymmetric=options.asymmetric)
    layers = _layers(plain, whole)
    # over the length of the trajectories, not the same step of each
    rows = [feeds[i] for i in np.linspace(0, len(feeds) - 1, _ROWS).astype(int)]
    rows += noise_levels(source)
    work = layer_macs(plain, rows[0] if source.sizes else None)
    with temporary_folder(sum(path.stat().st_size for path in source.files)) as scratch:
        session = Comparison(plain, whole, layers, rows, options.threads, scratch)
        kept, error = yield from _kept(session, layers, options, work)
        facts = {"kept_fp32": kept, f"{precision}_error": error}
        made = bring_back(session.variant(kept), scratch)
        return write_folder(made, out, folder, precision, facts)


def trajectory_feeds(model: OnnxModel, options: QuantizeOptions) -> Work[list[Feed]]:
    """The inputs of every step of deterministic trajectories, from noise to image, at batch 1.

    Steps and coefficients are the reference's (its every timestep); conditions are its rows.
    """
    from safetensors.numpy import load_file

    if not model.reference.is_file():
        raise InputError(f"{model.reference} is missing: there is nothing to calibrate on")
    tensors = load_file(model.reference)
    session = _session(model.path, options.threads)
    steps = list(
        zip(tensors["trajectory.timesteps"], tensors["trajectory.coefficients"], strict=True)
    )
    feeds: list[Feed] = []
    for seed in range(options.trajectories):
        yield Progress(seed, options.trajectories, "denoising for calibration")
        x = np.random.default_rng(seed).standard_normal(tensors["trajectory.initial"].shape)
        x = x.astype(np.float32)
        conditions = _conditions(model, tensors, seed)
        for t, (a, b) in steps:
            feed = {"sample": x, "timestep": np.array([t], tensors["input.timestep"].dtype)}
            feeds.append({**conditions, **feed})
            output = _first_output(session, feeds[-1])[:, : x.shape[1]]
            x = (a * x + b * output).astype(np.float32)
        # the last step starts well before t = 0, where the model's work is the finest
        end = {"sample": x, "timestep": np.zeros(1, tensors["input.timestep"].dtype)}
        feeds.append({**conditions, **end})
    return feeds


def noise_levels(model: OnnxModel) -> list[Feed]:
    """The reference's inputs one by one: real samples from nearly clean to nearly noise."""
    from safetensors.numpy import load_file

    tensors = load_file(model.reference) if model.reference.is_file() else {}
    rows = len(tensors.get("input.sample", ()))
    names = [spec.name for spec in model.inputs]
    return [{n: tensors[f"input.{n}"][i : i + 1] for n in names} for i in range(rows)]


def _conditions(model: OnnxModel, tensors: Mapping[str, Any], seed: int) -> dict[str, Array]:
    names = [s.name for s in model.inputs if s.name not in ("sample", "timestep")]
    row = seed % len(tensors["input.sample"])
    return {name: tensors[f"input.{name}"][row : row + 1] for name in names}


def _session(path: Path, threads: int) -> Any:
    ort.onnxruntime("ort-cpu", "cpu")
    return ort.open_session(path, ort.session_options(threads), ["CPUExecutionProvider"])


def _first_output(session: Any, feeds: Mapping[str, Any]) -> Any:
    with ort.failures_named("calibrating int8", on_gpu=False):
        return session.run(None, dict(feeds))[0]


def _quantized(
    source: OnnxModel, feeds: Sequence[Feed], *, per_channel: bool = True, asymmetric: bool = False
) -> Any:
    """The model with every layer quantised to int8; ``asymmetric``: its inputs to uint8."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    named = ort.failures_named(f"calibrating int8 for {source.path}", on_gpu=False)
    with temporary_folder() as temporary, named:
        path = temporary / "int8.onnx"
        quantize_static(
            str(source.path),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8 if asymmetric else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=_is_large(source),
            extra_options={
                "ActivationSymmetric": not asymmetric,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "MatMulConstBOnly": True,
                "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": _OPERATORS,
            },
        )
        return onnx.load(path)


def _is_large(source: OnnxModel) -> bool:
    return sum(file.stat().st_size for file in source.files) > LARGEST_SINGLE_FILE


def to_fp8(whole: Any, plain: Any) -> None:
    """Turn the int8 Q/DQ of ``whole`` into E4M3, in place; ``plain`` holds the weights in fp32.

    onnxruntime.quantization writes E4M3 only with scales of its own from a distribution; here the
    largest magnitude becomes E4M3's largest number, as NVIDIA's tools have it.
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


def _as_e4m3(values: Any) -> Any:
    import ml_dtypes

    return np.clip(values, -_FP8_MOST, _FP8_MOST).astype(ml_dtypes.float8_e4m3fn)


def _store(tensor: Any, array: Any) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _layers(plain: Any, whole: Any) -> list[str]:
    """The names of the nodes that quantisation changed, in the graph's order."""
    before = {node.name: list(node.input) for node in plain.graph.node}
    return [
        node.name
        for node in whole.graph.node
        if node.op_type in _OPERATORS and before.get(node.name) not in (None, list(node.input))
    ]


class Comparison:
    """The fp32 and the quantised graph, and any mixture of the two, on the same rows.

    The weights of ``plain`` and ``whole`` go to the folder ``scratch``, which every variant reads.
    """

    def __init__(
        self, plain: Any, whole: Any, layers: Sequence[str], rows: Sequence[Feed], threads: int,
        scratch: Path,
    ) -> None:  # fmt: skip
        set_aside(plain, scratch, "plain.data")
        set_aside(whole, scratch, "whole.data")
        self._scratch = scratch
        self._plain = {node.name: list(node.input) for node in plain.graph.node}
        self._layers = frozenset(layers)
        self._weights = {tensor.name: tensor for tensor in plain.graph.initializer}
        self._whole = whole
        self._rows = rows
        self._threads = threads
        session = self._session(plain)
        self._expected = [_first_output(session, row) for row in rows]

    def _session(self, model: Any) -> Any:
        import onnx

        onnx.save(model, self._scratch / "variant.onnx")
        return _session(self._scratch / "variant.onnx", self._threads)

    def variant(self, kept: Sequence[str]) -> Any:
        """The quantised graph with the nodes ``kept`` in fp32, its weights in ``scratch``.

        Their inputs are as they were.

        So are those of every node that is no layer: the quantiser puts what a layer reads through
        int8 for its other readers as well, residual sums and norms among them.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._whole)
        held = {tensor.name for tensor in model.graph.initializer}
        for node in model.graph.node:
            restored = node.name in kept or node.name not in self._layers
            if restored and node.name in self._plain:
                node.input[:] = self._plain[node.name]
                for name in node.input:
                    if name in self._weights and name not in held:
                        model.graph.initializer.append(self._weights[name])
                        held.add(name)
        _remove_unused(model.graph)
        return model

    def error(self, kept: Sequence[str]) -> float:
        """The worst row's relative L2 error with ``kept`` in fp32."""
        session = self._session(self.variant(kept))
        pairs = zip(self._rows, self._expected, strict=True)
        return max(_relative(_first_output(session, row), expected) for row, expected in pairs)


def _relative(found: Any, expected: Any) -> float:
    error = np.linalg.norm((found - expected).astype(np.float64))
    return float(error / (np.linalg.norm(expected.astype(np.float64)) or 1.0))


def _remove_unused(graph: Any) -> None:
    """Drop the Q/DQ nodes and weights that nothing reads any more."""
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {value.name for value in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _single_errors(session: Comparison, layers: Sequence[str]) -> Work[dict[str, float]]:
    """Each layer's error when it alone is in int8."""
    errors = {}
    for index, name in enumerate(layers):
        yield Progress(index, len(layers), "how sensitive each layer is")
        errors[name] = session.error([other for other in layers if other != name])
    return errors


def _kept(
    session: Comparison, layers: Sequence[str], options: QuantizeOptions, work: Mapping[str, float]
) -> Work[tuple[list[str], float]]:
    """The layers that stay in fp32, and the error left. work: each layer's MACs.

    Layers are measured one by one only where the whole in int8 is not good enough. Squared errors
    of single layers nearly add up, so those go first that spoil most for the work they save, by
    twentieths of the layers until the error is within the tolerance; then each of them, the most
    expensive first, goes back to int8 if the error allows it. Where too many would have to stay so,
    the worst go first whatever they cost.
    """
    error = session.error([])
    if error <= options.tolerance:
        return [], error
    errors = yield from _single_errors(session, layers)
    per_work = sorted(layers, key=lambda name: -(errors[name] ** 2) / work.get(name, 1.0))
    for order in (per_work, sorted(layers, key=lambda name: -errors[name])):
        for count in _counts(len(layers), options.keep_most):
            values = {"error": min(error, 1e9)}
            yield Progress(count, len(layers), f"{count} layers in fp32", values)
            error = session.error(order[:count])
            if error <= options.tolerance:
                return (yield from _given_back(session, order[:count], error, options, work))
    raise CheckFailed(
        f"int8 leaves an error of {error:.2g} with {options.keep_most:.0%} of the layers in fp32; "
        f"at most {options.tolerance:g} is wanted",
        hint="use bf16 or fp16 for this model",
    )


def _given_back(
    session: Comparison, kept: list[str], error: float, options: QuantizeOptions,
    work: Mapping[str, float],
) -> Work[tuple[list[str], float]]:  # fmt: skip
    """``kept`` without those that need not stay, tried from the most expensive one on."""
    candidates = sorted(kept, key=lambda name: -work.get(name, 1.0))
    for index, name in enumerate(candidates):
        yield Progress(index, len(candidates), "which of them int8 can have after all")
        fewer = [other for other in kept if other != name]
        found = session.error(fewer)
        if found <= options.tolerance:
            kept, error = fewer, found
    return sorted(kept), error


def layer_macs(model: Any, feed: Feed | None = None) -> dict[str, float]:
    """Multiply-accumulates of each convolution and product with a constant, at batch 1.

    feed: inputs at batch 1 to find shapes with by running, where the graph leaves height and width
    open; without it, a dimension that the graph does not fix counts as 1.
    """
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    layers = [
        node for node in model.graph.node
        if node.op_type in _OPERATORS and node.input[1] in weights
    ]  # fmt: skip
    names = [node.output[0] for node in layers]
    shapes = _inferred(model) if feed is None else _run_shapes(model, names, feed)
    found = {}
    for node in layers:
        out = shapes.get(node.output[0], [])
        positions = out[2:] if node.op_type == "Conv" else out[1:-1]
        found[node.name] = float(weights[node.input[1]] * math.prod(positions))
    return found


def _inferred(model: Any) -> dict[str, list[int]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    return {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }


def _run_shapes(model: Any, names: Sequence[str], feed: Feed) -> dict[str, list[int]]:
    """The shapes that tensors have in a run."""
    import onnx
    from onnx import helper

    with temporary_folder() as scratch:
        asked = onnx.ModelProto()
        asked.CopyFrom(model)
        set_aside(asked, scratch, "model.data")
        del asked.graph.output[:]
        for name in names:
            asked.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
            value = helper.make_tensor_value_info(f"{name}/shape", onnx.TensorProto.INT64, None)
            asked.graph.output.append(value)
        onnx.save(asked, Path(scratch) / "model.onnx")
        found = _session(Path(scratch) / "model.onnx", 1).run(None, dict(feed))
    return {name: shape.tolist() for name, shape in zip(names, found, strict=True)}


def _counts(layers: int, most: float) -> Iterator[int]:
    step = max(layers // 20, 1)
    yield from range(step, int(layers * most) + 1, step)
