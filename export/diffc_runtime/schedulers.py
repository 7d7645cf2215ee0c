"""Samplers in numpy: from a diffusers scheduler config to the steps of a denoising loop.

    sampler = scheduler("ddim", config, steps=50)
    x = noise * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        out = denoise(sampler.scale_input(x, i), t)
        x = sampler.step(out, i, x, noise=draw() if sampler.noise_scale[i] else None)

Every coefficient is worked out once, in tables over the steps; a step is a handful of in-place
operations on ``x`` and on scratch arrays that are made at the first step. The arithmetic keeps
diffusers' order of operations, so that the two stay together in float32 over whole trajectories.

The samplers themselves: discrete.py (ddpm, ddim), euler.py (euler, flow-euler), dpm.py (dpm++).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
_STOOD_IN_FOR = (
    "", "PNDMScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler", "DPMSolverSDEScheduler", "SASolverScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DDIMParallelScheduler",
    "DDPMParallelScheduler", "FlowMatchHeunDiscreteScheduler",
)  # fmt: skip
"""Other classes over the same noising processes. The rest have another process (EDM, score SDEs),
or models that were distilled for one sampler (LCM, TCD)."""
_BUILDERS: dict[str, Callable[[Config, int], Scheduler]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "dpm++": dpm_solver,
    "flow-euler": flow_euler,
}
NAMES = tuple(_BUILDERS)


def scheduler(name: str, config: Config, steps: int) -> Scheduler:
    """The sampler ``name`` (one of ``NAMES``) over ``steps`` steps.

    config: a diffusers scheduler's config. When it is another class's, the keys the two share are
    taken over and the rest have this sampler's defaults, as with diffusers' ``from_config``.
    Raises BadRequest for an unknown name, a number of steps outside 1..T, and settings that the
    sampler does not have.
    """
    if name not in _BUILDERS:
        raise BadRequest(f"unknown scheduler '{name}' (known: {', '.join(NAMES)})")
    shared = _shared(config)
    _check_process(name, shared)
    check_steps(steps, schedules.train_steps(shared))
    return _BUILDERS[name](shared, steps)


def own_name(config: Config) -> str:
    """The sampler that stands for the config's own class; see ``substitute``."""
    try:
        return substitute(config)[0]
    except BadRequest:
        return "flow-euler" if _is_flow(config) else "ddim"


def substitute(config: Config, whole: bool = False) -> tuple[str, str | None]:
    """The sampler for a config, and, where it is not the config's own, why.

    DDIM visits the same noise levels as every sampler of a beta schedule, so it takes the place of
    those that the runtime lacks; dpm++ does where a beta schedule's sampler follows a flow.
    whole: the model takes whole timesteps alone.
    Raises BadRequest where none fits: another noising process, or a model for another sampler.
    """
    cls = str(config.get("_class_name", ""))
    if cls not in _CLASSES and cls not in _STOOD_IN_FOR:
        raise BadRequest(f"the runtime has no sampler for {cls}, and no other stands in for it")
    if config.get("timestep_type", "discrete") != "discrete":
        kind = config["timestep_type"]
        raise BadRequest(f"the runtime has no sampler for a model of {kind} timesteps ({cls})")
    reason = None if cls in _CLASSES or not cls else f"the runtime has no {cls}"
    for name in _candidates(config, cls):
        try:
            made = scheduler(name, config, min(_TRIED, schedules.train_steps(config)))
            check_whole(made, whole)
        except BadRequest as refused:
            reason = reason or str(refused)
        else:
            return name, reason
    raise BadRequest(reason or f"the runtime has no sampler for {cls}")


_TRIED = 7
"""Steps of a trial: few enough for any model, and linspace over 1000 visits fractions."""


def _candidates(config: Config, cls: str) -> list[str]:
    """The samplers to try, the config's own class first."""
    if _is_flow(config):
        return ["flow-euler"]
    own = [_CLASSES[cls]] if cls in _CLASSES else []
    return [*own, "dpm++" if config.get("use_flow_sigmas") else "ddim"]


def check_whole(sampler: Scheduler, whole: bool) -> None:
    """Raise BadRequest when ``whole`` timesteps are needed and the sampler visits fractions."""
    if whole and np.any(sampler.timesteps % 1):
        raise BadRequest(
            f"scheduler '{sampler.name}' visits fractions of timesteps,"
            f" and this engine takes whole ones; use ddim or dpm++"
        )


def check_steps(steps: Any, limit: int) -> None:
    """Raise BadRequest unless ``steps`` is a whole number in 1..limit."""
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= limit:
        raise BadRequest(f"steps must be a whole number from 1 to {limit}, not {steps!r}")


_CLIPPING = ("", "DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")
_CLIPS_WHEN_TOLD = (*_CLIPPING, "HeunDiscreteScheduler")
_PROCESS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
    "prediction_type", "rescale_betas_zero_snr", "clip_sample", "clip_sample_range", "thresholding",
)  # fmt: skip
"""What the model was trained with: its own class's defaults count, whichever sampler runs."""


def _shared(config: Config) -> dict[str, Any]:
    """The config without the sampler's keys that only held its own class's defaults.

    A class that never clips x_0 does not because DDPM and DDIM do unless they are told not to.
    """
    defaults = set(config.get("_use_default_values", ())) - set(_PROCESS)
    shared = {key: value for key, value in config.items() if key not in defaults}
    name = str(config.get("_class_name", ""))
    if name not in _CLIPS_WHEN_TOLD:
        shared["clip_sample"] = False
    elif name not in _CLIPPING:
        shared.setdefault("clip_sample", False)
    if name and not name.startswith("DPMSolver"):  # UniPC and others mean other things by them
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
