"""Samplers in numpy: from a diffusers scheduler config to the steps of a denoising loop.

    sampler = scheduler("ddim", config, steps=50)
    x = noise * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        out = denoise(sampler.scale_input(x, i), t)
        x = sampler.step(out, i, x, noise=draw() if sampler.noise_scale[i] else None)

Every coefficient is computed once, in tables over the steps; a step is a few in-place operations on
``x`` and on scratch arrays that are allocated at the first step. The order of operations is
diffusers', so that both agree in float32 over whole trajectories.

The samplers themselves: discrete.py (ddpm, ddim), euler.py (euler, flow-euler), dpm.py (dpm++).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import schedules
from .discrete import ddim, ddpm
from .dpm import dpm_solver
from .errors import BadRequest
from .euler import euler, flow_euler
from .schedules import Config
from .stepping import Scheduler

_CLASSES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpm++",
    "FlowMatchEulerDiscreteScheduler": "flow-euler",
}
_SUBSTITUTED = (
    "",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "SASolverScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "FlowMatchHeunDiscreteScheduler",
)
"""Classes over the same noising processes, for which another sampler is used. diffusers' other
classes have another process (EDM, score SDEs), or models distilled for one sampler (LCM, TCD)."""
_BUILDERS: dict[str, Callable[[Config, int], Scheduler]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "dpm++": dpm_solver,
    "flow-euler": flow_euler,
}
NAMES = tuple(_BUILDERS)


def scheduler(name: str, config: Config, steps: int) -> Scheduler:
    """Return the sampler ``name`` over ``steps`` steps.

    Args:
        name: One of ``NAMES``.
        config: The config of a diffusers scheduler. If it is another class's, the keys that both
            have are used and the others have this sampler's defaults, as with diffusers'
            ``from_config``.
        steps: 1 to T.

    Raises:
        BadRequest: The name is unknown, the number of steps is out of range, or the config has
            settings that the sampler does not have.
    """
    if name not in _BUILDERS:
        raise BadRequest(f"unknown scheduler '{name}' (known: {', '.join(NAMES)})")
    shared = _shared_settings(config)
    _check_process(name, shared)
    check_steps(steps, schedules.train_steps(shared))
    return _BUILDERS[name](shared, steps)


def own_name(config: Config) -> str:
    """Return the name of the sampler for a config's own class; see ``substitute``."""
    try:
        return substitute(config)[0]
    except BadRequest:
        return "flow-euler" if _is_flow(config) else "ddim"


def substitute(config: Config, whole: bool = False) -> tuple[str, str | None]:
    """Choose the sampler for a config.

    DDIM visits the same noise levels as every sampler of a beta schedule, so it replaces the
    samplers that the runtime does not have; dpm++ does if a beta schedule's sampler follows a flow.

    Args:
        whole: The model takes whole timesteps only.

    Returns:
        The sampler's name, and the reason if it is not the config's own sampler, else None.

    Raises:
        BadRequest: No sampler fits: the model has another noising process, or was distilled for
            another sampler.
    """
    cls = str(config.get("_class_name", ""))
    if cls not in _CLASSES and cls not in _SUBSTITUTED:
        raise BadRequest(f"the runtime has no sampler for {cls}, and no other stands in for it")
    if config.get("timestep_type", "discrete") != "discrete":
        kind = config["timestep_type"]
        raise BadRequest(f"the runtime has no sampler for a model of {kind} timesteps ({cls})")
    reason = None if cls in _CLASSES or not cls else f"the runtime has no {cls}"
    for name in _candidates(config, cls):
        try:
            sampler = scheduler(name, config, min(_TRIAL_STEPS, schedules.train_steps(config)))
            check_whole(sampler, whole)
        except BadRequest as error:
            reason = reason or str(error)
        else:
            return name, reason
    raise BadRequest(reason or f"the runtime has no sampler for {cls}")


_TRIAL_STEPS = 7
"""Few enough for any model; linspace over 1000 timesteps visits fractions in 7 steps."""


def _candidates(config: Config, cls: str) -> list[str]:
    """Return the names of the samplers to try, the config's own class first."""
    if _is_flow(config):
        return ["flow-euler"]
    own = [_CLASSES[cls]] if cls in _CLASSES else []
    return [*own, "dpm++" if config.get("use_flow_sigmas") else "ddim"]


def check_whole(sampler: Scheduler, whole: bool) -> None:
    """Raise BadRequest if ``whole`` timesteps are needed and the sampler visits fractions."""
    if whole and np.any(sampler.timesteps % 1):
        raise BadRequest(
            f"scheduler '{sampler.name}' visits fractions of timesteps,"
            f" and this engine takes whole ones; use ddim or dpm++"
        )


def check_steps(steps: int, limit: int) -> None:
    """Raise BadRequest unless ``steps`` is a whole number in 1..limit."""
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= limit:
        raise BadRequest(f"steps must be a whole number from 1 to {limit}, not {steps!r}")


_CLIPPING = ("", "DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")
_CLIPS_ON_REQUEST = (*_CLIPPING, "HeunDiscreteScheduler", "LCMScheduler", "TCDScheduler")
_PROCESS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
)
"""Settings of the training: the defaults of the config's own class count, for every sampler."""


def _shared_settings(config: Config) -> Config:
    """Return the config without the sampler's keys whose values are its own class's defaults.

    ``clip_sample`` is False for a class that never clips x_0: DDPM and DDIM clip by default.
    """
    defaults = set(config.get("_use_default_values", ())) - set(_PROCESS)
    shared = {key: value for key, value in config.items() if key not in defaults}
    name = str(config.get("_class_name", ""))
    if name not in _CLIPS_ON_REQUEST:
        shared["clip_sample"] = False
    elif name not in _CLIPPING:
        shared.setdefault("clip_sample", False)
    if name and not name.startswith("DPMSolver"):  # UniPC and others use these keys otherwise
        for key in ("algorithm_type", "solver_type", "solver_order"):
            shared.pop(key, None)
    return shared


def _is_flow(config: Config) -> bool:
    return "FlowMatch" in str(config.get("_class_name", ""))


def _check_process(name: str, config: Config) -> None:
    if _is_flow(config) and name != "flow-euler":
        raise BadRequest(f"scheduler '{name}' does not fit a flow-matching model; use flow-euler")
    if name == "flow-euler" and not _is_flow(config):
        raise BadRequest(
            "scheduler 'flow-euler' needs a flow-matching model; use ddpm, ddim, euler or dpm++"
        )
