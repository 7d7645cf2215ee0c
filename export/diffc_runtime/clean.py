"""Computes x_0 from a model's output by the config's prediction type, and keeps it in range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .errors import BadRequest
from .schedules import Config, Table
from .stepping import Array, multiply


@dataclass(frozen=True)
class Clean:
    """The predicted x_0 at each step: (from_x x + from_output out) / divisor, then ``limit``.

    from_x, from_output, divisor: (S,). limit: changes x_0 in place; None for no limit.
    """

    from_x: list[float]
    from_output: list[float]
    divisor: list[float]
    limit: Callable[[Array], None] | None

    def __call__(self, i: int, x: Array, output: Array, clean: Array, work: Array) -> Array:
        """Write x_0 at step ``i`` to ``clean`` and return it; ``work`` is scratch. All (B, ...)."""
        multiply(output, self.from_output[i], out=clean)
        if self.from_x[i]:
            multiply(x, self.from_x[i], out=work)
            clean += work
        if self.divisor[i] != 1.0:
            clean /= self.divisor[i]
        if self.limit is not None:
            self.limit(clean)
        return clean


def predicted_clean(config: Config, signal: Table, noise: Table, clips: bool) -> Clean:
    """Return the formula for x_0, by the config's prediction type.

    Args:
        signal: (S,) the factor of x_0 in x at each step.
        noise: (S,) the factor of the noise in x.
        clips: Whether the sampler clips x_0 if the config does not say otherwise.

    Raises:
        BadRequest: The prediction type is unknown.
    """
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
    limit = clipped(config, clips)
    return Clean(from_x.tolist(), from_output.tolist(), divisor.tolist(), limit)


def clipped(config: Config, clips: bool) -> Callable[[Array], None] | None:
    """Return a function that keeps x_0 in range, in place; None for no limit.

    Thresholding goes before clipping.
    """
    if config.get("thresholding"):
        ratio = float(config.get("dynamic_thresholding_ratio", 0.995))
        return partial(_threshold, ratio=ratio, top=float(config.get("sample_max_value", 1.0)))
    if clips and config.get("clip_sample", True):
        bound = float(config.get("clip_sample_range", 1.0))
        return partial(_clip, bound=bound)
    return None


def _clip(clean: Array, bound: float) -> None:
    clean[...] = clean.clip(-bound, bound)


def _threshold(clean: Array, ratio: float, top: float) -> None:
    """Dynamic thresholding, Saharia et al. 2022 (2205.11487), section 2.3."""
    for i in range(len(clean)):
        row = clean[i]
        quantile = np.quantile(np.abs(_as_numpy(row)), ratio).astype(np.float32)
        bound = float(np.clip(quantile, 1, max(top, 1.0)))
        row[...] = row.clip(-bound, bound)
        row /= bound


def _as_numpy(x: Array) -> Array:
    """Return an array as numpy's: a tensor on a GPU is copied from it first."""
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x)
