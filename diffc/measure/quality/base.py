"""The facts of a metric: one class in one small file, found by its name.

A metric turns the dense and the compressed model's samples into one figure. Its file states what
the figure is called and how it is written, whether a higher value is better, which pictures and
weights it needs, how it is measured, and whether ``diffc check`` can hold it to a limit. The
recipe, the checks before a run, ``diffc eval``, the report and the gate ask the metrics and know
none by name.

    Metric        everything, with defaults
    PairMetric    the mean of a value for each pair of images, with its 95 % interval
    UnknownMetric a figure of a report whose metric is not installed here

Metric files import no torch at the top, since reports ask for names and digits. What needs torch
is imported inside the method that uses it.
"""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from diffc.errors import InputError, RequestError, UnavailableError
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from torch import Tensor

    from diffc.measure.quality.features import ReferenceImages
    from diffc.measure.samples import SamplePair
    from diffc.recipe import QualitySection

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of a picture."""
MetricFigure: TypeAlias = JsonDict
"""What report.json holds of one metric: ``mean`` (and ``ci95``) of a figure over pairs, and the
value of ``each`` pair; ``dense`` and ``compressed`` (and ``se`` for each side) of a figure of
either side; whatever else the figure depends on. How the samples were made (sampler, steps,
spacing, seeds, guidance, n) is added."""


class Metric(ABC):
    """A figure of the compressed model's samples.

    A subclass must set ``name``, ``label`` and ``better`` and define ``measure``. Everything else
    has a default that holds for a metric of any pictures, measured on request.
    """

    name: str
    """Its name in ``--metric``, and the key of its figure in report.json."""
    label: str
    """Its name in tables."""
    better: ClassVar[Literal["higher", "lower"]]
    """Which values are better."""
    unit: ClassVar[str] = ""
    """The unit of a value: ``dB``; empty for a pure number."""
    digits: ClassVar[int] = 3
    """Digits behind the point."""
    order: ClassVar[int] = 100
    """The place in tables: smaller ones first, equal ones by name."""
    note: ClassVar[str] = ""
    """A sentence under every table that has the figure."""

    always: ClassVar[bool] = False
    """Whether every run measures it; otherwise a run measures it on request."""
    in_headline: ClassVar[bool] = False
    """Whether a report's headline shows it."""
    uses_reference: ClassVar[bool] = False
    """Whether it compares with reference images (``--reference``)."""
    least_side: ClassVar[int] = 1
    """The smallest height and width of the pictures that it takes."""
    channels: ClassVar[tuple[int, ...]] = ()
    """The numbers of channels that it takes; empty for any."""
    subject: ClassVar[str] = ""
    """The subject of the sentence on why it is left out; empty for ``LABEL is``."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide the figure. They are part of the cache's keys."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that it imports. A run is refused before its work where one is not installed."""

    limits: ClassVar[tuple[float, float] | None] = None
    """The values that a limit of ``diffc check`` may have: above the first, at most the second.
    None where the gate cannot judge the figure."""
    most_worse: ClassVar[float | None] = None
    """By how much the candidate's value may be worse than the baseline's in every ``diffc check``.
    None where it is judged on request only."""
    in_every_check: ClassVar[bool] = False
    """Whether ``diffc check`` shows the figure without a limit too."""
    depends_on: ClassVar[tuple[str, ...]] = (
        "loop",
        "spacing",
        "reference_loop",
        "reference_spacing",
        "seeds",
        "n",
    )
    """Keys of the figure that two figures must share to be compared."""

    def is_wanted(self, options: QualitySection) -> bool:
        """True where a run with these options measures it."""
        return self.always or self.name in options.metrics

    def why_impossible(self, shape: Shape) -> str | None:
        """A sentence on why pictures of a shape cannot have the figure; None where they can."""
        start = f"{self.subject or f'{self.label} is'} left out:"
        if self.channels and shape[0] not in self.channels:
            takes = " or ".join(map(str, self.channels))
            return f"{start} the samples have {shape[0]} channels, not {takes}"
        if min(shape[1:]) < self.least_side:
            least = f"{self.least_side}x{self.least_side}"
            return (
                f"{start} it needs pictures of at least {least}, and these are "
                f"{shape[1]}x{shape[2]}"
            )
        return None

    def check(self, options: QualitySection) -> None:
        """Refuse what the figure lacks, before the run's work. Imports none of ``modules``.

        Raises:
            UnavailableError: A package or weights file is not on this machine.
            RequestError: The options name no reference images, and it needs them.
        """
        if self.uses_reference and options.reference is None:
            raise RequestError(
                f"{self.label} compares with reference images, and none are given",
                hint="--reference IMAGES",
            )
        for module in self.modules:
            if find_spec(module) is None:
                raise UnavailableError(f"{self.label} needs {module}", hint=f"pip install {module}")

    def prepare(self, reference: ReferenceImages | None) -> Work[None]:
        """Do what can be done, and can fail, before the samples are made: that takes long.

        Args:
            reference: The reference images, where the run has any.
        """
        yield from ()

    @abstractmethod
    def measure(
        self, pair: SamplePair, reference: ReferenceImages | None
    ) -> Work[MetricFigure | str]:
        """Measure the figure.

        Args:
            pair: Images of both sides from the same noise, finite, (N, C, H, W) about [-1, 1].
            reference: The reference images, where the run has any.

        Returns:
            The figure, or a sentence on why these images have none.
        """

    def title(self, figure: JsonObject) -> str:
        """The figure's name in tables."""
        return self.label

    def value(self, figure: JsonObject) -> float | None:
        """The compressed side's value, which the gate judges and headlines show."""
        value = figure.get("mean", figure.get("compressed"))
        return float(value) if isinstance(value, int | float) else None

    def as_text(self, value: float | None) -> str:
        """A value as tables show it; a dash for what is not a finite number."""
        if value is None or not math.isfinite(value):
            return "-"
        return f"{value:.{self.digits}f}"

    def sentence(self, figure: JsonObject) -> str:
        """The compressed side's value with its interval or standard error, in one cell."""
        value = self.as_text(self.value(figure))
        if "mean" in figure:
            ends = [self.as_text(end) for end in figure.get("ci95") or (None,)]
            return f"{value} -" if "-" in ends else f"{value} [{', '.join(ends)}]"
        error = figure.get("se", {}).get("compressed")
        return value if error is None else f"{value} ± {error:.2g}"

    def is_within(self, value: float, limit: float) -> bool:
        """True for a value that keeps a limit: at least the limit where higher is better."""
        return value >= limit if self.better == "higher" else value <= limit


class PairMetric(Metric):
    """The mean of one value for each pair of images, with Student's t 95 % interval.

    A subclass defines ``values``. The interval covers the choice of noise and nothing else.
    """

    possible: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """The least and the greatest value that a pair can have: no interval goes beyond."""
    facts: ClassVar[JsonObject] = {}
    """What stands in the figure beside the values: the network, the range of intensities."""

    @abstractmethod
    def values(self, dense: Tensor, compressed: Tensor) -> list[float]:
        """One value for each pair of images (N, C, H, W), clipped to [-1, 1]."""

    def of_pairs(self, dense: Tensor, compressed: Tensor) -> list[float]:
        """The values of images (N, C, H, W), which are clipped to [-1, 1] first.

        Raises:
            InputError: The two are not of one shape, or empty.
        """
        if dense.shape != compressed.shape or not len(dense):
            raise InputError(
                f"samples of shapes {tuple(dense.shape)} and {tuple(compressed.shape)} "
                "cannot be compared pair by pair"
            )
        return self.values(dense.float().clamp(-1, 1), compressed.float().clamp(-1, 1))

    def measure(
        self, pair: SamplePair, reference: ReferenceImages | None
    ) -> Work[MetricFigure | str]:
        """The mean over the pairs, and how the samples were made."""
        yield Progress(0, len(pair.dense), f"measuring {self.label}")
        return self.figure(self.of_pairs(pair.dense, pair.compressed))

    def figure(self, values: Sequence[float]) -> MetricFigure | str:
        """The figure of the values, or why there is none. ``each`` has the value of every pair."""
        from diffc.measure.statistics import estimate

        count = sum(not math.isfinite(value) for value in values)
        if count:
            return f"{self.label} of {count} of {len(values)} pairs is not finite"
        each = [round(value, 6) for value in values]
        return {**estimate(values, self.possible).as_dict(), **self.facts, "each": each}


class UnknownMetric(Metric):
    """The metric of a report's figure whose package is not installed here."""

    better = "higher"

    def __init__(self, name: str) -> None:
        self.name = self.label = name

    def measure(
        self, pair: SamplePair, reference: ReferenceImages | None
    ) -> Work[MetricFigure | str]:
        """Refuse: only a report knows this metric."""
        yield from ()
        return f"no metric is called {self.name}"


def hub_folder() -> Path:
    """``torch.hub.get_dir()``, without the import of torch: a refusal has to come at once."""
    torch = sys.modules.get("torch")
    if torch is not None:  # torch.hub.set_dir may have changed it
        return Path(torch.hub.get_dir())
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    home = os.getenv("TORCH_HOME", f"{cache}/torch")
    # as torch does it: without a home folder nothing is there, and that is no error
    return Path(os.path.expanduser(home)) / "hub"  # noqa: PTH111
