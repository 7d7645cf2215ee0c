"""Pseudo numerical methods: Liu et al. 2022 (2202.09778), as diffusers' PNDM runs them.

The linear multistep method (PLMS), whose first step takes two calls; or, with ``skip_prk_steps``
False, three steps of Runge-Kutta before it, of four calls each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .errors import BadRequest
from .schedules import Config, Table
from .stepping import Array, Scheduler, Scratch, multiply, pairs, refuse, whole_timesteps

_RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Order -> the weights of the outputs, the newest first."""


@dataclass(frozen=True)
class _PndmCall:
    """What one call of the model is used for.

    Attributes:
        time: The timestep that the model is called at.
        start: The timestep of the sample that the step starts from.
        end: The timestep that it leads to; below 0 for the clean sample.
        weights: Of the outputs in the history, the newest first.
        own: The weight of this call's output where it does not enter the history, else 0.
        remembers: Whether this call's output enters the history.
        saves: Whether the sample is kept, for ``restores`` of later calls.
        restores: Whether the step starts from the sample that was kept.
        stage: 1 to 4 within a step of Runge-Kutta, else 0.
    """

    time: int
    start: int
    end: int
    weights: Sequence[float] = ()
    own: float = 0.0
    remembers: bool = True
    saves: bool = False
    restores: bool = False
    stage: int = 0


def pndm(config: Config, steps: int) -> Scheduler:
    """Return PNDM over ``steps`` steps.

    Raises:
        BadRequest: Settings that it does not have, or too few steps for those of Runge-Kutta.
    """
    refuse("pndm", config, prediction_type=("epsilon", "v_prediction"))
    bar = schedules.alpha_bar(config)
    times = whole_timesteps("pndm", schedules.spaced(config, steps, "leading"), len(bar))
    return _over(config, times, len(bar) // steps)


def _over(config: Config, times: NDArray[np.int64], stride: int) -> Scheduler:
    """Return PNDM at timesteps (S,), each ``stride`` after the next.

    One that begins later begins as the whole one does. diffusers' pipelines leave out the first of
    its calls instead, and so take the second timestep for the first.
    """
    bar = schedules.alpha_bar(config)
    if config.get("skip_prk_steps", True):
        calls = _multistep(times, stride)
    else:
        calls = _runge_kutta(times, stride)
    final = np.float32(1.0 if config.get("set_alpha_to_one", False) else bar[0])
    from_x, from_output = _tables(config, calls, bar, final)
    scratch = Scratch(8)
    # the newest output's place in the history at each call
    slots = np.cumsum([call.remembers for call in calls]).tolist()

    def advance(i: int, x: Array, output: Array) -> None:
        call, (work, mean, total, start, *history) = calls[i], scratch(x)
        if call.remembers:
            history[slots[i] % 4][...] = output
        multiply(output, call.own, out=mean)
        for age, weight in enumerate(call.weights):
            multiply(history[(slots[i] - age) % 4], weight, out=work)
            mean += work
        if call.stage:
            multiply(output, _RUNGE_KUTTA[call.stage - 1], out=work)
            total *= 0 if call.stage == 1 else 1
            total += work
            if call.stage == 4:
                mean[...] = total
        if call.saves:
            start[...] = x
        elif call.restores:
            x[...] = start
        x *= from_x[i]
        mean *= from_output[i]
        x -= mean

    visited = np.array([call.time for call in calls])
    at = bar[visited]
    return Scheduler(
        "pndm",
        visited.astype(np.float64),
        advance,
        levels=pairs(np.sqrt(at), np.sqrt(np.float32(1.0) - at)),
        restart=lambda step: _over(config, times[step:], stride),
    )


def _multistep(times: NDArray[np.int64], stride: int, remembered: int = 0) -> list[_PndmCall]:
    """Return the calls of PLMS at ``times``, after ``remembered`` outputs in the history.

    Without any, the second call goes back to the first step's start with the mean of two outputs.
    """
    calls = []
    for i, t in enumerate(times.tolist()):
        order = min(remembered + i + 1, 4)
        first = not remembered and not i
        calls.append(_PndmCall(t, t, t - stride, _ADAMS_BASHFORTH[order], saves=first))
        if not remembered and i == 1:
            mean = _PndmCall(t, t + stride, t, (0.5,), 0.5, remembers=False, restores=True)
            calls.insert(1, mean)
    return calls


def _runge_kutta(times: NDArray[np.int64], stride: int) -> list[_PndmCall]:
    """Return three steps of Runge-Kutta, then PLMS from the fourth timestep on."""
    if len(times) < 4:
        raise BadRequest("scheduler 'pndm' takes at least 4 steps with skip_prk_steps false")
    calls, half = [], stride // 2
    for first, then in zip(times[:3].tolist(), times[1:4].tolist(), strict=True):
        middle = then + half
        calls += [
            _PndmCall(first, first, first - half, (1.0,), saves=True, stage=1),
            *(
                _PndmCall(middle, first, end, (), 1.0, remembers=False, restores=True, stage=stage)
                for stage, end in ((2, middle), (3, middle - half))
            ),
            _PndmCall(then, first, then, (), 0.0, remembers=False, restores=True, stage=4),
        ]
    return [*calls, *_multistep(times[3:], stride, remembered=3)]


def _tables(
    config: Config, calls: Sequence[_PndmCall], bar: Table, final: np.float32
) -> tuple[list[float], list[float]]:
    """Return what x and the output are multiplied by at each call (eq. 9).

    In double precision: near pure noise the factor of x is the difference of two large numbers
    where the output is v, of which single precision leaves three digits.
    """
    now = bar[[call.start for call in calls]].astype(np.float64)
    ends = np.array([call.end for call in calls])
    then = np.where(ends >= 0, bar[np.maximum(ends, 0)], final).astype(np.float64)
    rest, rest_then = 1 - now, 1 - then
    below = now * np.sqrt(rest_then) + np.sqrt(now * rest * then)
    from_x, from_noise = np.sqrt(then / now), (then - now) / below
    if config.get("prediction_type") != "v_prediction":
        return from_x.tolist(), from_noise.tolist()
    # the noise that a v implies is sqrt(now) v + sqrt(rest) x
    from_v = from_noise * np.sqrt(now)
    return (from_x - from_noise * np.sqrt(rest)).tolist(), from_v.tolist()
