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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffc.errors import InputError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


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


_OTHER_PROCESSES = ("EDM", "ScoreSde", "KarrasVe", "CMStochastic", "VQDiffusion", "Wuerstchen")
"""In the names of schedulers whose noise is no beta schedule's: exploding variance, discrete."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is of rectified flow: by its class, or by its settings.

    Sana and Wan ship solvers of beta schedules that are told to take flow's sigmas.
    """
    told = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return bool(told) or "FlowMatch" in str(config.get("_class_name", ""))


def process_from_scheduler(config: Mapping[str, Any]) -> Process:
    """The process that a diffusers scheduler's config describes.

    Raises InputError when the config describes none that diffc knows.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    if is_flow(config):
        return _flow_process(config, steps)
    class_name = str(config.get("_class_name", ""))
    if any(name in class_name for name in _OTHER_PROCESSES):
        raise InputError(
            f"the noise of {class_name} is of no beta schedule, and diffc knows no other",
            hint="known: DDPM, DDIM, Euler, DPM-Solver and their kin, and flow matching",
        )
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise InputError(
            f"the scheduler predicts '{prediction}', which diffc does not know",
            hint="known: epsilon, v_prediction, sample, and flow-matching schedulers",
        )
    alpha_bar = torch.cumprod(1.0 - _betas(config, steps), dim=0)
    if config.get("rescale_betas_zero_snr"):
        alpha_bar = _zero_terminal_snr(alpha_bar)
    return Process(
        prediction=prediction,  # type: ignore[arg-type]
        signal=alpha_bar.sqrt(),
        noise=(1.0 - alpha_bar).sqrt(),
        model_time=torch.arange(steps, dtype=torch.float32),
    )


def _betas(config: Mapping[str, Any], steps: int) -> Tensor:
    """float64 (T,), by the same rules as diffusers' DDPMScheduler."""
    trained = config.get("trained_betas")
    if trained is not None:
        return torch.tensor(trained, dtype=torch.float64)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if schedule == "squaredcos_cap_v2":
        edges = torch.arange(steps + 1, dtype=torch.float64) / steps
        bar = torch.cos((edges + 0.008) / 1.008 * torch.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp_max(0.999)
    if schedule == "sigmoid":
        ramp = torch.linspace(-6, 6, steps, dtype=torch.float64)
        return torch.sigmoid(ramp) * (end - start) + start
    raise InputError(
        f"the scheduler's beta_schedule '{schedule}' is unknown",
        hint="known: linear, scaled_linear, squaredcos_cap_v2, sigmoid, or trained_betas",
    )


def _zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Lin et al. 2023 (2305.08891), algorithm 1: no signal is left at the last timestep.

    What is divided by keeps the trace of it that diffusers' own Euler sampler keeps.
    """
    root = alpha_bar.sqrt()
    scaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return scaled.square().clamp_min(2.0**-24)


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
