"""The steps of a loop that a student learns, and the scheduler of such a student.

    student_scheduler  the scheduler config of the student, which stock samplers read
    loop_steps         where the loop calls the model, and what each call moves
    clean_step         the step from a timestep to the clean sample

A step of DDIM, or of Euler's method along a flow, is x <- keep x + gain f(x, t) where nothing is
clipped. So the output that takes a state x to a wanted state y is f = (y - keep x) / gain, whatever
the model predicts. For v-prediction this is the target of Salimans & Ho 2022 (2202.00512),
algorithm 2: x_0 = (y - (s'/s) x) / (a' - (s'/s) a) and v = (a x - x_0) / s, with a, s the rates of
signal and noise at the step's begin and a', s' those at its end.

Why a student of a beta schedule predicts v: at the first step the signal's rate is .006 in usual
schedules, and an error of epsilon is divided by it on the way to x_0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffc.data.sampling import torch_loop
from diffc.data.student_loops import SPACING
from diffc.models.diffusion import Process
from diffc.models.noise_levels import flow_levels
from diffc.models.schedulers import is_flow, scheduler_settings, train_steps
from diffc_runtime import schedules
from diffc_runtime.json_types import JsonDict, JsonObject
from diffc_runtime.loop import Loop

_BETAS_OF_DDIM = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""The schedules that diffusers' DDIMScheduler knows by name; others are given as their betas."""


@dataclass(frozen=True)
class LoopSteps:
    """The N steps of one loop: x <- keep x + gain f(x, t).

    Attributes:
        times: (N,) the model's timestep at each step, the noisiest first.
        keep: (N,) the factor of x.
        gain: (N,) the factor of the model's output.
    """

    times: tuple[float, ...]
    keep: tuple[float, ...]
    gain: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.times)


def student_scheduler(config: JsonObject, spacing: str | None = None) -> JsonDict:
    """Return the scheduler config of a student: what diffusers and the runtime sample it by.

    Its noise levels are the dense model's. Along a flow the student predicts the velocity, as the
    dense model does; of a beta schedule it predicts v (or x_0, where the dense model does), nothing
    is clipped, and sampling ends at the clean sample.

    Args:
        config: The dense model's scheduler config.
        spacing: Of the timesteps, for a beta schedule; None: ``SPACING``.
    """
    own = scheduler_settings(config)
    if is_flow(own):
        return _flow_scheduler(config, own)
    betas = {name: own.get(name) for name in ("beta_start", "beta_end", "beta_schedule")}
    trained = own.get("trained_betas")
    if trained is None and own["beta_schedule"] not in _BETAS_OF_DDIM:
        betas["beta_schedule"] = "linear"
        trained = schedules.betas(own).tolist()
    return {
        "_class_name": "DDIMScheduler",
        **betas,
        "num_train_timesteps": train_steps(own),
        "trained_betas": trained,
        "rescale_betas_zero_snr": bool(own.get("rescale_betas_zero_snr")),
        "prediction_type": "sample" if own["prediction_type"] == "sample" else "v_prediction",
        "timestep_spacing": spacing or SPACING,
        "steps_offset": own.get("steps_offset") or 0,
        "clip_sample": False,
        "thresholding": False,
        "set_alpha_to_one": True,
    }


def _flow_scheduler(config: JsonObject, own: JsonObject) -> JsonDict:
    if "FlowMatch" in str(own["_class_name"]):
        chosen = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": False}
        return {**config, **chosen}
    return {  # of a solver of beta schedules that follows a flow
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": train_steps(own),
        "shift": own.get("flow_shift") or 1.0,
    }


def sampler_settings(scheduler: JsonObject, shape: Sequence[int]) -> JsonDict:
    """Return what the runtime's samplers read of a scheduler config.

    Args:
        scheduler: The config.
        shape: Of a sample without the batch: the noise levels of a flow may depend on it.
    """
    own = torch_loop(scheduler, Loop()).config
    return {**own, **flow_levels(own, shape)}


def loop_steps(loop: Loop, settings: Mapping[str, Any]) -> LoopSteps:
    """Return the steps of a student's loop, as the runtime's own sampler takes them.

    Args:
        loop: Of ``student_loop``.
        settings: Of ``sampler_settings`` for the student's scheduler.
    """
    sampler = loop.trajectory(settings)

    def moved(i: int, x: float, output: float) -> float:
        state = np.array([x])
        sampler.advance(i, state, np.array([output]))
        return float(state[0])

    steps = range(len(sampler))
    keep = tuple(moved(i, 1.0, 0.0) for i in steps)
    gain = tuple(moved(i, 0.0, 1.0) for i in steps)
    return LoopSteps(tuple(sampler.timesteps.tolist()), keep, gain)


def clean_step(process: Process, time: float) -> tuple[float, float]:
    """Return (keep, gain) of the clean sample that an output of the student implies.

    Args:
        process: The dense model's; the student's noise levels are the same, and what it predicts is
            that of ``student_scheduler``.
        time: The model's timestep.
    """
    if process.prediction == "sample":
        return 0.0, 1.0
    if process.prediction == "flow":
        return 1.0, -time / len(process)
    return float(process.signal[int(time)]), -float(process.noise[int(time)])
