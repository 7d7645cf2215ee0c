"""Deterministic sampling: from noise to images with diffusers' own schedulers.

deterministic_scheduler   DDIM (eta 0), or Euler for flow matching, set to a number of steps
place_levels              flow matching's noise levels, for samples of one size
denoise                   the loop; yields after each step, returns x_0
SamplerInfo               what every figure made from samples must carry
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffc.models.diffusion import LEAST_SIGNAL
from diffc.models.noise_levels import flow_levels
from diffc.models.schedulers import fitting_steps, is_flow, scheduler_settings, train_steps
from diffc_runtime import schedules

ModelCall = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), timestep (B,)) -> the model's output, shaped like x_t."""


@dataclass(frozen=True)
class SamplerInfo:
    """The sampler behind a figure: class, steps, and how timesteps are spaced."""

    sampler: str
    steps: int
    spacing: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return asdict(self)


def deterministic_scheduler(config: Mapping[str, Any], steps: int) -> Any:
    """A diffusers scheduler that adds no noise on the way: DDIM, or Euler along a flow.

    Betas, prediction, clipping and spacing are those of the config's own class; DDIM brings no
    defaults of its own.

    Args:
        config: the model's own scheduler_config.json, with its ``_class_name``.
        steps: at most so many; fewer where the model has fewer timesteps
            (``diffc.models.schedulers.fitting_steps``).
    """
    own = scheduler_settings(config)
    steps = fitting_steps(own, steps)
    return _flow_euler(own, steps) if is_flow(own) else _ddim(own, steps)


def _flow_euler(own: Mapping[str, Any], steps: int) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    given = {**own, "stochastic_sampling": False}
    if "FlowMatch" not in own["_class_name"]:  # a solver that is told to take its sigmas
        given = {"num_train_timesteps": train_steps(own), "shift": own.get("flow_shift", 1.0)}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(given)
    # mu stands in until ``denoise`` sees how large the samples are
    scheduler.set_timesteps(steps, mu=own.get("base_shift") or 0.5)
    return scheduler


def _ddim(own: Mapping[str, Any], steps: int) -> Any:
    from diffusers import DDIMScheduler

    taken = inspect.signature(DDIMScheduler.__init__).parameters
    given = {key: value for key, value in own.items() if key in taken}
    if given["trained_betas"] is None and given["beta_schedule"] not in _DDIM_BETAS:
        betas = schedules.betas(own, np.float64).tolist()
        given |= {"trained_betas": betas, "beta_schedule": "linear"}
    scheduler = DDIMScheduler(**given)
    if own["rescale_betas_zero_snr"] and own["prediction_type"] == "epsilon":
        scheduler.alphas_cumprod[-1] = LEAST_SIGNAL  # x_0 is divided by its root
    scheduler.set_timesteps(steps)
    # over some numbers of steps, trailing spacing counts on to -1
    scheduler.timesteps = scheduler.timesteps[scheduler.timesteps >= 0]
    return scheduler


_DDIM_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""The beta schedules that DDIM knows by name; every other is handed over as its betas."""


def sampler_info(scheduler: Any) -> SamplerInfo:
    """What to write beside a figure made with ``scheduler``."""
    name = type(scheduler).__name__.removesuffix("Scheduler")
    spacing = str(scheduler.config.get("timestep_spacing", "linspace"))
    return SamplerInfo(name, int(scheduler.num_inference_steps), spacing)


def place_levels(scheduler: Any, shape: Sequence[int]) -> None:
    """Set a flow scheduler's steps as the model's own pipeline does for samples of ``shape``."""
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    levels = flow_levels(config, shape)
    if not levels:
        return
    steps = int(scheduler.num_inference_steps)
    sigmas = np.linspace(1.0, 1 / steps, steps) if "sigmas_end" in levels else None
    scheduler.set_timesteps(steps, sigmas=sigmas, mu=levels.get("mu"))


def denoise(model: ModelCall, scheduler: Any, noise: Tensor) -> Iterator[Tensor]:
    """Yield x after each step of ``scheduler``; the last one is x_0.

    noise: (B, ...) standard normal. The scheduler's step counter is set back first, so that one
    scheduler serves many batches; flow matching's noise levels may depend on the noise's shape.
    """
    place_levels(scheduler, noise.shape[1:])
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = None
    x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    for t in scheduler.timesteps:
        output = model(x, t.expand(len(x)).to(x.device))
        output = output[:, : x.shape[1]]  # where the variance is learned it comes after the noise
        x = scheduler.step(output.to(x.dtype), t, x, return_dict=False)[0]
        yield x


@torch.no_grad()
def sample(model: ModelCall, scheduler: Any, noise: Tensor) -> Tensor:
    """x_0 (B, ...) from ``noise`` (B, ...), without progress."""
    x = noise
    for x in denoise(model, scheduler, noise):  # noqa: B007
        pass
    return x
