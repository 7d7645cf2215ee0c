"""What torch fp32 gives at real noisy inputs, kept beside the ONNX file.

An engine is checked against these on whatever machine it runs, without torch: K noise levels, and a
short deterministic (DDIM, eta = 0; Euler for flow matching) trajectory whose every step is
x <- a x + b f(x, t), so that only two numbers per step need to be stored. For every other size that
the file serves, a few noise levels of the same samples, scaled to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from diffc.data.activations import activation_bytes
from diffc.data.batches import run_in_batches
from diffc.data.clean import CleanSet
from diffc.models.denoiser import Denoiser
from diffc.models.diffusion import Process
from diffc_export.events import Progress, Work, drain
from diffc_export.targets.onnx_file import Size, reference_prefix
from diffc_runtime.denoising import denoise_whole, linear_sampler

LEVELS = 8
LEVELS_ELSEWHERE = 3
TRAJECTORY_STEPS = 10
ROOM = 2**30
"""Bytes for the activations of the rows that are computed together."""


def write_reference(
    path: Path,
    denoiser: Denoiser,
    clean: CleanSet,
    seed: int,
    others: Sequence[Size] = (),
) -> None:
    """Write what torch gives: ``input.NAME``, ``output``, ``trajectory.*`` (docs/architecture.md).

    Args:
        path: The safetensors file.
        denoiser: The model.
        clean: The samples that are noised.
        seed: Of the noise.
        others: Sizes of the sample beside its own, for ``at.HxW.input.NAME`` and ``at.HxW.output``.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = _noisy_inputs(denoiser, clean, generator)
    with torch.no_grad():
        tensors = _levels(denoiser, inputs)
        tensors |= _trajectory(denoiser, inputs, generator)
        for size in others:
            scaled = _noisy_inputs(denoiser, clean, generator, LEVELS_ELSEWHERE, size)
            level_tensors, prefix = _levels(denoiser, scaled), reference_prefix(size)
            tensors |= {f"{prefix}{name}": value for name, value in level_tensors.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _levels(denoiser: Denoiser, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    level_tensors = {f"input.{name}": value for name, value in inputs.items()}

    def part(rows: range) -> Work[Tensor]:
        given = {name: value[rows.start : rows.stop] for name, value in inputs.items()}
        yield Progress(rows.stop, len(inputs["sample"]), "running the model at reference inputs")
        return denoiser.call(given)

    count = len(inputs["sample"])
    row = activation_bytes(denoiser, {name: value[:1] for name, value in inputs.items()})
    most = min(count, max(1, ROOM // max(row, 1)))
    parts = drain(run_in_batches(count, most, part, "running the model at reference inputs"))
    return level_tensors | {"output": torch.cat(parts)}


def _noisy_inputs(
    denoiser: Denoiser,
    clean: CleanSet,
    generator: torch.Generator,
    levels: int = LEVELS,
    size: Size | None = None,
) -> dict[str, Tensor]:
    """K samples noised to K levels, from nearly clean to nearly noise; scaled to ``size`` first."""
    sample, conditions = clean.draw(levels, generator)
    if size is not None:
        whole = sample.flatten(1, -3)  # channels, and a video's frames
        whole = functional.interpolate(whole, size, mode="bilinear", align_corners=False)
        sample = whole.reshape(*sample.shape[:-2], *size)
    t = torch.linspace(0, len(denoiser.process) - 1, levels).round().long()
    noise = torch.randn(sample.shape, generator=generator)
    return denoiser.noised(sample, noise, t, conditions)


def _trajectory(
    denoiser: Denoiser, inputs: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    process = denoiser.process
    steps = max(1, min(TRAJECTORY_STEPS, len(process) - 1))
    t = torch.linspace(len(process) - 1, 0, steps + 1).round().long()
    times, coefficients = process.time(t[:-1]), ddim_coefficients(process, t)
    x = torch.randn(inputs["sample"][:1].shape, generator=generator)
    first = x.clone()
    conditions = {k: v[:1] for k, v in inputs.items() if k not in ("sample", "timestep")}

    def call(sample: Any, time: float) -> Any:
        timestep = torch.tensor([time], dtype=times.dtype)
        output = denoiser.call({"sample": sample, "timestep": timestep, **conditions})
        return output[:, : sample.shape[1]]

    start: Any = x
    sampler = linear_sampler(times.double().numpy(), coefficients.tolist())
    end: Any = denoise_whole(call, sampler, start)
    return {
        "trajectory.initial": first,
        "trajectory.timesteps": times,
        "trajectory.coefficients": coefficients,
        "trajectory.final": end,
    }


def ddim_coefficients(process: Process, t: Tensor) -> Tensor:
    """(S, 2) float32: a, b of x <- a x + b f(x, t[i]) that go from t[i] to t[i + 1].

    DDIM with eta = 0 (Song et al. 2021, eq. 12) without clipping: with s, n the signal and noise
    rates now and s', n' after, x_0 and eps are linear in x and the model's output f:
    epsilon:  x' = (s'/s) x + (n' - s' n / s) f
    sample:   x' = (n'/n) x + (s' - n' s / n) f
    v:        x' = (s' s + n' n) x + (n' s - s' n) f
    flow:     x' = x + (n' - n) f
    """
    s, n = process.signal[t[:-1]], process.noise[t[:-1]]
    s_, n_ = process.signal[t[1:]], process.noise[t[1:]]
    if process.prediction == "epsilon":
        a, b = s_ / s, n_ - s_ * n / s
    elif process.prediction == "sample":
        a, b = n_ / n, s_ - n_ * s / n
    elif process.prediction == "v_prediction":
        a, b = s_ * s + n_ * n, n_ * s - s_ * n
    else:
        a, b = torch.ones_like(n), n_ - n
    return torch.stack([a, b], dim=1).float()
