"""Writes int8 or fp8 into an ONNX file: Q/DQ pairs before each convolution and matrix product.

    calibrate    the ranges of activations, over denoising trajectories of the dense model itself:
                 an activation's range changes tenfold from noise to image, so every timestep counts
    quantize     Q/DQ on inputs (per tensor) and weights (per channel, symmetric); biases, outputs
                 and every other operator stay in float: TensorRT and OpenVINO fuse these pairs,
                 ONNX Runtime's CPU kernels do not (they want outputs in int8 too)
                 int8 inputs are symmetric, as TensorRT wants them, or uint8 with a zero point where
                 the runtime takes one: most layers read a SiLU's output, which is hardly ever
                 negative, so a zero point makes their steps nearly half as large
                 fp8 (E4M3, for TensorRT): the same places, every tensor with one scale
    sensitive    each layer's own effect on the output, measured; the layers with the largest error
                 for the work that they save stay in fp32 until the whole is within the tolerance

Ranges and Q/DQ are onnxruntime.quantization's; runs are ONNX Runtime's on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work
from diffc_export.onnx.fp8 import to_fp8
from diffc_export.onnx.layer_macs import OPERATORS, Feed, layer_macs, open_session
from diffc_export.onnx.precision import write_folder
from diffc_export.onnx.weights import LARGEST_SINGLE_FILE, ApartModel, bring_back, set_aside
from diffc_export.targets.base import Array
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_runtime.errors import CheckFailed, InputError, RequestError
from diffc_runtime.libraries import ort as library

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

PRECISIONS = ("int8", "fp8")
_ROWS = 6  # steps of the trajectories that errors are measured on, beside the noise levels


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is calibrated and how many layers may stay in fp32.

    trajectories: the number of seeds to calibrate on.
    tolerance: the largest relative L2 error of the whole model.
    keep_most: the largest share of layers that may stay in fp32; a model that needs more fails.
    asymmetric: int8 inputs of layers are uint8 with a zero point; fp8 has no zero point.
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
    """Write ``out``, an int8 or fp8 ONNX folder, from the fp32 ``folder``.

    Args:
        calibration: The ONNX folder whose trajectories are used (the dense model's); by default
            ``folder``.

    Returns:
        The content of model.json: ``kept_fp32`` names the layers that stay in fp32, ``int8_error``
        (``fp8_error``) is the error of the result.

    Raises:
        CheckFailed: More than ``keep_most`` of the layers would have to stay in fp32.
        RequestError: ``precision`` is another one.
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
        whole = _quantize_all(source, feeds, per_channel=False)
        to_fp8(whole, plain)
    else:
        whole = _quantize_all(source, feeds, asymmetric=options.asymmetric)
    layers = _quantized_layers(plain, whole)
    # spread over the whole list, so that the rows are of different steps
    rows = [feeds[i] for i in np.linspace(0, len(feeds) - 1, _ROWS).astype(int)]
    rows += noise_levels(source)
    work = layer_macs(plain, rows[0] if source.sizes else None)
    with temporary_folder(sum(path.stat().st_size for path in source.files)) as scratch:
        session = PrecisionTrials(plain, whole, layers, rows, options.threads, scratch)
        kept, error = yield from _choose_fp32_layers(session, layers, options, work)
        facts = {"kept_fp32": kept, f"{precision}_error": error}
        mixed = bring_back(session.variant(kept), scratch)
        return write_folder(ApartModel(mixed), out, folder, precision, facts)


def trajectory_feeds(model: OnnxModel, options: QuantizeOptions) -> Work[list[Feed]]:
    """Return the inputs of every step of deterministic trajectories, from noise to image.

    All have batch 1. Timesteps and coefficients are those of the reference; conditions are its
    rows.

    Raises:
        InputError: The model has no reference.
    """
    from safetensors.numpy import load_file

    if not model.reference.is_file():
        raise InputError(f"{model.reference} is missing: there is nothing to calibrate on")
    tensors = load_file(model.reference)
    session = open_session(model.path, options.threads)
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
    """Return the reference's inputs one by one: real samples from nearly clean to nearly noise."""
    from safetensors.numpy import load_file

    tensors = load_file(model.reference) if model.reference.is_file() else {}
    rows = len(tensors.get("input.sample", ()))
    names = [spec.name for spec in model.inputs]
    return [{n: tensors[f"input.{n}"][i : i + 1] for n in names} for i in range(rows)]


def _conditions(model: OnnxModel, tensors: Mapping[str, Any], seed: int) -> dict[str, Array]:
    names = [s.name for s in model.inputs if s.name not in ("sample", "timestep")]
    row = seed % len(tensors["input.sample"])
    return {name: tensors[f"input.{name}"][row : row + 1] for name in names}


def _first_output(session: Any, feeds: Feed) -> Array:
    with library.failures_named("calibrating int8", on_gpu=False):
        output: Array = session.run(None, dict(feeds))[0]
        return output


def _quantize_all(
    source: OnnxModel, feeds: Sequence[Feed], *, per_channel: bool = True, asymmetric: bool = False
) -> ModelProto:
    """Return the model with every layer in int8; if ``asymmetric``, with its inputs in uint8."""
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

    named = library.failures_named(f"calibrating int8 for {source.path}", on_gpu=False)
    with temporary_folder() as temporary, named:
        path = temporary / "int8.onnx"
        quantize_static(
            str(source.path),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
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
                "OpTypesToExcludeOutputQuantization": OPERATORS,
            },
        )
        return onnx.load(path)


def _is_large(source: OnnxModel) -> bool:
    return sum(file.stat().st_size for file in source.files) > LARGEST_SINGLE_FILE


def _quantized_layers(plain: ModelProto, whole: ModelProto) -> list[str]:
    """Return the names of the nodes that quantisation changed, in the graph's order."""
    before = {node.name: list(node.input) for node in plain.graph.node}
    return [
        node.name
        for node in whole.graph.node
        if node.op_type in OPERATORS and before.get(node.name) not in (None, list(node.input))
    ]


class PrecisionTrials:
    """Compares mixtures of the fp32 and the quantised graph with the fp32 graph, on the same rows.

    The weights of ``plain`` and ``whole`` go to the folder ``scratch``; every variant reads them.
    """

    def __init__(
        self,
        plain: ModelProto,
        whole: ModelProto,
        layers: Sequence[str],
        rows: Sequence[Feed],
        threads: int,
        scratch: Path,
    ) -> None:
        """Put the weights aside, and run the fp32 graph.

        Args:
            plain: The fp32 graph.
            whole: The quantised graph.
            layers: The names of the nodes that it has quantised.
            rows: The inputs to compare on.
            threads: Of the runtime.
            scratch: A folder for the weights and the variants.
        """
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
        self._order = list(range(len(rows)))

    def _session(self, model: ModelProto) -> Any:
        import onnx

        onnx.save(model, self._scratch / "variant.onnx")
        return open_session(self._scratch / "variant.onnx", self._threads)

    def variant(self, kept: Sequence[str]) -> ModelProto:
        """Return the quantised graph with the nodes ``kept`` in fp32, its weights in ``scratch``.

        The nodes ``kept`` get their original inputs back, and so does every node that is not a
        layer: the quantiser converts a layer's input to int8 for its other readers as well, such
        as residual sums and norms.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._whole)
        stored = {tensor.name for tensor in model.graph.initializer}
        for node in model.graph.node:
            restored = node.name in kept or node.name not in self._layers
            if restored and node.name in self._plain:
                node.input[:] = self._plain[node.name]
                for name in node.input:
                    if name in self._weights and name not in stored:
                        model.graph.initializer.append(self._weights[name])
                        stored.add(name)
        _remove_unused(model.graph)
        return model

    def error(self, kept: Sequence[str], limit: float = math.inf) -> float:
        """Return the largest relative L2 error of a row with the nodes ``kept`` in fp32.

        The first error that is above ``limit`` is returned at once; its row comes first from then.
        """
        session, largest = self._session(self.variant(kept)), 0.0
        for place, index in enumerate(self._order):
            output = _first_output(session, self._rows[index])
            error = _relative_error(output, self._expected[index])
            if not error <= limit:  # nor where it is NaN
                self._order.insert(0, self._order.pop(place))
                return error
            largest = max(largest, error)
        return largest


def _relative_error(output: Array, expected: Array) -> float:
    error = np.linalg.norm(np.subtract(output, expected).astype(np.float64))
    return float(error / (np.linalg.norm(expected.astype(np.float64)) or 1.0))


def _remove_unused(graph: GraphProto) -> None:
    """Remove the Q/DQ nodes and weights that no node reads any more."""
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


def _single_errors(session: PrecisionTrials, layers: Sequence[str]) -> Work[dict[str, float]]:
    """Return the error for each layer if only that layer is in int8."""
    errors = {}
    for index, name in enumerate(layers):
        yield Progress(index, len(layers), "how sensitive each layer is")
        errors[name] = session.error([other for other in layers if other != name])
    return errors


def _choose_fp32_layers(
    session: PrecisionTrials,
    layers: Sequence[str],
    options: QuantizeOptions,
    work: Mapping[str, float],
) -> Work[tuple[list[str], float]]:
    """Choose the layers that stay in fp32.

    Layers are measured one by one only if the whole model in int8 exceeds the tolerance. Squared
    errors of single layers nearly add up, so the layers with the largest squared error per MAC go
    to fp32 first, a twentieth of the layers at a time, until the error is within the tolerance;
    then each of them, the most expensive first, returns to int8 if the error allows it. If that
    needs too many layers, the order is by error alone.

    Args:
        work: Each layer's MACs.

    Returns:
        The layers' names, and the error with them in fp32.

    Raises:
        CheckFailed: More than ``keep_most`` of the layers would have to stay in fp32.
    """
    kept: list[str] = []
    error = session.error(kept, options.tolerance)
    if error <= options.tolerance:
        return kept, error
    errors = yield from _single_errors(session, layers)
    per_work = sorted(layers, key=lambda name: -(errors[name] ** 2) / work.get(name, 1.0))
    for order in (per_work, sorted(layers, key=lambda name: -errors[name])):
        for count in _counts(len(layers), options.keep_most):
            values = {"error": min(error, 1e9)}
            yield Progress(count, len(layers), f"{count} layers in fp32", values)
            kept = order[:count]
            error = session.error(kept, options.tolerance)
            if error <= options.tolerance:
                return (yield from _return_to_int8(session, kept, error, options, work))
    raise CheckFailed(
        f"int8 leaves an error of {session.error(kept):.2g} with {options.keep_most:.0%} of the "
        f"layers in fp32; at most {options.tolerance:g} is wanted",
        hint="use bf16 or fp16 for this model",
    )


def _return_to_int8(
    session: PrecisionTrials,
    kept: list[str],
    error: float,
    options: QuantizeOptions,
    work: Mapping[str, float],
) -> Work[tuple[list[str], float]]:
    """Return ``kept`` without the layers that int8 allows, the most expensive tried first."""
    candidates = sorted(kept, key=lambda name: -work.get(name, 1.0))
    for index, name in enumerate(candidates):
        yield Progress(index, len(candidates), "which of them int8 can have after all")
        fewer = [other for other in kept if other != name]
        fewer_error = session.error(fewer, options.tolerance)
        if fewer_error <= options.tolerance:
            kept, error = fewer, fewer_error
    return sorted(kept), error


def _counts(layers: int, most: float) -> Iterator[int]:
    step = max(layers // 20, 1)
    yield from range(step, int(layers * most) + 1, step)
