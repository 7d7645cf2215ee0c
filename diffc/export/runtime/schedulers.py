"""Samplers in numpy: from a diffusers scheduler config to the steps of a denoising loop.

    sampler = scheduler("ddim", config, steps=50)
    x = noise * sampler.init_noise_sigma
    for i, t in enumerate(sampler.timesteps):
        out = denoise(sampler.scale_input(x, i), t)
        x = sampler.step(out, i, x, noise=draw() if sampler.noise_scale[i] else None)

Every coefficient is worked out once, in tables over the steps; a step is a handful of in-place
operations on ``x`` and on scratch arrays that are made at the first step. The arithmetic keeps
diffusers' order of operations, so that the two stay together in float32 over whole trajectories.

    ddpm        Ho et al. 2020 (2006.11239), eq. 7
    ddim        Song et al. 2020 (2010.02502), eq. 12, eta = 0
    euler       Karras et al. 2022 (2206.00364), algorithm 2 without churn
    dpm++       Lu et al. 2022 (2211.01095), DPM-Solver++ 2M
    flow-euler  rectified flow, as in Esser et al. 2024 (2403.03206)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .errors import BadRequest
from .schedules import Config, Table

Array = NDArray[np.floating[Any]]
Advance = Callable[[int, Array, Array], None]
"""(i, x, model output): moves x one step in place, but for the noise added at its end."""

_CLASSES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpm++",
    "FlowMatchEulerDiscreteScheduler": "flow-euler",
}


@dataclass(frozen=True)
class Scheduler:
    """One trajectory of a sampler. Not to be shared: it holds the trajectory's scratch arrays.

    timesteps: (S,) what the model is given, first step first.
    init_noise_sigma: the standard deviation of the initial noise.
    input_divisor: (S,) what x is divided by before the model sees it.
    noise_scale: (S,) the standard deviation of the noise added at a step's end; 0 for none.
    """

    name: str
    timesteps: Table
    advance: Advance
    init_noise_sigma: float = 1.0
    input_divisor: list[float] = field(default_factory=list)
    noise_scale: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return any(self.noise_scale)

    def scale_input(self, x: Array, i: int, out: Array | None = None) -> Array:
        """What the model is given for x (B, ...) at step i; written to ``out`` when given."""
        if self.input_divisor:
            return np.divide(x, self.input_divisor[i], out=out)
        if out is None:
            return x
        np.copyto(out, x)
        return out

    def step(self, model_output: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """x (B, ...) one step on. ``x`` is overwritten and returned; so is ``noise``.

        noise: (B, ...) standard normal, for the steps at which ``noise_scale[i]`` is not zero.
        """
        self.advance(i, x, model_output)
        if self.noise_scale and self.noise_scale[i]:
            if noise is None:
                raise BadRequest(f"step {i} of '{self.name}' adds noise, and none was given")
            noise *= self.noise_scale[i]
            x += noise
        return x


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
    """The sampler that the config was made for; ``ddim`` where the runtime lacks that class.

    DDIM visits the same noise levels as every sampler of a beta schedule, so it fits any of them.
    """
    if _is_flow(config):
        return "flow-euler"
    return _CLASSES.get(str(config.get("_class_name", "")), "ddim")


def check_steps(steps: Any, limit: int) -> None:
    """Raise BadRequest unless ``steps`` is a whole number in 1..limit."""
    whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not whole or not 1 <= steps <= limit:
        raise BadRequest(f"steps must be a whole number from 1 to {limit}, not {steps!r}")


def _shared(config: Config) -> dict[str, Any]:
    """The config without the keys that only held its own class's defaults."""
    defaults = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in defaults}


def _is_flow(config: Config) -> bool:
    return "FlowMatch" in str(config.get("_class_name", ""))


def _check_process(name: str, config: Config) -> None:
    if _is_flow(config) and name != "flow-euler":
        raise BadRequest(f"scheduler '{name}' does not fit a flow-matching model; use flow-euler")
    if name == "flow-euler" and not _is_flow(config):
        raise BadRequest(
            "scheduler 'flow-euler' needs a flow-matching model; use ddpm, ddim, euler or dpm++"
        )


def _refuse(name: str, config: Config, **accepted: tuple[Any, ...]) -> None:
    """Raise BadRequest for a setting whose value is none of the accepted ones."""
    for key, values in accepted.items():
        if key in config and config[key] not in values:
            known = ", ".join(repr(value) for value in values)
            raise BadRequest(f"scheduler '{name}' has no {key} {config[key]!r} (known: {known})")


class _Scratch:
    """``count`` arrays shaped like x, made when x's shape first comes by."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.arrays: list[Array] = []

    def __call__(self, x: Array) -> list[Array]:
        if not self.arrays or self.arrays[0].shape != x.shape:
            self.arrays = [np.empty_like(x) for _ in range(self.count)]
        return self.arrays


# Predictions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clean:
    """The predicted x_0 at each step: (from_x x + from_output out) / divisor, then its limits."""

    from_x: list[float]
    from_output: list[float]
    divisor: list[float]
    limit: Callable[[Array], None] | None

    def __call__(self, i: int, x: Array, output: Array, clean: Array, work: Array) -> Array:
        """Written to ``clean``; ``work`` is scratch."""
        np.multiply(output, self.from_output[i], out=clean)
        if self.from_x[i]:
            np.multiply(x, self.from_x[i], out=work)
            clean += work
        if self.divisor[i] != 1.0:
            clean /= self.divisor[i]
        if self.limit is not None:
            self.limit(clean)
        return clean


def _clean(config: Config, signal: Table, noise: Table, clips: bool) -> _Clean:
    """x_0 from the model's output, by the config's prediction type; signal and noise (S,)."""
    prediction = config.get("prediction_type", "epsilon")
    one, zero = np.ones_like(signal), np.zeros_like(signal)
    known = {
        "epsilon": (one, -noise, signal),
        "v_prediction": (signal, -noise, one),
        "sample": (zero, one, one),
    }
    if config.get("use_flow_sigmas"):
        known["flow_prediction"] = (one, -noise, one)
    if prediction not in known:
        raise BadRequest(f"unknown prediction_type '{prediction}' (known: {', '.join(known)})")
    from_x, from_output, divisor = known[prediction]
    limit = _limit(config, clips)
    return _Clean(from_x.tolist(), from_output.tolist(), divisor.tolist(), limit)


def _limit(config: Config, clips: bool) -> Callable[[Array], None] | None:
    """What keeps x_0 in range, in place: thresholding before clipping, None for neither."""
    if config.get("thresholding"):
        ratio = float(config.get("dynamic_thresholding_ratio", 0.995))
        return partial(_threshold, ratio=ratio, top=float(config.get("sample_max_value", 1.0)))
    if clips and config.get("clip_sample", True):
        bound = float(config.get("clip_sample_range", 1.0))
        return partial(_clip, bound=bound)
    return None


def _clip(clean: Array, bound: float) -> None:
    np.clip(clean, -bound, bound, out=clean)


def _threshold(clean: Array, ratio: float, top: float) -> None:
    """Dynamic thresholding, Saharia et al. 2022 (2205.11487), section 2.3."""
    flat = clean.reshape(len(clean), -1)
    bound = np.quantile(np.abs(flat), ratio, axis=1, keepdims=True).astype(np.float32)
    bound = np.clip(bound, 1, max(top, 1.0))
    np.clip(flat, -bound, bound, out=flat)
    flat /= bound


# Samplers of a beta schedule ----------------------------------------------------------------------


def _whole(name: str, timesteps: Table, limit: int) -> NDArray[np.int64]:
    whole = np.round(timesteps).astype(np.int64)
    if whole[0] >= limit:
        raise BadRequest(
            f"scheduler '{name}' would start at timestep {whole[0]} of {limit} (steps_offset);"
            " take fewer steps"
        )
    return whole


def _ddpm(config: Config, steps: int) -> Scheduler:
    _refuse("ddpm", config, variance_type=("fixed_small", "fixed_small_log", "fixed_large"))
    bar = schedules.alpha_bar(config)
    times = _whole("ddpm", schedules.spaced(config, steps, "leading"), len(bar))
    now = bar[times]
    then = np.append(bar[times[1:]], np.float32(1.0))
    kept = now / then
    beta = np.float32(1.0) - kept
    rest = np.float32(1.0) - now
    rest_then = np.float32(1.0) - then
    small = np.maximum(rest_then / rest * beta, np.float32(1e-20))
    variance = beta if config.get("variance_type") == "fixed_large" else small
    deviation = np.where(times > 0, np.sqrt(variance), np.float32(0.0))
    clean = _clean(config, np.sqrt(now), np.sqrt(rest), clips=True)
    from_clean = (np.sqrt(then) * beta / rest).tolist()
    from_x = (np.sqrt(kept) * rest_then / rest).tolist()
    scratch = _Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        x *= from_x[i]
        x_0 *= from_clean[i]
        x += x_0

    return Scheduler("ddpm", times.astype(np.float64), advance, noise_scale=deviation.tolist())


def _ddim(config: Config, steps: int) -> Scheduler:
    bar = schedules.alpha_bar(config)
    times = _whole("ddim", schedules.spaced(config, steps, "leading"), len(bar))
    now = bar[times]
    # DDIM steps back by a fixed stride, whatever the spacing of the timesteps
    before = times - len(bar) // steps
    final = np.float32(1.0) if config.get("set_alpha_to_one", True) else bar[0]
    then = np.where(before >= 0, bar[np.maximum(before, 0)], final)
    signal, noise = np.sqrt(now), np.sqrt(np.float32(1.0) - now)
    clean = _clean(config, signal, noise, clips=True)
    epsilon = _epsilon(config, signal, noise)
    from_clean = np.sqrt(then).tolist()
    from_epsilon = np.sqrt(np.float32(1.0) - then).tolist()
    scratch = _Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        epsilon(i, x, output, work)
        x *= from_epsilon[i]
        x_0 *= from_clean[i]
        x += x_0

    return Scheduler("ddim", times.astype(np.float64), advance)


def _epsilon(
    config: Config, signal: Table, noise: Table
) -> Callable[[int, Array, Array, Array], None]:
    """Overwrites x by the noise that the model's output implies (before any clipping of x_0)."""
    a, b = signal.tolist(), noise.tolist()

    def from_epsilon(i: int, x: Array, output: Array, work: Array) -> None:
        np.copyto(x, output)

    def from_sample(i: int, x: Array, output: Array, work: Array) -> None:
        np.multiply(output, a[i], out=work)
        x -= work
        x /= b[i]

    def from_v(i: int, x: Array, output: Array, work: Array) -> None:
        x *= b[i]
        np.multiply(output, a[i], out=work)
        x += work

    known = {"epsilon": from_epsilon, "sample": from_sample, "v_prediction": from_v}
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in known:
        raise BadRequest(f"scheduler 'ddim' has no prediction_type '{prediction}'")
    return known[prediction]


# Samplers over sigmas -----------------------------------------------------------------------------


def _sigma_bar(config: Config) -> Table:
    """alpha_bar with its last value kept above zero, so that the first sigma is finite."""
    bar = schedules.alpha_bar(config)
    if config.get("rescale_betas_zero_snr"):
        bar[-1] = np.float32(2.0**-24)
    return bar


def _sigma_path(config: Config, times: Table, steps: int) -> tuple[Table, Table]:
    """Timesteps (S,) and sigmas (S + 1,), the last of them where the trajectory ends."""
    every = schedules.sigmas_of(_sigma_bar(config))
    sigmas: Table = np.interp(times, np.arange(len(every)), every)
    if config.get("use_karras_sigmas"):
        low = config.get("sigma_min") or float(every[0])
        high = config.get("sigma_max") or float(every[-1])
        sigmas = schedules.karras(low, high, steps)
        times = schedules.sigma_to_timestep(sigmas, every)
    end = every[0] if config.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return times, np.append(sigmas, end).astype(np.float32)


def _euler(config: Config, steps: int) -> Scheduler:
    _refuse(
        "euler",
        config,
        interpolation_type=("linear",),
        timestep_type=("discrete",),
        use_exponential_sigmas=(False, None),
        use_beta_sigmas=(False, None),
        final_sigmas_type=("zero", "sigma_min"),
        prediction_type=("epsilon", "v_prediction", "sample"),
    )
    times = schedules.spaced(config, steps, "linspace").astype(np.float32)
    times, sigmas = _sigma_path(config, times.astype(np.float64), steps)
    now = sigmas[:-1]
    total = np.sqrt(now**2 + 1)
    clean = _euler_clean(config, now, total)
    divisor, stride = now.tolist(), np.diff(sigmas).tolist()
    scratch = _Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        np.subtract(x, x_0, out=work)
        work /= divisor[i]
        work *= stride[i]
        x += work

    wide = config.get("timestep_spacing", "linspace") in ("linspace", "trailing")
    top = float(sigmas.max())
    return Scheduler(
        "euler",
        times.astype(np.float32).astype(np.float64),
        advance,
        init_noise_sigma=top if wide else (top**2 + 1) ** 0.5,
        input_divisor=total.tolist(),
    )


def _euler_clean(config: Config, sigma: Table, total: Table) -> _Clean:
    """x_0 in the sigma parametrisation, where x = x_0 + sigma eps; never clipped."""
    one, zero = np.ones_like(sigma), np.zeros_like(sigma)
    from_x, from_output = {
        "epsilon": (one, -sigma),
        "v_prediction": (1 / (sigma**2 + 1), -sigma / total),
        "sample": (zero, one),
    }[config.get("prediction_type", "epsilon")]
    return _Clean(from_x.tolist(), from_output.tolist(), one.tolist(), None)


def _dpm(config: Config, steps: int) -> Scheduler:
    _refuse(
        "dpm++",
        config,
        algorithm_type=("dpmsolver++",),
        solver_type=("midpoint", "heun"),
        solver_order=(1, 2),
        variance_type=(None, "fixed_small", "fixed_small_log", "fixed_large"),
        use_exponential_sigmas=(False, None),
        use_beta_sigmas=(False, None),
        use_lu_lambdas=(False, None),
        final_sigmas_type=("zero", "sigma_min"),
    )
    times, sigmas = _dpm_path(config, steps)
    flow = bool(config.get("use_flow_sigmas"))
    signal = 1 - sigmas if flow else 1 / np.sqrt(sigmas**2 + 1)
    noise = sigmas if flow else sigmas * signal
    clean = _clean(config, signal[:-1], noise[:-1], clips=False)
    from_x, from_clean, from_slope, ratio = _dpm_tables(config, signal, noise)
    scratch = _Scratch(3)

    def advance(i: int, x: Array, output: Array) -> None:
        *history, work = scratch(x)
        x_0, before = history[i % 2], history[1 - i % 2]
        clean(i, x, output, x_0, work)
        x *= from_x[i]
        np.multiply(x_0, from_clean[i], out=work)
        x -= work
        if from_slope[i]:
            np.subtract(x_0, before, out=work)
            work *= ratio[i]
            work *= from_slope[i]
            x += work

    return Scheduler("dpm++", times.astype(np.float64), advance)


def _dpm_path(config: Config, steps: int) -> tuple[NDArray[np.int64], Table]:
    """Timesteps (S,) and sigmas (S + 1,), as DPM-Solver++ places them."""
    if config.get("use_flow_sigmas"):
        return _dpm_flow_path(config, steps)
    times = _dpm_times(config, steps)
    fractions, sigmas = _sigma_path(config, times.astype(np.float64), steps)
    if config.get("use_karras_sigmas") and config.get("beta_schedule") != "squaredcos_cap_v2":
        fractions = np.round(fractions)
    return fractions.astype(np.int64), sigmas


def _dpm_times(config: Config, steps: int) -> NDArray[np.int64]:
    bar = _sigma_bar(config)
    # (T,) half the log signal-to-noise ratio; cosine schedules cut its unstable lower end
    lambdas = np.log(np.sqrt(bar)) - np.log(np.sqrt(np.float32(1.0) - bar))
    floor = float(config.get("lambda_min_clipped", -np.inf))
    last = len(bar) - int(np.searchsorted(lambdas[::-1], floor))
    spacing = config.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        times: Table = np.linspace(0, last - 1, steps + 1)[::-1][:-1]
    elif spacing == "leading":
        stride = last // (steps + 1)
        times = (np.arange(steps + 1) * stride)[::-1][:-1] + float(config.get("steps_offset", 0))
    elif spacing == "trailing":
        times = schedules.trailing(last, len(bar), steps)
    else:
        raise schedules.unknown_spacing(spacing)
    return _whole("dpm++", times, len(bar))


def _dpm_flow_path(config: Config, steps: int) -> tuple[NDArray[np.int64], Table]:
    total, shift = schedules.train_steps(config), float(config.get("flow_shift", 1.0))
    sigmas: Table = 1.0 - np.linspace(1, 1 / total, steps + 1)
    sigmas = (shift * sigmas / (1 + (shift - 1) * sigmas))[::-1][:-1]
    if config.get("final_sigmas_type", "zero") == "sigma_min":
        end = float(schedules.sigmas_of(_sigma_bar(config))[0])
    else:
        end = 0.0
    return (sigmas * total).astype(np.int64), np.append(sigmas, end).astype(np.float32)


def _dpm_tables(
    config: Config, signal: Table, noise: Table
) -> tuple[list[float], list[float], list[float], list[float]]:
    """The coefficients of x, x_0, x_0's slope, and the slope's own divisor, each (S,).

    signal, noise: (S + 1,). The last step is of first order where the noise ends at zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        lambdas = np.log(signal) - np.log(noise)
        h = np.diff(lambdas)
        ratio = np.append(np.float32(0.0), h[1:] / h[:-1])
        ends = signal[1:] * (np.exp(-h) - np.float32(1.0))
        heun = config.get("solver_type") == "heun"
        slope = signal[1:] * ((np.exp(-h) - 1) / h + 1) if heun else np.float32(-0.5) * ends
    second = _second_order(config, len(h))
    slope = np.where(second, slope, np.float32(0.0))
    ratio = np.where(second, ratio, np.float32(0.0))
    return (noise[1:] / noise[:-1]).tolist(), ends.tolist(), slope.tolist(), ratio.tolist()


def _second_order(config: Config, steps: int) -> NDArray[np.bool_]:
    """(S,) which steps use the step before: not the first, and mostly not the last."""
    second = np.full(steps, config.get("solver_order", 2) == 2)
    second[0] = False
    if (
        config.get("final_sigmas_type", "zero") == "zero"
        or config.get("euler_at_final", False)
        or (config.get("lower_order_final", True) and steps < 15)
    ):
        second[-1] = False
    return second


# Flow matching ------------------------------------------------------------------------------------


def _flow_euler(config: Config, steps: int) -> Scheduler:
    _refuse(
        "flow-euler",
        config,
        invert_sigmas=(False, None),
        use_exponential_sigmas=(False, None),
        use_beta_sigmas=(False, None),
        time_shift_type=("exponential", "linear"),
    )
    now = _flow_sigmas(config, steps)
    sigmas = np.append(now, 0.0).astype(np.float32)
    times = sigmas[:-1] * np.float32(schedules.train_steps(config))
    stochastic = bool(config.get("stochastic_sampling"))
    sigma, then = sigmas[:-1].tolist(), sigmas[1:].tolist()
    stride = np.diff(sigmas).tolist()
    scratch = _Scratch(1)

    def advance(i: int, x: Array, output: Array) -> None:
        (work,) = scratch(x)
        np.multiply(output, sigma[i] if stochastic else stride[i], out=work)
        if stochastic:
            x -= work
            x *= 1.0 - then[i]
        else:
            x += work

    noise = then if stochastic else []
    return Scheduler("flow-euler", times.astype(np.float64), advance, noise_scale=noise)


def _flow_sigmas(config: Config, steps: int) -> Table:
    """(steps,) from the noisiest level down, shifted as the config says."""
    total, shift = schedules.train_steps(config), float(config.get("shift") or 1.0)
    dynamic = bool(config.get("use_dynamic_shifting"))
    ends = np.array([total, 1], dtype=np.float32) / np.float32(total)
    if not dynamic:
        ends = shift * ends / (1 + (shift - 1) * ends)
    sigmas: Table = np.linspace(float(ends[0]) * total, float(ends[1]) * total, steps) / total
    if dynamic:
        sigmas = _dynamic_shift(config, sigmas)
    else:
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    if config.get("shift_terminal"):
        rest = 1 - sigmas
        sigmas = 1 - rest / (rest[-1] / (1 - float(config["shift_terminal"])))
    if config.get("use_karras_sigmas"):
        return schedules.karras(float(sigmas[-1]), float(sigmas[0]), steps)
    return sigmas


def _dynamic_shift(config: Config, sigmas: Table) -> Table:
    """The shift that depends on the image's size: ``mu`` in the config, else its base shift."""
    mu = config.get("mu", config.get("base_shift"))
    if mu is None:
        raise BadRequest("the scheduler shifts by the image's size: put mu in its config")
    scale = np.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu
    return np.asarray(scale / (scale + (1 / sigmas - 1)))


_BUILDERS: dict[str, Callable[[Config, int], Scheduler]] = {
    "ddpm": _ddpm,
    "ddim": _ddim,
    "euler": _euler,
    "dpm++": _dpm,
    "flow-euler": _flow_euler,
}
NAMES = tuple(_BUILDERS)
