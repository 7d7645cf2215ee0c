"""Several runs compared: latency against quality, and their figures side by side.

Figures that were measured or judged in unlike ways carry a mark, and a note says in what they
differ: a table without it would be read as a ranking.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffc.measure.quality import metrics_of
from diffc.measure.results import TargetResult, at_working
from diffc.report import svg
from diffc.report.blocks import Block, Chart, Code, Notes, Part, Table
from diffc.report.loops import image_words
from diffc.report.model import Report
from diffc.report.protocols import (
    Named,
    is_timed,
    judged_words,
    load_words,
    unlike_images,
    unlike_times,
)
from diffc.report.sections import build_parts
from diffc.report.speed import factor_words
from diffc.report.trainings import training_words
from diffc.report.units import change, count, milliseconds, size

_LABEL = "latency against quality; the numbers stand for the table's rows"
_MARK = " (!)"
"""Behind the name of a row whose figures cannot be compared."""


def comparison_parts(reports: Named) -> list[Part]:
    """Return the parts of the page that compares runs: (name, report) each."""
    return [
        *build_parts("Latency against quality", lambda: _latency_against_quality(reports)),
        *build_parts("Figures", lambda: comparison_blocks(reports)),
    ]


def comparison_blocks(reports: Named) -> list[Block]:
    """The figures of every run, one column a run; what cannot be compared; what to do next."""
    times, images = unlike_times(reports), unlike_images(reports)
    figures = [
        comparison_rows(report, times=bool(times), images=bool(images)) for _, report in reports
    ]
    names = dict.fromkeys(name for values in figures for name in values)
    rows = [(name, *(values.get(name, "-") for values in figures)) for name in names]
    blocks: list[Block] = [Table(rows, ("", *(name for name, _ in reports)))]
    blocks.append(Notes([*_judged(reports)]))
    if times or images:
        warnings = [f"{_MARK.strip()} {reason}" for reason in (*times, *images)]
        blocks.append(Notes(warnings, is_warning=True))
    if any(result.speedup for _, report in reports for result in report.targets):
        blocks.append(Notes([_SPEEDUPS]))
    names_to_bench = _names_to_bench(reports)
    if len(names_to_bench) > 1:
        blocks.append(Notes([_BENCH]))
        blocks.append(Code(shlex.join(["diffc", "bench", *names_to_bench])))
    return blocks


_SPEEDUPS = "a speed-up is of a run's own two sides in turn; its interval is 95 % within that run"
_BENCH = "measured now, in turn, on this machine:"


def _names_to_bench(reports: Named) -> list[str]:
    """The runs that ``diffc bench`` takes together: those with engines, if all are of one model."""
    timed = [(name, report.model) for name, report in reports if is_timed(report)]
    models = {(model.class_name, model.params, model.macs) for _, model in timed}
    return [name for name, _ in timed] if len(models) == 1 else []


def comparison_rows(report: Report, *, times: bool, images: bool) -> dict[str, str]:
    """The figures of one run: name -> text. times, images: whether those are marked."""
    at_once, judged = (_MARK if unlike else "" for unlike in (times, images))
    rows = _what(report)
    for result in report.pipeline:
        rows |= _timed(result, f"{image_words(result)}, {result.target}", at_once)
    for result in report.targets:
        place = f"one step, {result.target} {result.precision}, {result.shape_words}"
        rows |= _timed(result, place, at_once)
        if result.compressed.memory.peak_bytes is not None:
            where = f"{result.target} {result.precision}, {result.shape_words}"
            rows[f"peak memory, {where}"] = size(result.compressed.memory.peak_bytes)
    rows["load when it was timed"] = load_words(report)
    quality = report.quality or {}
    rows |= {
        metric.title(quality[metric.name]) + judged: metric.sentence(quality[metric.name])
        for metric in metrics_of(quality)
        if quality[metric.name]
    }
    return rows


def _judged(reports: Named) -> Iterator[str]:
    """By which images each run was judged: sentences, since no table is wide enough for them."""
    words = {name: judged_words(report) for name, report in reports}
    if len({*words.values()}) == 1 and all(words.values()):
        yield f"judged on {next(iter(words.values()))}"
        return
    for name, judged in words.items():
        yield f"{name}: judged on {judged}" if judged else f"{name}: not judged"


def _what(report: Report) -> dict[str, str]:
    """What was made of which model."""
    small, plan = report.compressed or report.model, report.plan or {}
    macs = change(report.model.macs, small.macs)
    return {
        "model": report.model.name,
        "ratio": _ratio_words(plan.get("why", {})),
        "distillation": training_words(report) or "none",
        "parameters": count(small.params),
        "MACs of a step": f"{count(small.macs)} ({macs})" if macs else count(small.macs),
        "weights": size(small.bytes),
    }


def _ratio_words(why: Mapping[str, Any]) -> str:
    """'0.3', '0.3 of memory': a ratio is of MACs where nothing else is said; '-' for none."""
    if why.get("ratio") is None:
        return "-"
    share_of = why.get("ratio_of", "macs")
    return f"{why['ratio']:.3g}" + ("" if share_of == "macs" else f" of {share_of}")


def _timed(result: TargetResult, place: str, mark: str) -> dict[str, str]:
    """The time of the compressed side, and its speed-up over the dense one of the same run."""
    latency = result.compressed.latency_ms
    if latency is None:
        return {}
    rows = {f"{place}{mark}": milliseconds(latency.p50)}
    if result.speedup is not None:
        rows[f"speed-up of {place}"] = factor_words(result.speedup)
    return rows


def _latency_against_quality(reports: Named) -> Iterator[Block]:
    """Latency against SSIM, compressed engines of every run."""
    points = list(_points(reports))
    if not points:
        yield Notes(["no run has both latency and SSIM"])
        return
    reasons = [*unlike_times(reports), *unlike_images(reports)]
    if reasons:
        yield Notes(reasons, is_warning=True)
    best = set() if reasons else _unbeaten(points)
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
    if not reasons:
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
