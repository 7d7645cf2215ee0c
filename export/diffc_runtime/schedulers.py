"""Samplers in numpy: from a diffusers scheduler config to the steps of a denoising loop.

    sampler = scheduler("ddim", config, steps=50)
    x = noise * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        out = denoise(sampler.scale_input(x, i), t)
        x = sampler.step(out, i, x, noise=draw() if sampler.noise_scale[i] else None)

Every coefficient is computed once, in tables over the steps; a step is a few in-place operations on
``x`` and on scratch arrays that are allocated at the first step. The order of operations is
diffusers', so that both agree in float32 over whole trajectories.

The samplers themselves: discrete.py (ddpm, ddim), euler.py (euler, euler-ancestral, flow-euler),
heun.py, dpm.py (dpm++ and its variants, flow-dpm++), unipc.py, pndm.py, consistency.py (lcm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from . import schedules
from .checks import check_whole_number
from .consistency import lcm
from .discrete import ddim, ddpm
from .dpm import dpm_solver, dpm_solver_sde, flow_dpm_solver
from .errors import BadRequest, known_names, value_words
from .euler import euler, euler_ancestral, flow_euler
from .heun import heun
from .pndm import pndm
from .schedules import Config
from .stepping import Scheduler
from .unipc import unipc

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
    "euler-ancestral": euler_ancestral,
    "heun": heun,
    "dpm++": dpm_solver,
    "dpm++-karras": dpm_solver,
    "dpm++-exponential": dpm_solver,
    "dpm++-sde": dpm_solver_sde,
    "unipc": unipc,
    "pndm": pndm,
    "lcm": lcm,
    "flow-euler": flow_euler,
    "flow-dpm++": flow_dpm_solver,
}
_SIGMAS: dict[str, Config] = {
    "dpm++-karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
    "dpm++-exponential": {"use_karras_sigmas": False, "use_exponential_sigmas": True},
}
"""The settings that a sampler's name stands for."""
NAMES = tuple(_BUILDERS)
_WORDS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler-ancestral": "Euler ancestral",
    "heun": "Heun",
    "dpm++": "DPM-Solver++",
    "dpm++-karras": "DPM-Solver++ Karras",
    "dpm++-exponential": "DPM-Solver++ exponential",
    "dpm++-sde": "DPM-Solver++ SDE",
    "unipc": "UniPC",
    "pndm": "PNDM",
    "lcm": "LCM",
    "flow-euler": "Euler along the flow",
    "flow-dpm++": "DPM-Solver++ along the flow",
}
"""The samplers as people write them."""
FLOW_NAMES = ("flow-euler", "flow-dpm++")
_EITHER = ("dpm++", "unipc")
"""Samplers of beta schedules that follow a flow where the config's ``use_flow_sigmas`` says so."""


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
    if not isinstance(name, str) or name not in _BUILDERS:
        near = known_names(str(name), NAMES)
        raise BadRequest(f"unknown scheduler {value_words(name)} ({near})")
    shared = _shared_settings(config, name)
    _check_process(name, shared)
    steps = check_steps(steps, schedules.train_steps(shared))
    sampler = _BUILDERS[name]({**shared, **_SIGMAS.get(name, {})}, steps)
    return _with_name(sampler, name)


def _with_name(sampler: Scheduler, name: str) -> Scheduler:
    restart = sampler.restart
    again = None if restart is None else lambda step: _with_name(restart(step), name)
    return replace(sampler, name=name, restart=again)


def first_step(config: Config, steps: int, strength: float) -> int:
    """Return the step at which image-to-image begins, as diffusers' pipelines place it.

    Of 10 steps at strength 0.6 those from step 4 on are done. Pipelines of flows and those of beta
    schedules round a fraction of a step in opposite directions.

    Args:
        config: The config of a diffusers scheduler.
        steps: The number of steps of a whole trajectory.
        strength: Above 0 to 1: how much of the trajectory is done.
    """
    if is_flow(config):
        return int(max(steps - min(steps * strength, steps), 0))
    return max(steps - min(int(steps * strength), steps), 0)


def sampler_words(name: str) -> str:
    """Return a sampler's name as people write it: DDIM for ddim; an unknown name as it is."""
    return _WORDS.get(name, name)


def own_name(config: Config) -> str:
    """Return the name of the sampler for a config's own class; see ``substitute``."""
    try:
        return substitute(config)[0]
    except BadRequest:
        return "flow-euler" if _is_flow(config) else "ddim"


def deterministic_name(config: Config) -> str:
    """Return the sampler of a config's process that adds no noise: DDIM, or Euler along a flow."""
    along = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return "flow-euler" if along or _is_flow(config) else "ddim"


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


def check_steps(steps: object, limit: int) -> int:
    """Return a whole number in 1..limit as Python's own. Raises BadRequest for anything else."""
    return check_whole_number("steps", steps, 1, limit)


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


_OF_CLASSES = {
    "algorithm_type": "DPMSolver",
    "solver_type": "DPMSolver",
    "solver_order": "DPMSolver",
    "predict_x0": "UniPC",
    "disable_corrector": "UniPC",
    "solver_p": "UniPC",
    "skip_prk_steps": "PNDM",
}
"""Keys that count where the config's class begins with this: others mean something else by them."""


def _shared_settings(config: Config, name: str) -> Config:
    """Return the config without the keys whose values are its own class's, for sampler ``name``.

    ``clip_sample`` is False for a class that never clips x_0: DDPM and DDIM clip by default.
    """
    defaults = set(config.get("_use_default_values", ())) - set(_PROCESS)
    shared = {key: value for key, value in config.items() if key not in defaults}
    cls = str(config.get("_class_name", ""))
    if cls not in _CLIPS_ON_REQUEST:
        shared["clip_sample"] = False
    elif cls not in _CLIPPING:
        shared.setdefault("clip_sample", False)
    for key, owner in _OF_CLASSES.items():
        owner = "UniPC" if name == "unipc" and key.startswith("solver_") else owner
        if cls and not cls.startswith(owner):
            shared.pop(key, None)
    return shared


def _is_flow(config: Config) -> bool:
    return "FlowMatch" in str(config.get("_class_name", ""))


def is_flow(config: Config) -> bool:
    """Return True if the model follows a flow, by whichever class of scheduler."""
    return _is_flow(config) or bool(config.get("use_flow_sigmas"))


def _check_process(name: str, config: Config) -> None:
    flow = is_flow(config)
    if name in FLOW_NAMES and not flow:
        names = ", ".join(known for known in NAMES if known not in FLOW_NAMES)
        raise BadRequest(f"scheduler '{name}' needs a flow-matching model; use {names}")
    follows = name in FLOW_NAMES or (config.get("use_flow_sigmas") and name in _EITHER)
    if flow and not follows:
        names = " or ".join(FLOW_NAMES)
        raise BadRequest(f"scheduler '{name}' does not fit a flow-matching model; use {names}")
