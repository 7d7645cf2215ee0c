"""What diffusers' own schedulers do in the place of the runtime's samplers: the tests' oracle."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from diffc.models.diffusion import LEAST_SIGNAL
from diffc.models.noise_levels import flow_levels
from diffc.models.schedulers import fitting_steps, is_flow, scheduler_settings, train_steps
from diffc_runtime import schedules

_DDIM_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")


def diffusers_scheduler(config: Mapping[str, Any], steps: int) -> Any:
    """diffusers' scheduler of ``deterministic_loop``: DDIM, or Euler along a flow."""
    own = scheduler_settings(config)
    steps = fitting_steps(own, steps)
    return _flow_euler(own, steps) if is_flow(own) else _ddim(own, steps)


def _flow_euler(own: Mapping[str, Any], steps: int) -> Any:
    given = {**own, "stochastic_sampling": False}
    if "FlowMatch" not in own["_class_name"]:
        given = {"num_train_timesteps": train_steps(own), "shift": own.get("flow_shift", 1.0)}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(given)
    scheduler.set_timesteps(steps, mu=own.get("base_shift") or 0.5)
    return scheduler


def _ddim(own: Mapping[str, Any], steps: int) -> Any:
    taken = inspect.signature(DDIMScheduler.__init__).parameters
    given = {key: value for key, value in own.items() if key in taken}
    if given["trained_betas"] is None and given["beta_schedule"] not in _DDIM_BETAS:
        betas = schedules.betas(own, np.float64).tolist()
        given |= {"trained_betas": betas, "beta_schedule": "linear"}
    scheduler = DDIMScheduler(**given)
    if own["rescale_betas_zero_snr"] and own["prediction_type"] == "epsilon":
        scheduler.alphas_cumprod[-1] = LEAST_SIGNAL
    scheduler.set_timesteps(steps)
    # over some numbers of steps, trailing spacing counts on to -1
    scheduler.timesteps = scheduler.timesteps[scheduler.timesteps >= 0]
    return scheduler


def place_levels(scheduler: Any, shape: tuple[int, ...]) -> None:
    """Set a flow scheduler's steps as the model's own pipeline does for samples of ``shape``."""
    levels = flow_levels({**scheduler.config, "_class_name": type(scheduler).__name__}, shape)
    if levels:
        steps = int(scheduler.num_inference_steps)
        sigmas = np.linspace(1.0, 1 / steps, steps) if "sigmas_end" in levels else None
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=levels.get("mu"))


def diffusers_states(model: Any, scheduler: Any, noise: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(timestep, x after its step) of a whole trajectory by diffusers' own code."""
    place_levels(scheduler, tuple(noise.shape[1:]))
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = None
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = model(x, t.expand(len(x)))[:, : x.shape[1]]
        x = scheduler.step(output, t, x, return_dict=False)[0]
        yield t, x


ORACLES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddpm": (DDPMScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "dpm++-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpm++-exponential": (DPMSolverMultistepScheduler, {"use_exponential_sigmas": True}),
    "dpm++-sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (LCMScheduler, {}),
}
"""The runtime's samplers of beta schedules: diffusers' class, and what the name sets."""


def sampled_by_diffusers(
    name: str, config: Mapping[str, Any], steps: int, model: Any, draws: list[Tensor]
) -> Tensor:
    """x_0 as diffusers' scheduler makes it from ``draws``: the first noise, then each step's."""
    cls, extra = ORACLES[name]
    scheduler = cls.from_config({**config, **extra})
    scheduler.set_timesteps(steps)
    module = importlib.import_module(cls.__module__)
    noise = iter(draws)
    x = next(noise) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *_, **__: next(noise), raising=False)
        for t in scheduler.timesteps:
            output = model(scheduler.scale_model_input(x, t), t.expand(len(x)))[:, : x.shape[1]]
            x = scheduler.step(output, t, x, return_dict=False)[0].float()
    return x
