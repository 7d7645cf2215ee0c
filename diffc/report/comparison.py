"""Several runs compared: latency against quality, and their figures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffc.measure.quality import metrics_of
from diffc.measure.results import at_working
from diffc.report import svg
from diffc.report.blocks import Block, Chart, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import build_parts
from diffc.report.units import count, interval, milliseconds, size

Named = Sequence[tuple[str, Report]]
_LABEL = "latency against quality; the numbers stand for the table's rows"
_UNLIKE = (
    "these runs were measured on different machines or versions: their times cannot be compared"
)


def comparison_parts(reports: Named) -> list[Part]:
    """Return the parts of the page that compares runs: (name, report) each."""
    return [
        *build_parts("Latency against quality", lambda: _latency_against_quality(reports)),
        *build_parts("Figures", lambda: [comparison_table(reports)]),
    ]


def comparison_table(reports: Named) -> Table:
    """The figures of every run, one column per run."""
    figures = [comparison_rows(report) for _, report in reports]
    names = dict.fromkeys(name for values in figures for name in values)
    rows = [(name, *(values.get(name, "-") for values in figures)) for name in names]
    return Table(rows, ("", *(name for name, _ in reports)))


def comparison_rows(report: Report) -> dict[str, str]:
    """The figures of one run that are compared with others': name -> text."""
    small = report.compressed or report.model
    rows = {
        "model": report.model.name,
        "parameters": count(small.params),
        "MACs": count(small.macs),
        "weights": size(small.bytes),
    }
    for r in report.targets:
        place = f"{r.target} {r.precision}, {r.shape_words}"
        if r.compressed.latency_ms is not None:
            rows[f"latency p50, {place}"] = milliseconds(r.compressed.latency_ms.p50)
        if r.speedup is not None:
            rows[f"speed-up, {place}"] = f"{r.speedup.median:.2f}x {interval(r.speedup.ci95)}"
        rows[f"peak memory, {place}"] = size(r.compressed.memory.peak_bytes)
    quality = report.quality or {}
    rows |= {
        metric.title(quality[metric.name]): metric.sentence(quality[metric.name])
        for metric in metrics_of(quality)
        if quality[metric.name]
    }
    return rows


def _latency_against_quality(reports: Named) -> Iterator[Block]:
    """Latency against SSIM, compressed engines of every run."""
    points = list(_points(reports))
    if not points:
        yield Notes(["no run has both latency and SSIM"])
        return
    if _are_of_different_machines(reports):
        yield Notes([_UNLIKE], is_warning=True)
    best = _unbeaten(points)
    rows = [
        (f"{i}. {name}", milliseconds(x), f"{y:.3f}", "yes" if name in best else "")
        for i, (name, x, y) in enumerate(points, 1)
    ]
    table = Table(rows, ("", "latency p50", "SSIM", "unbeaten"))
    picture = svg.scatter(
        points, x_name="latency p50, milliseconds", y_name="SSIM to dense", label=_LABEL
    )
    yield table
    yield Chart(picture, None)
    yield Notes(["unbeaten: no other run is both faster and closer to dense"])


def _points(reports: Named) -> Iterator[tuple[str, float, float]]:
    """(name, milliseconds, SSIM) of each target of each run that has both."""
    for name, report in reports:
        ssim = ((report.quality or {}).get("ssim") or {}).get("mean")
        for r in at_working(report.targets):
            if ssim is not None and r.compressed.latency_ms is not None:
                place = f"{name}: {r.target} {r.precision}, {r.shape_words}"
                yield place, r.compressed.latency_ms.p50, float(ssim)


def _unbeaten(points: Sequence[tuple[str, float, float]]) -> set[str]:
    return {
        name
        for name, x, y in points
        if not any((a <= x and b >= y) and (a < x or b > y) for _, a, b in points)
    }


def _are_of_different_machines(reports: Named) -> bool:
    machines = {
        report.environment and report.environment.get("fingerprint")
        for _, report in reports
        if any(r.compressed.latency_ms is not None for r in report.targets)
    }
    return len(machines) > 1
