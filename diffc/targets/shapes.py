"""Shapes: from what was asked for to optimisation profiles that a builder accepts.

Checked here, because the libraries are silent or obscure about most of it: TensorRT takes min > opt
without a word, reports a wrong rank only at the end of the build, and answers ranges of the batch
that differ between inputs with a compiler error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffc.errors import InputError, RequestError, unknown
from diffc.targets.base import Arrays, BuildOptions, Range
from diffc.targets.onnx_file import InputSpec, OnnxModel

Profile = Mapping[str, Range]


def profiles(model: OnnxModel, options: BuildOptions) -> list[Profile]:
    """One mapping input -> range per optimisation profile. Raises RequestError, see ``check``."""
    if options.ranges:
        for profile in options.ranges:
            check(model, profile)
        return list(options.ranges)
    batch = _checked_batch(options.batch)
    if options.one_profile and len(batch) > 1:
        return [_profile(model, batch[0], batch[len(batch) // 2], batch[-1])]
    return [_profile(model, size, size, size) for size in batch]


def _checked_batch(batch: Iterable[int]) -> list[int]:
    sizes = sorted(set(batch))
    if not sizes or sizes[0] < 1:
        asked = ",".join(str(size) for size in sizes) or "nothing"
        raise RequestError(f"batch sizes must be 1 or more, not {asked}", hint="e.g. --batch 1,4,8")
    return sizes


def _profile(model: OnnxModel, low: int, usual: int, high: int) -> Profile:
    return {
        spec.name: Range((low, *spec.shape), (usual, *spec.shape), (high, *spec.shape))
        for spec in model.inputs
    }


def check(model: OnnxModel, profile: Profile) -> None:
    """Raise RequestError for the first thing in ``profile`` that the model cannot take."""
    known = [spec.name for spec in model.inputs]
    for name in profile:
        if name not in known:
            raise unknown("input", name, known)
    for spec in model.inputs:
        if spec.name not in profile:
            raise RequestError(f"the shape range of input '{spec.name}' is missing")
        _check_range(spec, profile[spec.name])
    batches = {(r.min[0], r.opt[0], r.max[0]) for r in profile.values()}
    if len(batches) > 1:
        raise RequestError(f"the inputs' batch ranges differ: {sorted(batches)}")


def _check_range(spec: InputSpec, asked: Range) -> None:
    where = f"input '{spec.name}'"
    for shape in (asked.min, asked.opt, asked.max):
        if len(shape) != len(spec.shape) + 1:
            need = len(spec.shape) + 1
            raise RequestError(f"{where} has {need} dimensions, the range gives {len(shape)}")
        if tuple(shape[1:]) != spec.shape:
            raise RequestError(f"{where} is fixed at {spec.shape} after the batch, not {shape[1:]}")
    if not 1 <= asked.min[0] <= asked.opt[0] <= asked.max[0]:
        found = f"{asked.min[0]}, {asked.opt[0]}, {asked.max[0]}"
        raise RequestError(f"the batch range of {where} is not 1 <= min <= opt <= max: {found}")


def check_inputs(specs: Sequence[InputSpec], served: Sequence[Profile], inputs: Arrays) -> int:
    """The batch size of ``inputs``. Raises InputError when an engine cannot take them."""
    known = [spec.name for spec in specs]
    for name in inputs:
        if name not in known:
            raise InputError(f"the engine has no input '{name}'", hint=f"it has {known}")
    for spec in specs:
        _check_array(spec, inputs)
    batch = {int(array.shape[0]) for array in inputs.values()}
    if len(batch) > 1:
        raise InputError(f"the inputs' batch sizes differ: {sorted(batch)}")
    size = batch.pop()
    if served and not any(_serves(profile, size) for profile in served):
        raise InputError(f"the engine was not built for batch {size}", hint=_served(served))
    return size


def _check_array(spec: InputSpec, inputs: Arrays) -> None:
    if spec.name not in inputs:
        raise InputError(f"input '{spec.name}' is missing")
    array = inputs[spec.name]
    if array.ndim == 0 or tuple(array.shape[1:]) != spec.shape:
        need = ("batch", *spec.shape)
        raise InputError(f"input '{spec.name}' must be {need}, not {tuple(array.shape)}")
    if str(array.dtype) != spec.dtype:
        raise InputError(f"input '{spec.name}' must be {spec.dtype}, not {array.dtype}")


def _serves(profile: Profile, batch: int) -> bool:
    ranges = profile.values()
    return all(r.min[0] <= batch <= r.max[0] for r in ranges)


def _served(served: Sequence[Profile]) -> str:
    ranges = [next(iter(profile.values())) for profile in served]
    parts = [str(r.min[0]) if r.min[0] == r.max[0] else f"{r.min[0]}-{r.max[0]}" for r in ranges]
    return f"it was built for batch {', '.join(parts)}; build again with --batch"


def profile_index(served: Sequence[Profile], batch: int) -> int:
    """The first profile whose optimum is ``batch``, else the first that serves it."""
    fitting = [i for i, profile in enumerate(served) if _serves(profile, batch)]
    best = [i for i in fitting if next(iter(served[i].values())).opt[0] == batch]
    return (best or fitting)[0]


def call_words(target: str, inputs: Mapping[str, Any]) -> str:
    """What a call does, for messages: 'running ort-cpu on sample 8x3x32x32'."""
    name, array = max(inputs.items(), key=lambda item: math.prod(item[1].shape))
    return f"running {target} on {name} {'x'.join(map(str, array.shape))}"
