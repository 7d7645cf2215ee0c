"""Shapes: from what was asked for to optimisation profiles that a builder accepts.

What varies is the batch, and the sample's height and width where the ONNX file leaves them open.

Checked here, because the libraries are silent or obscure about most of it: TensorRT takes min > opt
without a word, reports a wrong rank only at the end of the build, and answers ranges of the batch
that differ between inputs with a compiler error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffc_export.targets.base import Arrays, BuildOptions, Range
from diffc_export.targets.onnx_file import InputSpec, OnnxModel, Size, size_words
from diffc_runtime.errors import InputError, RequestError, unknown

Profile = Mapping[str, Range]
Call = tuple[tuple[str, tuple[int, ...]], ...]
"""The inputs of one call and their shapes, batch first, in the engine's order: what buffers, static
models and captured graphs are kept by."""


def profiles(model: OnnxModel, options: BuildOptions) -> list[Profile]:
    """One mapping input -> range per optimisation profile. Raises RequestError, see ``check``."""
    planned = _profiles(model, options)
    for profile in planned:
        _check_fixed(model, profile)
    return planned


def _profiles(model: OnnxModel, options: BuildOptions) -> list[Profile]:
    if options.ranges:
        for profile in options.ranges:
            check(model, profile)
        return list(options.ranges)
    batch = _checked_batch(options.batch)
    if options.one_profile:
        return [_spanning(model, batch)]
    sizes: Sequence[Size | None] = model.sizes or (None,)
    return [_static(call_of(model.inputs, count, size)) for size in sizes for count in batch]


def _check_fixed(model: OnnxModel, profile: Profile) -> None:
    """Raise RequestError for a batch size that the graph does not take."""
    for name, batch in model.fixed.items():
        batches = {profile[name].min[0], profile[name].max[0]}
        if batches != {batch}:
            raise RequestError(
                f"{model.path}: input '{name}' is fixed at batch {batch}, not "
                f"{'-'.join(map(str, sorted(batches)))}",
                hint=f"give --batch {batch}, or export it with a dynamic leading batch dimension",
            )


def _checked_batch(batch: Iterable[int]) -> list[int]:
    sizes = sorted(set(batch))
    if not sizes or sizes[0] < 1:
        listing = ",".join(str(size) for size in sizes) or "nothing"
        raise RequestError(
            f"batch sizes must be 1 or more, not {listing}", hint="e.g. --batch 1,4,8"
        )
    return sizes


def call_of(specs: Sequence[InputSpec], batch: int, size: Size | None = None) -> Call:
    """The shapes of a call with ``batch`` rows; size: of the sample, None for the working one."""
    return tuple((spec.name, (batch, *spec.shape_at(size))) for spec in specs)


def _static(call: Call) -> Profile:
    return {name: Range(shape, shape, shape) for name, shape in call}


def _spanning(model: OnnxModel, batch: Sequence[int]) -> Profile:
    """One profile over all, best in the middle of the batches, at the working size."""
    heights, widths = zip(*model.sizes, strict=True) if model.sizes else ((), ())
    low = (min(heights), min(widths)) if heights else None
    high = (max(heights), max(widths)) if heights else None
    usual = model.sizes[0] if model.sizes else None
    ends = ((batch[0], low), (batch[len(batch) // 2], usual), (batch[-1], high))
    calls = [dict(call_of(model.inputs, count, size)) for count, size in ends]
    return {spec.name: Range(*(call[spec.name] for call in calls)) for spec in model.inputs}


def profile_words(profile: Profile) -> str:
    """'batch 1', or 'batch 1 to 8, 16x16 to 32x32' where the sample's sides vary."""
    span = next(iter(profile.values()))
    low, high = span.min, span.max
    batch = f"batch {low[0]}" if low[0] == high[0] else f"batch {low[0]} to {high[0]}"
    if len(low) < 3:
        return batch
    sides = dict.fromkeys((size_words(low[-2:]), size_words(high[-2:])))
    return f"{batch}, {' to '.join(sides)}"


def is_static(served: Sequence[Profile]) -> bool:
    """Whether one single shape is asked for."""
    return len(served) == 1 and all(r.min == r.opt == r.max for r in served[0].values())


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
        if not _is_of(spec, shape):
            raise RequestError(f"{where} is {_words(spec)} after the batch, not {shape[1:]}")
    _check_order(f"the batch range of {where}", asked, 0)
    if spec.sizes:
        _check_order(f"the height range of {where}", asked, -2)
        _check_order(f"the width range of {where}", asked, -1)


def _check_order(what: str, asked: Range, axis: int) -> None:
    low, usual, high = (shape[axis] for shape in (asked.min, asked.opt, asked.max))
    if not 1 <= low <= usual <= high:
        raise RequestError(f"{what} is not 1 <= min <= opt <= max: {low}, {usual}, {high}")


def _is_of(spec: InputSpec, shape: Sequence[int]) -> bool:
    """Whether a shape (batch first) is one of the input's, whichever its size is."""
    fixed = spec.shape[:-2] if spec.sizes else spec.shape
    dims = tuple(shape[1:-2] if spec.sizes else shape[1:])
    return len(shape) == len(spec.shape) + 1 and dims == fixed


def _words(spec: InputSpec) -> str:
    """'fixed at (3, 8, 8)', or where the size varies '(3, height, width)'."""
    if not spec.sizes:
        return f"fixed at {spec.shape}"
    return f"({', '.join(map(str, (*spec.shape[:-2], 'height', 'width')))})"


def check_inputs(specs: Sequence[InputSpec], served: Sequence[Profile], inputs: Arrays) -> Call:
    """Return (name, shape with the batch) for every input, in the engine's order.

    Args:
        specs: The engine's inputs.
        served: The profiles that it was built with; empty for any batch.
        inputs: The arrays of one call.

    Raises:
        InputError: A name, a shape or a dtype is not the engine's, the batches differ, or no
            profile serves the shapes.
    """
    known = [spec.name for spec in specs]
    for name in inputs:
        if name not in known:
            raise InputError(f"the engine has no input '{name}'", hint=f"it has {known}")
    for spec in specs:
        _check_array(spec, inputs)
    batch = {int(array.shape[0]) for array in inputs.values()}
    if len(batch) > 1:
        raise InputError(f"the inputs' batch sizes differ: {sorted(batch)}")
    call = tuple((spec.name, tuple(inputs[spec.name].shape)) for spec in specs)
    if not serves(served, call):
        sized = next((spec for spec in specs if spec.sizes), None)
        at = f" at {size_words(dict(call)[sized.name][-2:])}" if sized else ""
        what = f"the engine was not built for batch {batch.pop()}{at}"
        raise InputError(what, hint=_served(served, sized))
    return call


def batch_of(call: Call) -> int:
    """How many rows a call has."""
    return call[0][1][0]


def output_shape(specs: Sequence[InputSpec], output: InputSpec, call: Call) -> tuple[int, ...]:
    """The shape (batch first) of an output: its height and width grow with the sample's."""
    spec = next((spec for spec in specs if spec.sizes), None)
    if spec is None:
        return (batch_of(call), *output.shape)
    now = dict(call)[spec.name][-2:]
    sides = (o * n // s for o, n, s in zip(output.shape[-2:], now, spec.shape[-2:], strict=True))
    return (batch_of(call), *output.shape[:-2], *sides)


def _check_array(spec: InputSpec, inputs: Arrays) -> None:
    if spec.name not in inputs:
        raise InputError(f"input '{spec.name}' is missing")
    array = inputs[spec.name]
    if array.ndim == 0 or not _is_of(spec, array.shape):
        need = ("batch", *spec.shape)
        if spec.sizes:
            need = ("batch", *spec.shape[:-2], "height", "width")
        raise InputError(f"input '{spec.name}' must be {need}, not {tuple(array.shape)}")
    if str(array.dtype) != spec.dtype:
        raise InputError(f"input '{spec.name}' must be {spec.dtype}, not {array.dtype}")


def _serves(profile: Profile, call: Call) -> bool:
    return all(
        len(shape) == len(profile[name].min)
        and all(
            low <= dim <= high
            for low, dim, high in zip(profile[name].min, shape, profile[name].max, strict=True)
        )
        for name, shape in call
    )


def serves(served: Sequence[Profile], call: Call) -> bool:
    """Whether an engine takes this call; one without profiles takes any."""
    return not served or any(_serves(profile, call) for profile in served)


def _served(served: Sequence[Profile], sized: InputSpec | None) -> str:
    """'it was built for batch 1, 4 at 16x16, 24x24; build again with --batch or --resolution'."""
    firsts = [next(iter(profile.values())) for profile in served]
    batches = [_ends(str(r.min[0]), str(r.max[0])) for r in firsts]
    said, flags = f"it was built for batch {_listed(batches)}", "--batch"
    if sized is not None:
        spans = [profile[sized.name] for profile in served]
        sizes = [_ends(size_words(r.min[-2:]), size_words(r.max[-2:])) for r in spans]
        said, flags = f"{said} at {_listed(sizes)}", "--batch or --resolution"
    return f"{said}; build again with {flags}"


def _ends(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(parts))


def profile_index(served: Sequence[Profile], call: Call) -> int:
    """The first profile whose optimum is this call, else the first that serves it."""
    fitting = [i for i, profile in enumerate(served) if _serves(profile, call)]
    best = [i for i in fitting if all(served[i][name].opt == shape for name, shape in call)]
    return (best or fitting)[0]


def call_words(target: str, inputs: Mapping[str, Any]) -> str:
    """What a call does, for messages: 'running ort-cpu on sample 8x3x32x32'."""
    name, array = max(inputs.items(), key=lambda item: math.prod(item[1].shape))
    return f"running {target} on {name} {'x'.join(map(str, array.shape))}"
