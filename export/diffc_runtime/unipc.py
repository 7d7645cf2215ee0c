"""UniPC: Zhao et al. 2023 (2302.04867), multistep, of x_0, with B(h) of either kind.

A step corrects x by the output at its own timestep, then predicts the next x. Both are sums of x,
of earlier x_0 and of the new one, whose weights are computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .clean import predicted_clean
from .dpm import solver_times
from .schedules import Config, Table
from .stepping import Array, Scheduler, Scratch, multiply, pairs, refuse

_MOST_ORDER = 3


@dataclass(frozen=True)
class _Weights:
    """x <- from_x x + the sum of from_clean[k] x_0 of k calls ago + from_new x_0 of this call."""

    from_x: float
    from_clean: list[float]
    from_new: float = 0.0


def unipc(config: Config, steps: int) -> Scheduler:
    """Return UniPC over ``steps`` steps. Raises BadRequest for settings that it does not have."""
    refuse(
        "unipc",
        config,
        solver_order=(1, 2, 3),
        solver_type=("bh2", "bh1", "midpoint", "heun", "logrho"),
        predict_x0=(True,),
        lower_order_final=(True,),
        disable_corrector=([], ()),
        solver_p=(None,),
        use_beta_sigmas=(False, None),
        use_dynamic_shifting=(False, None),
        shift_terminal=(None,),
        final_sigmas_type=("zero", "sigma_min"),
    )
    times, sigmas = _path(config, steps)
    return _over(config, times, sigmas)


def _over(config: Config, times: NDArray[np.int64], sigmas: Table) -> Scheduler:
    """Return UniPC at timesteps (S,) and sigmas (S + 1,)."""
    signal, noise = schedules.rates(config, sigmas)
    clean = predicted_clean(config, signal[:-1], noise[:-1], clips=False)
    predictors, correctors = _tables(config, signal.astype(float), noise.astype(float))
    scratch = Scratch(_MOST_ORDER + 3)

    def advance(i: int, x: Array, output: Array) -> None:
        work, last, *history = scratch(x)
        new = history[i % len(history)]
        clean(i, x, output, new, work)
        if i:
            x[...] = last
            x *= correctors[i - 1].from_x
            _add(x, correctors[i - 1].from_clean, history, i - 1, work)
            multiply(new, correctors[i - 1].from_new, out=work)
            x += work
        last[...] = x
        x *= predictors[i].from_x
        _add(x, predictors[i].from_clean, history, i, work)

    return Scheduler(
        "unipc",
        times.astype(np.float64),
        advance,
        levels=pairs(signal[:-1], noise[:-1]),
        restart=lambda step: _over(config, times[step:], sigmas[step:]),
    )


def _add(x: Array, weights: list[float], history: list[Array], newest: int, work: Array) -> None:
    for age, weight in enumerate(weights):
        multiply(history[(newest - age) % len(history)], weight, out=work)
        x += work


def _path(config: Config, steps: int) -> tuple[NDArray[np.int64], Table]:
    """Return timesteps (S,) and sigmas (S + 1,), as diffusers' UniPC places them."""
    total = schedules.train_steps(config)
    if config.get("use_flow_sigmas"):
        shift = float(config.get("flow_shift", 1.0))
        flow: Table = np.linspace(1, 1 / total, steps + 1)[:-1]
        flow = shift * flow / (1 + (shift - 1) * flow)
        flow[0] -= 1e-6 if abs(flow[0] - 1) < 1e-6 else 0.0  # log(1 - sigma) has to be finite
        end = float(flow[-1]) if config.get("final_sigmas_type") == "sigma_min" else 0.0
        return (flow * total).astype(np.int64), np.append(flow, end).astype(np.float32)
    times = solver_times("unipc", config, steps, total)
    fractions, sigmas = schedules.sigma_path(config, times.astype(np.float64), steps, True)
    placed = config.get("use_karras_sigmas") or config.get("use_exponential_sigmas")
    if placed and config.get("final_sigmas_type") == "sigma_min":
        sigmas[-1] = sigmas[-2]
    if config.get("use_karras_sigmas"):
        fractions = np.round(fractions)
    return fractions.astype(np.int64), sigmas


def _tables(config: Config, signal: Table, noise: Table) -> tuple[list[_Weights], list[_Weights]]:
    """Return the weights of every step's predictor, and of the corrector after it."""
    with np.errstate(divide="ignore"):
        lambdas = np.log(signal) - np.log(noise)
    steps, most = len(signal) - 1, int(config.get("solver_order", 2))
    predictors, correctors = [], []
    for i in range(steps):
        order = min(most, steps - i, i + 1)
        h = float(lambdas[i + 1] - lambdas[i])
        ages = [float(lambdas[i - k] - lambdas[i]) / h for k in range(1, order)]
        bh1 = config.get("solver_type", "bh2") == "bh1"
        scale = -h if bh1 and math.isfinite(h) else math.expm1(-h)
        both = float(noise[i + 1] / noise[i]), float(signal[i + 1]), h, scale
        predictors.append(_weights(both, ages, _predictor(ages, h, scale)))
        if math.isfinite(h):
            *rest, new = _corrector(ages, h, scale)
            correctors.append(_weights(both, ages, rest, new))
    return predictors, correctors


def _weights(
    step: tuple[float, float, float, float], ages: list[float], rhos: list[float], new: float = 0.0
) -> _Weights:
    """Return the sum that eq. 9 of the paper is, with one rho for each earlier x_0."""
    from_x, signal, h, scale = step
    shares = [rho / age for rho, age in zip(rhos, ages, strict=True)]
    newest = -signal * math.expm1(-h) + signal * scale * (sum(shares) + new)
    return _Weights(
        from_x, [newest, *(-signal * scale * share for share in shares)], -signal * scale * new
    )


def _predictor(ages: list[float], h: float, scale: float) -> list[float]:
    if len(ages) < 2:
        return [0.5] * len(ages)
    return _solved(ages, h, scale)


def _corrector(ages: list[float], h: float, scale: float) -> list[float]:
    return _solved([*ages, 1.0], h, scale) if ages else [0.5]


def _solved(ages: list[float], h: float, scale: float) -> list[float]:
    """Return rho of the system R rho = b (the paper's eq. 5), one for each of ``ages``."""
    order = len(ages)
    left = np.array([[age**power for age in ages] for power in range(order)])
    right, phi, factorial = [], math.expm1(-h) / -h - 1, 1.0
    for power in range(1, order + 1):
        right.append(phi * factorial / scale)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    solved: list[float] = np.linalg.solve(left, np.array(right)).tolist()
    return solved
