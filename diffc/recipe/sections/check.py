"""``check``: what ``diffc check`` allows."""

from __future__ import annotations

from pydantic import Field

from diffc.recipe.sections.base import RecipeSection
from diffc.recipe.words import Fraction, Limit, MetricLimits, MetricLimitsOrOff, Share


class CheckSection(RecipeSection):
    """``check``: what ``diffc check`` allows.

    A limit is a text: how much more than the baseline's is allowed (``5%``), or the most that is
    allowed whatever the baseline has (``500MB``, ``90s``). None: measured and reported, but not
    judged.

    Attributes:
        max_slowdown: of the median latency.
        max_mean_slowdown: of the mean latency.
        max_memory: of the peak memory.
        max_engine_size: of the engine's files.
        max_build_time: of the engine's build.
        max_worse: metric -> by how much its value of the samples may be worse than the baseline's;
            None: by any amount. What is not named has the metric's own (0.02 of SSIM).
        limits: metric -> the worst value of the samples that is allowed (diffc/measure/quality).
        min_ssim: the lowest SSIM of compressed to dense, as ``ssim`` in ``limits``.
        pairs: pairs of runs before the first verdict of the sequential rule (gate/rule.py).
        most_pairs: pairs at which the rule gives up.
        seconds: time at which the rule gives up, for one figure.
        require_ahead: True fails where a dense loop of the same time is better (the frontier).
        time_loop: True times whole images too, each side by its own loop.
    """

    max_slowdown: Share = "5%"
    max_mean_slowdown: Share | None = None
    max_memory: Limit | None = "5%"
    max_engine_size: Limit | None = "5%"
    max_build_time: Limit | None = None
    max_worse: MetricLimitsOrOff = Field(default_factory=dict)
    limits: MetricLimits = Field(default_factory=dict)
    min_ssim: Fraction | None = None
    pairs: int = Field(default=20, ge=10)
    most_pairs: int = Field(default=320, ge=10)
    seconds: float = Field(default=60.0, gt=0)
    require_ahead: bool = False
    time_loop: bool = True
