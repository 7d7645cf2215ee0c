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

Ranges and Q/DQ are onnxruntime.quantization's; runs are ONNX Runtime's on the CPU. All graphs read
their weights from files in a folder for temporary files: those of the fp32 file, and the int8 ones.
Where the fp32 file is a large one, the runtime does not copy them either, and groups of layers are
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work
from diffc_export.onnx.layer_macs import Feed, layer_macs, open_session
from diffc_export.onnx.mixture import choose_fp32_layers
from diffc_export.onnx.precision import write_folder
from diffc_export.onnx.qdq import Pairs, activation_ranges, write_pairs
from diffc_export.onnx.trials import PrecisionTrials, first_output
from diffc_export.onnx.weights import is_large, open_apart, set_aside
from diffc_export.targets.base import Array
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_runtime.errors import InputError, RequestError
from diffc_runtime.libraries import ort as library

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
        (``fp8_error``) is the error of the result. Where layers stay, ``kept_fp32_by`` says what
        was measured: ``layers``, each alone, or ``groups`` of them, for a large file.

    Raises:
        CheckFailed: More than ``keep_most`` of the layers would have to stay in fp32.
        RequestError: ``precision`` is another one.
    """
    if precision not in PRECISIONS:
        raise RequestError(f"'{precision}' is not quantised to", hint=f"known: {list(PRECISIONS)}")
    source = read_onnx(folder)
    if source.precision != "fp32":
        raise InputError(f"{source.path} is {source.precision} already, fp32 is needed")
    feeds = yield from trajectory_feeds(read_onnx(calibration or folder), options)
    # spread over the whole list, so that the rows are of different steps
    rows = [feeds[i] for i in np.linspace(0, len(feeds) - 1, _ROWS).astype(int)]
    rows += noise_levels(source)
    pairs = Pairs(precision, options.asymmetric)
    size = sum(path.stat().st_size for path in source.files)
    with temporary_folder(size + size // 4) as scratch:
        trials = yield from open_trials(source, feeds, rows, pairs, scratch, options.threads)
        yield Progress(0, None, "counting the work of each layer")
        work = layer_macs(trials.plain, rows[0] if source.sizes else None, scratch)
        kept, error = yield from choose_fp32_layers(
            trials, trials.layers, options, work, grouped=trials.in_file, precision=precision
        )
        facts: dict[str, Any] = {"kept_fp32": kept, f"{precision}_error": error}
        if kept:
            facts["kept_fp32_by"] = "groups" if trials.in_file else "layers"
        mixed = open_apart(trials.write(kept))
        return write_folder(mixed, out, folder, precision, facts)


def open_trials(
    source: OnnxModel,
    feeds: Sequence[Feed],
    rows: Sequence[Feed],
    pairs: Pairs,
    scratch: Path,
    threads: int,
) -> Work[PrecisionTrials]:
    """Write the quantised graph, and get ready to compare mixtures with the fp32 graph.

    Args:
        source: The fp32 model.
        feeds: The inputs that the ranges are of.
        rows: The inputs to compare on.
        pairs: Which pairs are written.
        scratch: A folder for the weights and the graphs.
        threads: Of the runtime.
    """
    yield Progress(0, None, "calibrating")
    apart = open_apart(source.path)
    plain = set_aside(apart.proto, scratch, "plain.data", apart.values)
    in_file = is_large(plain)
    with library.failures_named(f"calibrating {pairs.precision} for {source.path}", on_gpu=False):
        ranges = activation_ranges(plain, scratch, feeds, threads, in_file=in_file)
        whole = yield from write_pairs(plain, scratch, ranges, pairs)
    return PrecisionTrials(plain, whole, rows, threads, scratch, in_file=in_file)


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
    large = is_large(open_apart(model.path).proto)
    session = open_session(model.path, options.threads, in_file=large)
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
            output = first_output(session, feeds[-1])[:, : x.shape[1]]
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
