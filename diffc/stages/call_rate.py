"""A second of a network's calls before a first run, from which its time is estimated.

A large network takes longer than that for one call: then one call is all, and a backward pass
counts as two forward passes. Small calls wait for other programs most of all: a rate that was taken
beside them says so, and a later run takes it anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from diffc.durations import Rate, keep_rate
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.stage_inputs import RunShape
from diffc_export.events import Progress, Work
from diffc_runtime.machine.cpu import cores

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.models.denoiser import Denoiser
    from diffc_export.specs import Inputs

_SECONDS = 0.5
"""Of each of the two kinds of calls."""
_ROWS = 8
_PATIENCE = 60.0
"""A first call of more seconds is not made again."""
_CROWDED = 0.75
"""From so much load for each core on, small calls may take many times what they take alone."""


def measure_rate(source: Source, recipe: Recipe, seconds: float = _SECONDS) -> Work[Rate | None]:
    """Time forward and backward passes of the dense model with example inputs.

    Returns:
        The rate, which is kept for later runs; None where memory has no room for one row.
    """
    from diffc.data.precision import best_device, channels_last
    from diffc_runtime.machine.out_of_memory import is_out_of_memory

    yield Progress(0, None, "a second of its calls, for an estimate")
    denoiser = RunShape.of(recipe).open(source)
    channels_last(denoiser.model.to(best_device()))
    try:
        rate = _rate(denoiser, seconds)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    keep_rate(source.class_name, source.config, recipe, rate)
    return rate


def _rate(denoiser: Denoiser, seconds: float) -> Rate:
    from diffc.data.precision import device_of
    from diffc_runtime.machine.out_of_memory import is_out_of_memory

    device, rows = device_of(denoiser.model), _ROWS
    params = sum(value.numel() for value in denoiser.model.parameters())
    row = {name: value.to(device) for name, value in denoiser.examples().items()}
    single = _seconds(lambda: _forward(denoiser, row), 0.0)
    if single < _PATIENCE:  # the first call of all prepares what later ones use
        single = _seconds(lambda: _forward(denoiser, row), 0.0)
    if single * rows > seconds:
        rows = 1
    batch = {name: value.to(device) for name, value in denoiser.examples(rows).items()}
    call = (
        _seconds(lambda: _forward(denoiser, batch), seconds) / rows if single < seconds else single
    )
    training = 3 * call
    if single < seconds:
        try:
            training = _seconds(lambda: _backward(denoiser, batch), seconds) / rows
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    denoiser.model.zero_grad(set_to_none=True)
    return Rate(call, training, params, shared=_is_shared())


def _is_shared() -> bool:
    """True where other programs want most of the cores: of this one, the load has little yet."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return load > _CROWDED * cores()


def _seconds(call: Callable[[], None], least: float) -> float:
    """The shortest of the calls of ``least`` seconds, after a first one; of one call for 0."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < (2 if least else 1) or time.perf_counter() - begin < least:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times[1:] or times)


def _forward(denoiser: Denoiser, batch: Inputs) -> None:
    import torch

    with torch.no_grad():
        _output(denoiser, batch)
        _wait()


def _backward(denoiser: Denoiser, batch: Inputs) -> None:
    import torch

    with torch.enable_grad():
        torch.autograd.backward(_output(denoiser, batch).square().mean())
        _wait()


def _output(denoiser: Denoiser, batch: Inputs) -> Tensor:
    from diffc.data.precision import autocast, device_of, fast_dtype

    device = device_of(denoiser.model)
    with autocast(device, fast_dtype(device)):
        return denoiser.call(batch).float()


def _wait() -> None:
    """Wait for what a GPU still computes."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
