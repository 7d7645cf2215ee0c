"""Parity: an engine against torch fp32, on real noisy inputs.

K noise levels (each compared alone: an error at one level must not drown in the others) and a short
deterministic trajectory x <- a x + b f(x, t), where errors add up as they do in sampling.

Tolerances, on the relative L2 error |engine - torch| / |torch|, the worst level, by the precision
that the engine was built in (``TOLERANCE``):

    fp32  1e-3    sums in another order give 1e-6 to 1e-5; a wrong operator gives far more
    tf32  5e-3    10 bits of mantissa in products, summed in fp32
    fp16  1e-2    10 bits of mantissa throughout: 1e-3 to 4e-3 is usual
    bf16  6e-2    7 bits: eight times fp16's
    fp8   0.15    3 bits, scaled by tensor
    int8  0.15    8 bits, scaled by channel (weights) and tensor (activations)

The trajectory may be off by three times as much. NaN, infinity, or an output that is constant or
zero where torch's is not always fails, whatever the tolerance. Every batch size that an engine was
built for is compared (each may have kernels of its own), the trajectory at the smallest; at every
other size of the sample a few noise levels are, without a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffc.errors import InputError
from diffc.measure.inputs import fill
from diffc.measure.quality.ssim import is_image, ssim
from diffc.measure.results import Closeness, Parity
from diffc_export.events import Progress, Work
from diffc_export.targets.base import Array, LoadedEngine
from diffc_export.targets.onnx_file import InputSpec, Size, reference_prefix, size_words
from diffc_runtime.denoising import denoise_whole, linear_sampler

TOLERANCE = {
    "fp32": 1e-3,
    "tf32": 5e-3,
    "fp16": 1e-2,
    "bf16": 6e-2,
    "fp8": 0.15,
    "int8": 0.15,
}
TRAJECTORY_FACTOR = 3.0
Doubles: TypeAlias = NDArray[np.float64]
Split: TypeAlias = Callable[[Array], Mapping[str, Array]]


def measure_parity(runner: LoadedEngine, reference: Path) -> Work[Parity]:
    """The worst of ``parities``: an engine must compute the model at every size."""
    by_size = yield from parities(runner, reference)
    return worse(by_size.values())


def parities(runner: LoadedEngine, reference: Path) -> Work[dict[Size | None, Parity]]:
    """Parity at each of the engine's sizes that the reference has; None: the working one.

    The caller decides what a failure means.

    Raises:
        InputError: The reference is missing, damaged, or of another model.
    """
    tensors = read_reference(reference, runner)
    by_size: dict[Size | None, Parity] = {None: (yield from _working(runner, tensors))}
    for size in runner.info.sizes[1:]:
        prefix = reference_prefix(size)
        at = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        if "output" in at:
            yield Progress(0, None, f"noise levels at {size_words(size)}")
            by_size[size] = _elsewhere(runner, at, size)
    return by_size


def worse(results: Collection[Parity]) -> Parity:
    """The result that failed, else the one with the largest error; NaN counts as the largest."""
    infinite = float("inf")
    return max(results, key=lambda p: (not p.passed, infinite if p.rel_l2 is None else p.rel_l2))


def _elsewhere(runner: LoadedEngine, tensors: Mapping[str, Array], size: Size) -> Parity:
    """At another size than the working one; a reason says which."""
    at = size_words(size)
    return worse([_at_batch(runner, tensors, batch, None, at) for batch in _batches(runner)])


def _working(runner: LoadedEngine, tensors: Mapping[str, Array]) -> Work[Parity]:
    yield Progress(0, 2, "trajectory")
    end = run_trajectory(runner, tensors) if "trajectory.final" in tensors else None
    yield Progress(1, 2, "noise levels")
    smallest, *others = _batches(runner)
    results = [_at_batch(runner, tensors, smallest, end)]
    for batch in others:
        result = _at_batch(runner, tensors, batch, None)
        drift = {
            "trajectory_rel_l2": results[0].trajectory_rel_l2,
            "trajectory_ssim": results[0].trajectory_ssim,
        }
        results.append(result.model_copy(update=drift))
    return worse(results)


def _batches(runner: LoadedEngine) -> list[int]:
    """The batch sizes that the engine was built for; 1 where it serves any."""
    return sorted(set(runner.info.batches)) or [1]


def _at_batch(
    runner: LoadedEngine,
    tensors: Mapping[str, Array],
    batch: int,
    end: Array | None,
    size: str = "",
) -> Parity:
    """The noise levels, ``batch`` rows at a time, and the trajectory's end where it is given.

    The reason of a failure names the size, and the batch where several were built for.
    """
    inputs = {spec.name: tensors[f"input.{spec.name}"] for spec in runner.info.inputs}
    outputs = run_rows(runner, inputs, batch)
    expected_end = None if end is None else tensors.get("trajectory.final")
    result = judge_outputs(
        outputs, tensors["output"], end, expected_end, runner.info.precision_asked
    )
    several = len(_batches(runner)) > 1
    place = ", ".join(filter(None, [size, f"batch {batch}" if several else ""]))
    if result.passed or not place:
        return result
    return result.model_copy(update={"reason": f"at {place}: {result.reason}"})


def read_reference(reference: Path, runner: LoadedEngine) -> dict[str, Array]:
    """The reference's tensors, checked against the engine's inputs."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, Array] = dict(load_file(reference))
    except FileNotFoundError:
        hint = "the ONNX folder holds it; `diffc export` writes one"
        raise InputError(f"{reference} is missing: parity has no reference", hint=hint) from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{reference} is damaged: {error}") from None
    for name in ["output", *(f"input.{spec.name}" for spec in runner.info.inputs)]:
        if name not in tensors:
            raise InputError(f"{reference} has no '{name}': it is of another model")
    return tensors


def run_rows(runner: LoadedEngine, inputs: Mapping[str, Array], size: int | None = None) -> Array:
    """Return the engine's output for K rows of inputs.

    Args:
        runner: The engine.
        inputs: Input name -> (K, ...).
        size: The batch size of a call; None: the smallest that the engine was built for.
    """
    rows = len(next(iter(inputs.values())))
    size = size or min(runner.info.batches, default=1)
    outputs = []
    for start in range(0, rows, size):
        part = {name: fill(array[start : start + size], size) for name, array in inputs.items()}
        outputs.append(_only_output(runner, part)[: min(size, rows - start)])
    return np.concatenate(outputs)


def _only_output(runner: LoadedEngine, inputs: Mapping[str, Array]) -> Array:
    return runner(inputs)[runner.info.outputs[0].name]


def run_trajectory(runner: LoadedEngine, tensors: Mapping[str, Array]) -> Array:
    """x after the reference's steps, computed with the engine; (1, ...)."""
    size = min(runner.info.batches, default=1)
    x = tensors["trajectory.initial"].astype(np.float32)
    fixed = {
        spec.name: fill(tensors[f"input.{spec.name}"][:1], size) for spec in runner.info.inputs
    }
    sample, timestep = _moving(runner)

    def call(rows: Array, t: float) -> Any:
        inputs = {
            **fixed,
            sample.name: fill(rows.astype(sample.dtype), size),
            timestep.name: np.full((size, *timestep.shape), t, timestep.dtype),
        }
        return _only_output(runner, inputs)[:1, : x.shape[1]]  # not a learned variance

    times = tensors["trajectory.timesteps"].astype(np.float64)
    return denoise_whole(
        call, linear_sampler(times, tensors["trajectory.coefficients"].tolist()), x
    )


def closeness(
    runner: LoadedEngine, exact: LoadedEngine, reference: Path, seeds: int = 8
) -> Closeness | None:
    """Return the SSIM of an engine's images to those of an exact engine, from the same noise.

    Args:
        runner: The engine.
        exact: The engine to compare with.
        reference: A reference.safetensors, whose trajectory says the steps.
        seeds: How many images.

    Returns:
        None for anything but images: latents have no SSIM.
    """
    tensors = read_reference(reference, runner)
    first = tensors.get("trajectory.initial")
    if first is None or not is_image(first.shape[1:]):
        return None
    values = []
    for seed in range(seeds):
        noise = np.random.default_rng(seed).standard_normal(first.shape).astype(np.float32)
        given = {**tensors, "trajectory.initial": noise}
        ours, theirs = (run_trajectory(engine, given)[0] for engine in (runner, exact))
        values.append(ssim(ours, theirs))
    steps = len(tensors["trajectory.timesteps"])
    return Closeness(mean=float(np.mean(values)), least=min(values), n=seeds, steps=steps)


def _moving(runner: LoadedEngine) -> tuple[InputSpec, InputSpec]:
    """The inputs that change from step to step: the sample and the timestep."""
    kinds = {spec.kind: spec for spec in runner.info.inputs}
    names = {spec.name: spec for spec in runner.info.inputs}
    return kinds.get("sample") or names["sample"], kinds.get("timestep") or names["timestep"]


def judge_outputs(
    outputs: Array, expected: Array, end: Array | None, expected_end: Array | None, precision: str
) -> Parity:
    """Compare an engine's outputs with torch's; the table above has the tolerances.

    Args:
        outputs: (K, ...) the engine's, one for each noise level.
        expected: (K, ...) torch's.
        end: (1, ...) the end of the engine's trajectory; None: there is none.
        expected_end: (1, ...) of torch's.
        precision: What the engine computes in, which decides the tolerance.
    """
    ours: Doubles = outputs.astype(np.float64)
    theirs: Doubles = expected.astype(np.float64)
    tolerance = TOLERANCE.get(precision, TOLERANCE["fp32"])
    levels = [relative_l2(f, e) for f, e in zip(ours, theirs, strict=True)]
    drift = None if end is None or expected_end is None else relative_l2(end, expected_end)
    reason = _broken(ours, theirs) or _off(levels, drift, tolerance)
    return Parity(
        max_abs=_finite(float(np.abs(ours - theirs).max())),
        rel_l2=_finite(float(np.max(levels))),
        trajectory_rel_l2=_finite(drift),
        trajectory_ssim=_image_ssim(end, expected_end),
        tolerance=tolerance,
        passed=not reason,
        reason=reason,
    )


def _image_ssim(end: Array | None, expected: Array | None) -> float | None:
    if end is None or expected is None or not is_image(end.shape[1:]):
        return None
    return _finite(ssim(end[0], expected[0]))


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def relative_l2(values: ArrayLike, expected: ArrayLike) -> float:
    """|found - expected| / |expected| over all elements, in float64."""
    values, expected = np.asarray(values, np.float64), np.asarray(expected, np.float64)
    scale = float(np.linalg.norm(expected)) or 1.0
    return float(np.linalg.norm(values - expected)) / scale


def part_errors(
    runner: LoadedEngine, inputs: Mapping[str, Array], expected: Array, split: Split
) -> dict[str, float]:
    """Return the relative L2 error |engine - torch| / |torch| of each part of an output.

    The worst of the batch sizes that the engine was built for counts. A part that is not finite has
    an infinite error.

    Args:
        runner: The engine.
        inputs: Name -> (K, ...).
        expected: (K, ...) torch's output.
        split: Turns an output into its parts by name.
    """
    theirs = split(expected)
    errors = dict.fromkeys(theirs, 0.0)
    for batch in sorted(set(runner.info.batches)) or [1]:
        for name, values in split(run_rows(runner, inputs, batch)).items():
            error = relative_l2(values, theirs[name])
            errors[name] = max(errors[name], error if error == error else float("inf"))
    return errors


def passes(errors: Mapping[str, float], precision: str) -> bool:
    """Return True if every error is within the limit of a precision (``TOLERANCE``)."""
    return max(errors.values()) <= TOLERANCE[precision]


def _broken(outputs: Array, expected: Array) -> str:
    for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
        fault = dead_output(ours)
        if fault.startswith("has") or (fault and np.ptp(theirs) > 0):
            return f"the output at noise level {index} {fault}"
    return ""


def dead_output(output: Array) -> str:
    """The fault of an output: 'has NaN or infinity', 'is zero', 'is constant'; '' without one."""
    if not np.isfinite(output).all():
        return "has NaN or infinity"
    if np.ptp(output) == 0:
        return "is constant" if output.any() else "is zero"
    return ""


def _off(levels: list[float], drift: float | None, tolerance: float) -> str:
    worst = max(levels)
    if not worst <= tolerance:
        where = levels.index(worst)
        return f"relative error {worst:.2g} at noise level {where} is above {tolerance:g}"
    if drift is not None and not drift <= TRAJECTORY_FACTOR * tolerance:
        most = TRAJECTORY_FACTOR * tolerance
        return f"relative error {drift:.2g} after the trajectory is above {most:g}"
    return ""
