"""The forward (noising) process of a model, and its losses on one common scale.

A diffusion model is trained to predict epsilon, v, x_0 or (rectified flow) the velocity. Their
losses differ by a factor that depends on t alone. ``epsilon_scale`` is that factor, so that losses
of every parametrisation can be compared over timesteps as squared errors of the implied noise:

    epsilon   1
    v         alpha_bar            (v-hat error = error in eps / sqrt(alpha_bar), at fixed x_t)
    sample    alpha_bar / (1 - alpha_bar)
    flow      (1 - sigma)^2        (x_t = (1 - sigma) x_0 + sigma eps, u = eps - x_0)

Sources: Ho et al. 2020 (DDPM), eq. 4 and 14; Salimans & Ho 2022 (v-prediction), appendix D;
Lipman et al. 2023 (flow matching), as parametrised by Esser et al. 2024 (SD3), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffc.models.schedulers import check_scheduler, is_flow, scheduler_settings, train_steps
from diffc_runtime import schedules

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


LEAST_SIGNAL = float(schedules.LEAST_SIGNAL)


@dataclass(frozen=True)
class Process:
    """x_t = signal[t] x_0 + noise[t] eps, with t counted in training timesteps 0..T-1.

    signal, noise: float64 tensors (T,). For flow matching t indexes sigma = (t + 1) / T (after the
    model's own shift), so that a larger t is always more noise.
    model_time: float32 (T,), what the model is given as its timestep for each t: not a whole number
        for all of them, nor for samplers that step between the trained ones.
    """

    prediction: Prediction
    signal: Tensor
    noise: Tensor
    model_time: Tensor

    def __len__(self) -> int:
        return len(self.signal)

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for a batch: clean and noise (B, ...), t int64 (B,)."""
        a, b = self._at(self.signal, t, clean), self._at(self.noise, t, clean)
        return a * clean + b * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a perfect model would output at x_t, in the model's own parametrisation."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        if self.prediction == "flow":
            return noise - clean
        a, b = self._at(self.signal, t, clean), self._at(self.noise, t, clean)
        return a * noise - b * clean

    def epsilon_scale(self, t: Tensor) -> Tensor:
        """(B,) float32: squared output error times this is the squared error of the implied eps."""
        a2, b2 = self.signal[t.cpu()] ** 2, self.noise[t.cpu()] ** 2
        scale = {
            "epsilon": torch.ones_like(a2),
            "v_prediction": a2,
            "sample": a2 / b2.clamp_min(1e-12),
            "flow": a2,
        }[self.prediction]
        return scale.float().to(t.device)

    def snr(self, t: Tensor) -> Tensor:
        """(B,) float32: the signal-to-noise ratio (signal / noise)^2 at t."""
        a2, b2 = self.signal[t.cpu()] ** 2, self.noise[t.cpu()] ** 2
        return (a2 / b2.clamp_min(1e-12)).float().to(t.device)

    def time(self, t: Tensor) -> Tensor:
        """What the model is given as ``timestep`` for training timesteps t (B,)."""
        return self.model_time.to(t.device)[t]

    @staticmethod
    def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
        row = table[t.cpu()].to(like.device, like.dtype)
        return row.reshape(-1, *([1] * (like.ndim - 1)))


def time_dtype(times: Iterable[float], *, flow: bool) -> torch.dtype:
    """Return what a model is given its timesteps in, as its pipeline does.

    Args:
        times: The timesteps of a loop.
        flow: Whether the process is a flow, whose timesteps are no indices.

    Returns:
        int64 where all of them are trained timesteps, for embeddings that are looked up; float32
        for a flow, and for samplers that step between the trained ones.
    """
    return torch.float32 if flow or any(time % 1 for time in times) else torch.int64


def process_from_scheduler(config: Mapping[str, Any]) -> Process:
    """The process that a diffusers scheduler's config describes, read as its own class reads it.

    Raises InputError when the config describes none that diffc knows.
    """
    if config.get("_class_name"):
        check_scheduler(config)
    own = scheduler_settings(config)
    steps = train_steps(own)
    if is_flow(own):
        return _flow_process(own, steps)
    alpha_bar = torch.from_numpy(schedules.alpha_bar(own, np.float64))
    if own.get("rescale_betas_zero_snr"):
        alpha_bar = alpha_bar.clamp_min(LEAST_SIGNAL)  # training divides by its root
    return Process(
        prediction=own["prediction_type"],
        signal=alpha_bar.sqrt(),
        noise=(1.0 - alpha_bar).sqrt(),
        model_time=torch.arange(steps, dtype=torch.float32),
    )


def served_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's ``settings`` for a runtime without diffusers, as plain JSON."""
    own = scheduler_settings(config)
    if is_flow(own) and "FlowMatch" not in own["_class_name"]:
        own["use_flow_sigmas"] = True  # a prediction of the velocity alone says so too
    return {k: v for k, v in own.items() if not isinstance(v, float) or math.isfinite(v)}


def _flow_process(config: Mapping[str, Any], steps: int) -> Process:
    sigma = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
    if not config.get("use_dynamic_shifting", False):
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return Process(
        prediction="flow",
        signal=1.0 - sigma,
        noise=sigma,
        model_time=(sigma * steps).float(),
    )
