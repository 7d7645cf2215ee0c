"""Which metrics a run wants, what it lacks for them, and their figures of a pair of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffc.measure.quality import in_order, metric, metric_package, own_metrics
from diffc.measure.quality.base import Metric, MetricFigure, Shape

if TYPE_CHECKING:
    from diffc.measure.quality.features import ReferenceImages
    from diffc.measure.samples import SamplePair
    from diffc.recipe import QualitySection
    from diffc_export.events import Work


def wanted_metrics(options: QualitySection) -> list[Metric]:
    """The metrics that a run with these options measures, in the order of tables.

    A metric of another package is measured when ``options.metrics`` names it, so that installing
    a package changes no run.

    Raises:
        RequestError: ``options.metrics`` names a metric that does not exist.
        UnavailableError: It names a metric that is broken.
    """
    chosen = [one for one in own_metrics() if one.is_wanted(options)]
    return in_order(dict.fromkeys([*chosen, *map(metric, options.metrics)]))


def metric_packages(options: QualitySection) -> list[str]:
    """The distributions whose versions decide the figures of a run with these options."""
    packages: list[str | None] = []
    for one in wanted_metrics(options):
        packages += [*one.packages, metric_package(one.name)]
    return [package for package in dict.fromkeys(packages) if package is not None]


def checked_metrics(shape: Shape, options: QualitySection) -> list[Metric]:
    """The metrics to measure of pictures of a shape, each of which has checked what it needs.

    Pictures that are too small for a metric of every run have its figure as absent; other
    metrics that they cannot have are left out.

    Raises:
        RequestError: A wanted metric needs an option that is not given.
        UnavailableError: A wanted metric needs weights or a package that are not here.
    """
    checked = []
    for one in wanted_metrics(options):
        if one.why_impossible(shape) is None:
            one.check(options)
            checked.append(one)
        elif one.always:
            checked.append(one)
    return checked


def measure_quality(
    pair: SamplePair, wanted: Sequence[Metric], reference: ReferenceImages | None = None
) -> Work[MetricFigure]:
    """The figures of a pair, by metric, as report.json holds them.

    Args:
        pair: The samples, (N, C, H, W).
        wanted: The metrics to measure.
        reference: The reference images, where there are any.

    Returns:
        Metric -> its figure, None where there is none. ``absent``, where a figure is None: metric
        -> why.
    """
    from diffc.measure.pictures import broken_samples

    figures: dict[str, MetricFigure | None] = {}
    absent: dict[str, str] = {}
    channels, height, width = pair.dense.shape[1:]
    broken = broken_samples(pair.dense, pair.compressed)
    for one in wanted:
        figure: MetricFigure | str | None = broken or one.why_impossible((channels, height, width))
        if figure is None:
            figure = yield from one.measure(pair, reference)
        if isinstance(figure, str):
            absent[one.name] = figure
        figures[one.name] = None if isinstance(figure, str) else {**figure, **pair.origin()}
    return {**figures, "absent": absent} if absent else figures
