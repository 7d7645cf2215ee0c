"""Metrics of the samples' quality: one file each, found by its name.

base.py                       the facts of a metric
ssim.py, psnr.py, lpips.py    of pairs of images from the same noise
frechet.py, kernel.py         of each side's images to reference images (FID and KID)
features.py                   the networks and the reference images of such distances
own_frechet.py, own_kernel.py the same distances on features of the dense model itself
own_distance.py, own_features.py  what these two share, and the features
measuring.py                  the metrics that a run wants, their checks, their figures

Another package adds a metric with an entry point of the group ``diffc.metrics``
(docs/extending.md). Neither this file nor a metric's imports torch at its top: reports ask metrics
for their names and digits.
"""

from __future__ import annotations

from collections.abc import Iterable

from diffc.errors import RequestError, UnavailableError
from diffc.measure.quality.base import Metric, UnknownMetric
from diffc_export.discovery import Registry
from diffc_runtime.json_types import JsonObject


def metric(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        RequestError: No metric is called so, or two are.
        UnavailableError: It is another package's and is broken.
    """
    return _METRICS.get(name)


def metric_names() -> list[str]:
    """Every metric's name, diffc's own first. Nothing is imported."""
    return _METRICS.names()


def own_metrics() -> list[Metric]:
    """diffc's own metrics, in the order of tables."""
    return in_order(map(metric, _METRICS.own_names()))


def broken_metrics() -> dict[str, str]:
    """Name -> one line on why a metric of another package cannot be used."""
    return _METRICS.problems()


def metric_package(name: str) -> str | None:
    """The distribution that adds the metric; None for one of diffc's own."""
    return _METRICS.package_of(name)


def reported_metric(name: str) -> Metric:
    """The metric of a figure in a report, which may come from a package that is not here."""
    try:
        return metric(name)
    except (RequestError, UnavailableError):
        return UnknownMetric(name)


def metrics_of(quality: JsonObject) -> list[Metric]:
    """The metrics of a report's figures, in the order of tables."""
    return in_order(reported_metric(name) for name in quality if name not in _NO_METRICS)


def in_order(some: Iterable[Metric]) -> list[Metric]:
    """Metrics in the order of tables."""
    return sorted(some, key=_place)


def _place(one: Metric) -> tuple[int, str]:
    return one.order, one.name


_NO_METRICS = ("absent", "prompts")
"""Keys of a report's figures that are no metric's."""


def _fault(name: str, thing: object) -> str:
    """The fault of another distribution's metric; empty for a whole one."""
    if not isinstance(thing, Metric):
        return "its METRIC is not an instance of diffc.measure.quality.base.Metric"
    missing = [part for part in ("name", "label", "better") if not hasattr(thing, part)]
    if missing:
        return f"it sets no {missing[0]}"
    if thing.better not in ("higher", "lower"):
        return f"better is '{thing.better}', and not one of 'higher', 'lower'"
    if thing.name != name:
        return f"it calls itself '{thing.name}'"
    return ""


_METRICS: Registry[Metric] = Registry("metric", __name__, "METRIC", fault=_fault)
